/**
 * What the documents say of the environment variables, made from the table that the program itself checks by.
 *
 *   npx tsx test/helpers/docs.ts    writes README.md's table and .env.example anew
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describeVariables } from '../../src/environment.js'

/** A file of the project, by its path from the top. */
export function pathOf(name: string): string {
  return fileURLToPath(new URL(`../../${name}`, import.meta.url))
}

const MARKS = ['<!-- env:start -->', '<!-- env:end -->'] as const

/** README.md with its table of variables as it should be. Throws if the marks around the table are gone. */
export function withEnvTable(readme: string): string {
  const [start, end] = MARKS.map((mark) => readme.indexOf(mark)) as [number, number]
  if (start < 0 || end < start) throw new Error(`README.md must have the marks ${MARKS.join(' and ')}`)
  const rows = describeVariables().map(
    ({ name, description, fallback }) => `| \`${name}\` | ${description} | ${fallback} |`,
  )
  const table = ['| variable | what it is | when absent |', '| --- | --- | --- |', ...rows].join('\n')
  return `${readme.slice(0, start + MARKS[0].length)}\n${table}\n${readme.slice(end)}`
}

/** The whole of .env.example. */
export function envExample(): string {
  const entries = describeVariables().map(
    ({ name, description, fallback }) => `# ${description}\n# When absent: ${fallback}.\n#${name}=\n`,
  )
  return `# Every setting of Lockstep; all may be absent in development. Copy to .env and fill in what you need.\n\n${entries.join('\n')}`
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(pathOf('README.md'), withEnvTable(readFileSync(pathOf('README.md'), 'utf8')))
  writeFileSync(pathOf('.env.example'), envExample())
}
