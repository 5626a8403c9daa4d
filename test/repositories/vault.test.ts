import { randomBytes } from 'node:crypto'
import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { ERASED, isSealed, makeVault } from '../../src/repositories/vault.js'
import { openTables } from './helpers.js'

const KEYS = [randomBytes(32)]
const WHERE = 'sync_conflicts.local'

t.test("a person's seal", async (t) => {
  const { db, tenantId } = await openTables(t)
  let now = Date.now()
  const process = () => makeVault({ keys: KEYS, now: () => now })
  const [one, other] = [process(), process()]
  const [ada, bob] = [newId(), newId()]

  t.test('opens in every process, and for nobody else', async (t) => {
    const [first, second] = await Promise.all([one.person(db, tenantId, ada), other.person(db, tenantId, ada)])
    const sealed = first.seal({ city: 'Zürich' }, WHERE)
    t.ok(isSealed(sealed))
    t.notMatch(JSON.stringify(sealed), /rich/)
    t.strictSame(second.open(sealed, WHERE), { city: 'Zürich' })
    const bobs = await one.person(db, tenantId, bob)
    t.throws(() => bobs.open(sealed, WHERE), { code: 'unseal_failed' })
    t.throws(() => first.open(sealed, 'elsewhere'), { code: 'unseal_failed' })
    t.strictSame([first.seal(null, WHERE), first.open(null, WHERE), first.open('plain', WHERE)], [null, null, 'plain'])
    t.same(first.fingerprint('x'), second.fingerprint('x'))
    t.notSame(first.fingerprint('x'), bobs.fingerprint('x'))
  })

  t.test('a key of a transaction that was rolled back is not used after it', async (t) => {
    const eve = newId()
    const work = db.transaction(async (tx) => {
      t.ok((await one.person(tx, tenantId, eve)).isReadable)
      throw new Error('rolled back')
    })
    await t.rejects(work, /rolled back/)
    const sealed = (await one.person(db, tenantId, eve)).seal('hers', WHERE)
    t.equal((await process().person(db, tenantId, eve)).open(sealed, WHERE), 'hers')
  })

  t.test('nothing opens once the key is destroyed, and no new one is made', async (t) => {
    const sealed = (await one.person(db, tenantId, ada)).seal('hers', WHERE)
    await one.destroy(db, tenantId, ada)
    for (const vault of [one, process()]) {
      const seal = await vault.person(db, tenantId, ada)
      t.notOk(seal.isReadable)
      t.equal(seal.open(sealed, WHERE), ERASED)
      t.equal(seal.open(seal.seal('later', WHERE), WHERE), ERASED)
    }
    t.equal((await other.person(db, tenantId, ada)).isReadable, true, 'another process has it at hand for some seconds')
    now += 10_001
    t.equal((await other.person(db, tenantId, ada)).isReadable, false)

    const never = newId()
    await one.destroy(db, tenantId, never)
    t.notOk((await one.person(db, tenantId, never)).isReadable, 'who had no key gets none')
  })

  t.test('several at once', async (t) => {
    const seals = await process().people(db, tenantId, [ada, bob, newId()])
    t.strictSame([...seals.keys()].sort(), [ada, bob].sort())
  })
})
