import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadOrCreateSecret } from '../../src/embedded/secrets.js'

t.test('a secret is made once and then read', async (t) => {
  const dataDir = t.testdir()
  const first = await loadOrCreateSecret(dataDir, 'key')
  const second = await loadOrCreateSecret(dataDir, 'key')
  t.match(first, { created: true, value: /^[\w-]{43}$/ })
  t.same(second, { created: false, value: first.value })
  t.equal((await stat(join(dataDir, 'secrets', 'key'))).mode & 0o777, 0o600)
  t.not((await loadOrCreateSecret(dataDir, 'other')).value, first.value)
})

t.test('those who ask at once get the same one', async (t) => {
  const dataDir = t.testdir()
  let made = 0
  const make = () => {
    made += 1
    return `whsec_${made}`
  }
  const all = await Promise.all(Array.from({ length: 10 }, () => loadOrCreateSecret(dataDir, 'key', make)))
  t.equal(new Set(all.map(({ value }) => value)).size, 1)
  t.equal(all.filter(({ created }) => created).length, 1)
})

t.test('a folder that cannot be written is an error, not a secret nobody can find again', async (t) => {
  const dataDir = join(t.testdir({ file: '' }), 'file')
  await t.rejects(loadOrCreateSecret(dataDir, 'key'), { code: 'ENOTDIR' })
})
