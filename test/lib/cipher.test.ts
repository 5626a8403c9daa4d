import { randomBytes } from 'node:crypto'
import t from 'tap'
import { makeCipher, parseKeys, sealedWith, UnsealError } from '../../src/lib/cipher.js'

t.test('what is sealed opens again, in its place only', async (t) => {
  const cipher = makeCipher([randomBytes(32)])
  for (const text of ['', 'Zoë', 'x'.repeat(100_000), '\u0000"']) {
    const sealed = cipher.seal(text, 'table.column/1')
    t.equal(sealedWith(sealed), cipher.keyId)
    t.equal(cipher.open(sealed, 'table.column/1'), text)
    t.throws(() => cipher.open(sealed, 'table.column/2'), UnsealError)
  }
  t.not(cipher.seal('same', ''), cipher.seal('same', ''), 'never twice the same')
})

t.test('what was changed does not open', async (t) => {
  const cipher = makeCipher([randomBytes(32)])
  const sealed = cipher.seal('secret', 'here')
  const start = sealed.lastIndexOf('.') + 1
  for (let at = start; at < sealed.length - 1; at += 1) {
    const other = sealed[at] === 'A' ? 'B' : 'A'
    t.throws(() => cipher.open(`${sealed.slice(0, at)}${other}${sealed.slice(at + 1)}`, 'here'), UnsealError)
  }
  for (const text of ['', 'v1..', 'secret', `v1.${cipher.keyId}.`, sealed.slice(0, -4)])
    t.throws(() => cipher.open(text, 'here'), UnsealError)
})

t.test('a new key seals, the retired one still opens, a foreign one is named', async (t) => {
  const [old, now] = [randomBytes(32), randomBytes(32)]
  const before = makeCipher([old])
  const after = makeCipher([now, old])
  const sealed = before.seal('secret', '')
  t.equal(after.open(sealed, ''), 'secret')
  t.equal(sealedWith(after.seal('secret', '')), after.keyId)
  t.throws(() => makeCipher([now]).open(sealed, ''), {
    message: new RegExp(`${before.keyId}.*LOCKSTEP_ENCRYPTION_KEY`),
  })
})

t.test('keys are read from base64, base64url and hex', async (t) => {
  const key = randomBytes(32)
  const texts = [
    key.toString('base64'),
    key.toString('base64url'),
    key.toString('hex'),
    key.toString('hex').toUpperCase(),
  ]
  for (const read of parseKeys(` ${texts.join(' , ')} `)) t.ok(key.equals(read))
  t.throws(() => makeCipher([]), TypeError)
  t.throws(() => makeCipher([randomBytes(16)]), TypeError)
})
