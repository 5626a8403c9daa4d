import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'

/** How many scenarios the fact sheet has (section 10). */
const SCENARIOS = 40

t.test('each of the forty scenarios is a test of its own, once', async (t) => {
  const files = readdirSync(new URL('.', import.meta.url)).filter((name) => name.endsWith('.test.ts'))
  const found = files.flatMap((name) => {
    const source = readFileSync(new URL(name, import.meta.url), 'utf8')
    return [...source.matchAll(/\bt\.test\(\s*['"`](\d+)\. \S/g)].map(([, number]) => Number(number))
  })
  t.strictSame(
    found.sort((a, b) => a - b),
    Array.from({ length: SCENARIOS }, (_, n) => n + 1),
  )
})
