import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { loadConfig } from '../../src/config.js'
import { openCore } from '../../src/core.js'
import { makeCipher } from '../../src/lib/cipher.js'
import { newId } from '../../src/lib/ids.js'
import { makeLifecycle } from '../../src/lib/lifecycle.js'
import { stripeKeyContext, webhookSecretContext } from '../../src/models/tenant.js'
import { makeDb } from '../../src/repositories/database.js'
import { readBatch, storeDeliveries } from '../../src/repositories/delivery-batches.js'
import { refuseUnknownKeys, resealAll, sealingKeyIds } from '../../src/repositories/sealed.js'
import { insertEvents, lockPendingEvent, type NewEvent } from '../../src/repositories/stripe-events.js'
import { makeVault } from '../../src/repositories/vault.js'
import { cloneDatabase } from '../helpers/database.js'
import { testLog } from '../helpers/log.js'

const WHERE = 'sync_conflicts.local'
const PEOPLE = 1_203
const BATCHES = 25
const EVENTS = 2
/** The tenant's three secrets, the keys of all but one, what was delivered, and the payloads. */
const SEALED = 3 + PEOPLE - 1 + BATCHES + EVENTS

/** A tenant's secrets, many people's keys and some payloads, all sealed with the key `old`. */
async function openSealed(t: Test, old: Uint8Array) {
  const { pool, url } = await cloneDatabase(t)
  const db = makeDb(pool)
  const tenantId = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string
  const vault = makeVault({ keys: [old], now: Date.now })
  const { cipher } = vault
  await pool.query('update tenants set stripe_secret_key = $2, stripe_webhook_secrets = $3 where id = $1', [
    tenantId,
    cipher.seal('sk_test_own', stripeKeyContext(tenantId)),
    ['whsec_a', 'whsec_b'].map((secret) => cipher.seal(secret, webhookSecretContext(tenantId))),
  ])
  const people = Array.from({ length: PEOPLE }, () => newId())
  const sealed = new Map<string, unknown>()
  await db.transaction(async (tx) => {
    for (const id of people) sealed.set(id, (await vault.person(tx, tenantId, id)).seal(id, WHERE))
  })
  await insertEvents(
    db,
    cipher,
    Array.from({ length: EVENTS }, (_, n) => eventOf(tenantId, `evt_${n}`)),
  )
  for (let n = 0; n < BATCHES; n += 1) {
    await storeDeliveries(db, cipher, [{ tenantId, isQuarantined: false, text: JSON.stringify({ id: `evt_new${n}` }) }])
  }
  const [gone = ''] = people
  await vault.destroy(db, tenantId, gone)
  return { pool, url, db, tenantId, people: people.slice(1), sealed }
}

function eventOf(tenantId: string, id: string): NewEvent {
  return {
    tenantId,
    id,
    account: null,
    type: 'customer.updated',
    apiVersion: null,
    livemode: false,
    stripeCustomerId: 'cus_1',
    idempotencyKey: null,
    created: new Date(),
    payload: JSON.stringify({ id }),
    source: 'webhook',
    status: 'pending',
  }
}

