import { readFileSync } from 'node:fs'
import t from 'tap'
import { MUTATIONS } from './mutations.js'

t.test('each mutation still finds what it breaks, once', async (t) => {
  for (const { name, edits } of MUTATIONS) {
    for (const { file, find } of edits) {
      const source = readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
      t.equal(source.split(find).length - 1, 1, `${name}: ${file}`)
    }
  }
})