t.test('what a retired key sealed is sealed anew', async (t) => {
  const [old, next, other] = [randomBytes(32), randomBytes(32), randomBytes(32)]
  const { pool, db, tenantId, people, sealed } = await openSealed(t, old)
  const both = makeCipher([next, old])
  const [oldId] = makeCipher([old]).keyIds
  const secretsNow = async () => {
    const { rows } = await pool.query('select stripe_secret_key, stripe_webhook_secrets from tenants where id = $1', [
      tenantId,
    ])
    return rows[0]
  }
  t.strictSame(await sealingKeyIds(db), [oldId])

  const seen: number[] = []
  const dry = await resealAll(db, both, { dryRun: true, onProgress: ({ found }) => seen.push(found) })
  t.strictSame(dry, { found: SEALED, resealed: 0, unopened: {} })
  const before = 3 + PEOPLE - 1
  t.strictSame(seen, [3, 503, 1003, before, before + 20, before + BATCHES, SEALED], 'in batches')
  t.strictSame(await sealingKeyIds(db), [oldId], 'a dry run changes nothing')

  const wrong = await resealAll(db, makeCipher([other]), { dryRun: false, onProgress() {} })
  t.strictSame(wrong, {
    found: SEALED,
    resealed: 0,
    unopened: { tenants: 3, person_keys: PEOPLE - 1, delivery_batches: BATCHES, stripe_events: EVENTS },
  })

  const [first, second] = await Promise.all([
    resealAll(db, both, { dryRun: false, onProgress() {} }),
    resealAll(db, both, { dryRun: false, onProgress() {} }),
  ])
  t.equal(first.resealed + second.resealed, SEALED, 'two at a time do it once')
  t.strictSame(await sealingKeyIds(db), [both.keyId])
  t.strictSame(await resealAll(db, both, { dryRun: false, onProgress() {} }), { found: 0, resealed: 0, unopened: {} })

  const now = makeCipher([next])
  const { stripe_secret_key: key, stripe_webhook_secrets: webhooks } = await secretsNow()
  t.equal(now.open(key, stripeKeyContext(tenantId)), 'sk_test_own')
  t.strictSame(
    webhooks.map((text: string) => now.open(text, webhookSecretContext(tenantId))),
    ['whsec_a', 'whsec_b'],
  )
  const { rows: batches } = await pool.query('select id from delivery_batches order by id')
  for (const [n, { id }] of batches.entries()) {
    t.match(await readBatch(db, now, id), { deliveries: [{ event: { id: `evt_new${n}` } }] })
  }
  const vault = makeVault({ keys: [next], now: Date.now })
  const seals = await vault.people(db, tenantId, people)
  t.ok(
    people.every((id) => seals.get(id)?.open(sealed.get(id), WHERE) === id),
    'and what people’s keys sealed opens still',
  )
  t.match(await lockPendingEvent(db, now, tenantId, 'evt_1'), { payload: { id: 'evt_1' } }, 'and what came from Stripe')
})

t.test('a start with the wrong key is refused', async (t) => {
  const [old, next] = [randomBytes(32), randomBytes(32)]
  const { url, db, pool } = await openSealed(t, old)
  const start = async (...keys: Uint8Array[]) => {
    const lifecycle = makeLifecycle(() => {})
    const config = loadConfig({
      DATABASE_URL: url,
      STRIPE_SECRET_KEY: 'sk_test_core',
      STRIPE_WEBHOOK_SECRET: 'whsec_core',
      STRIPE_API_BASE: 'http://127.0.0.1:1',
      LOCKSTEP_ENCRYPTION_KEY: keys.map((key) => Buffer.from(key).toString('base64')).join(','),
    })
    await openCore({ config, log: testLog, lifecycle, webhookUrl: null, wake() {} }).finally(() => lifecycle.close())
  }
  const [oldId = ''] = makeCipher([old]).keyIds
  await t.rejects(start(next), { code: 'encryption_key_missing', message: new RegExp(`the key ${oldId}, but`) })
  await t.resolves(start(next, old))
  await t.resolves(start(old))
  await pool.query('delete from person_keys')
  await t.rejects(refuseUnknownKeys(db, { cipher: makeCipher([next]) }), { code: 'encryption_key_missing' })
  await pool.query("update tenants set stripe_secret_key = null, stripe_webhook_secrets = '{}'")
  await t.rejects(start(next), { code: 'encryption_key_missing' }, 'the inbox holds some')
  await pool.query('delete from stripe_events')
  await t.rejects(start(next), { code: 'encryption_key_missing' }, 'so does what is not filed yet')
  await pool.query('delete from delivery_batches')
  await t.resolves(start(next))
})

t.test('asking which keys are in use does not read the table', async (t) => {
  const { pool, db } = await openSealed(t, randomBytes(32))
  await pool.query('vacuum analyze person_keys')
  const plan = async (sql: string) =>
    (await pool.query(`explain ${sql}`)).rows.map((row) => row['QUERY PLAN']).join('\n')
  let asked = ''
  await sealingKeyIds({
    query: (sql, params) => {
      if (sql.includes('person_keys')) asked = sql
      return db.query(sql, params)
    },
  })
  const text = await plan(asked)
  t.match(text, 'person_keys_sealed_with_idx')
  t.notMatch(text, 'Seq Scan on person_keys')
})
