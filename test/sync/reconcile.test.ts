import t, { type Test } from 'tap'
import type { SyncState } from '../../src/models/sync-state.js'
import type { TenantSettings } from '../../src/models/tenant.js'
import { insertEvents } from '../../src/repositories/stripe-events.js'
import { findConflictsOfUser } from '../../src/repositories/sync-conflicts.js'
import { findState } from '../../src/repositories/sync-states.js'
import { saveSettings } from '../../src/repositories/tenant-records.js'
import { newEvent } from '../../src/sync/stored-event.js'
import { openTestCore } from '../helpers/core.js'
import { eventually } from '../helpers/wait.js'

async function open(t: Test) {
  const { pool, controls, ...core } = await openTestCore(t)
  const { db, tenant, vault } = core
  return {
    ...core,
    pool,
    controls,
    stateOf: async (id: string) => (await findState(db, tenant.id, id)) as SyncState,
    conflictsOf: (id: string) => findConflictsOfUser(db, vault, tenant.id, id),
    rowOf: async (id: string) => (await pool.query('select * from users where id = $1', [id])).rows[0],
    set: (id: string, sql: string) => pool.query(`update users set ${sql} where id = $1`, [id]),
    settings: (settings: Partial<TenantSettings>) => saveSettings(db, tenant.id, settings),
    /** A user in step with its Stripe customer. */
    async newPair(email: string) {
      const { rows } = await pool.query('insert into users (email) values ($1) returning id', [email])
      const result = await core.reconcile(rows[0].id)
      if (result.outcome !== 'settled' || result.stripeCustomerId === null) throw new Error(JSON.stringify(result))
      await pool.query("update sync_state set remote_as_of = remote_as_of - interval '1 hour' where user_id = $1", [
        rows[0].id,
      ])
      return { id: rows[0].id as string, stripeId: result.stripeCustomerId }
    },
    /** The newest event of Stripe comes in. */
    async newestEventComesIn() {
      const [event] = controls.events()
      if (event === undefined) throw new Error('no event')
      await insertEvents(db, core.vault.cipher, [newEvent(tenant.id, event, 'webhook')])
      await core.drain.drainBatch()
    },
    /** Drift in time between two things that happen: the simulator's seconds are the machine's. */
    minutesLater: (minutes: number) => controls.advanceClock(minutes * 60_000),
    callsMade: () => Object.values(controls.summary().calls).reduce((sum, { total }) => sum + total, 0),
  }
}

t.test('many at once make one customer; those that come late find it', async (t) => {
  const { reconcile, pool, controls, stateOf } = await open(t)
  const { rows } = await pool.query("insert into users (email) values ('a@example.com') returning id")
  const outcomes = await Promise.all(Array.from({ length: 10 }, () => reconcile(rows[0].id)))
  t.ok(outcomes.every(({ outcome }) => outcome === 'settled' || outcome === 'busy'))
  t.equal(controls.dump().total, 1)
  t.match(await reconcile(rows[0].id), { outcome: 'settled', status: 'in_sync' })
  t.match(await stateOf(rows[0].id), { status: 'in_sync', dirty: false })
})

t.test('a second look that fails takes nothing back of what the first one came to', async (t) => {
  const { reconcile, pool, controls, stateOf } = await open(t)
  await pool.query('update tenants set swept_at = null')
  for (const name of ['One', 'Two']) controls.createCustomer({ email: 'two@example.com', name })
  const { rows } = await pool.query("insert into users (email) values ('two@example.com') returning id")
  t.match(await reconcile(rows[0].id), { outcome: 'settled', status: 'conflict' })
  const settled = await stateOf(rows[0].id)
  t.match(settled, { dirty: false, lastError: { code: 'ambiguous_match' } })
  controls.faults.add({ operation: 'customers.list', kind: '500', times: 1 })
  t.match(await reconcile(rows[0].id), { outcome: 'retry' })
  t.match(await stateOf(rows[0].id), {
    dirty: false,
    status: 'conflict',
    attempts: 0,
    nextAttemptAt: null,
    lastError: settled.lastError,
  })
  t.match(await reconcile(rows[0].id), { outcome: 'settled', status: 'conflict' }, 'nobody has to wait for it')
})

t.test('a second run makes no call', async (t) => {
  const { reconcile, newPair, callsMade } = await open(t)
  const { id } = await newPair('a@example.com')
  const before = callsMade()
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.equal(callsMade(), before)
})

t.test('a worker whose lease ran out during a call writes nothing more', async (t) => {
  const { reconcile, pool, controls, stateOf, newPair, set, callsMade, newestEventComesIn, rowOf } = await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  await set(id, "description = 'slow'")
  controls.faults.add({ operation: 'customers.update', kind: 'delay', delayMs: 400, times: 1 })
  const before = callsMade()
  const slow = reconcile(id)
  await eventually(async () => (await pool.query('select from stripe_writes where settled_at is null')).rowCount === 1)
  await eventually(() => callsMade() > before || controls.faults.rules.length === 0)
  await pool.query("update sync_state set lease_expires_at = now() - interval '1 second' where user_id = $1", [id])
  await set(id, "description = 'quick'")
  t.match(await reconcile(id), { outcome: 'settled' })
  t.match(await slow, { outcome: 'busy' })
  t.equal((await stateOf(id)).leaseToken, 3)

  // Its write reached Stripe after the later one; the event of it comes once nobody waits for its answer any more.
  t.match(controls.getCustomer(stripeId), { description: 'slow' })
  await pool.query("update stripe_writes set started_at = started_at - interval '1 minute'")
  await newestEventComesIn()
  t.match((await reconcile(id)).outcome, 'settled')
  t.match(controls.getCustomer(stripeId), { description: 'quick' })
  t.match(await rowOf(id), { description: 'quick' })
})

t.test('a customer with characters that Postgres cannot hold', async (t) => {
  const { reconcile, controls, db, tenant, newPair, rowOf, newestEventComesIn } = await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  controls.updateCustomer(stripeId, { name: 'A\u0000da', metadata: { 'k\u0000': 'v\u0000' } })
  await db.query('update sync_state set needs_fetch = true where tenant_id = $1', [tenant.id])
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.match(await rowOf(id), { first_name: 'Ada', metadata: { k: 'v' } })
  await newestEventComesIn()
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
})

t.test('a metadata value that is too long keeps nothing else back, whatever its key', async (t) => {
  const { reconcile, controls, newPair, set, stateOf } = await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  for (const key of ['order.id', 'a/b', 'k[0]']) {
    const metadata = JSON.stringify({ [key]: 'x'.repeat(501), fine: key })
    await set(id, `description = '${key}', metadata = '${metadata}'`)
    t.match(await reconcile(id), { outcome: 'settled', status: 'failed' }, key)
    t.match(controls.getCustomer(stripeId), { description: key, metadata: { fine: key } })
    t.match(await stateOf(id), { lastError: { field: `metadata.${key}` } })
  }
})

t.test('a customer full of metadata is still kept in step', async (t) => {
  const { reconcile, controls, pool, settings, set, stateOf } = await open(t)
  await settings({ foreignMetadataPrefixes: ['other'] })
  const metadata = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`other${n}`, 'v']))
  const { id: stripeId } = controls.createCustomer({ email: 'full@example.com', metadata })
  const { rows } = await pool.query('insert into users (email, stripe_customer_id) values ($1, $2) returning id', [
    'full@example.com',
    stripeId,
  ])
  const id = rows[0].id as string
  await set(id, "description = 'd'")
  t.match(await reconcile(id), { outcome: 'settled', status: 'failed' })
  t.match(controls.getCustomer(stripeId), { description: 'd', metadata: { other49: 'v' } })
  t.match(await stateOf(id), { lastError: { code: 'metadata_key_limit' } })
  await pool.query('delete from users where id = $1', [id])
  t.match(await reconcile(id), { outcome: 'forgotten' })
})

t.test('a later edit at Stripe wins even when another field’s event told of it', async (t) => {
  const { reconcile, controls, db, vault, tenant, newPair, set, rowOf, conflictsOf, minutesLater, drain } =
    await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  await set(id, "phone = '+46701740605'")
  minutesLater(10)
  controls.updateCustomer(stripeId, { phone: '+46701740606' })
  minutesLater(1)
  controls.updateCustomer(stripeId, { description: 'also' })
  const [second, first] = controls.events()
  for (const event of [second, first]) {
    if (event === undefined) throw new Error('no event')
    await insertEvents(db, vault.cipher, [newEvent(tenant.id, event, 'webhook')])
    await drain.drainBatch()
  }
  await reconcile(id)
  t.match(await rowOf(id), { phone: '+46701740606', description: 'also' })
  t.match(await conflictsOf(id), [{ field: 'phone', winner: 'stripe', local: '+46701740605' }])
})

t.test('an edit at Stripe that we overwrote comes back, but does not win over a later one there', async (t) => {
  const { reconcile, controls, db, vault, tenant, newPair, set, rowOf, minutesLater, drain, pool } = await open(t)
  minutesLater(-30)
  const { id, stripeId } = await newPair('a@example.com')
  await set(id, "description = 'ours'")
  const { rows } = await pool.query("select to_json(now() - interval '20 minutes') as time")
  const times = JSON.stringify({ description: rows[0].time })
  await pool.query("update users set description = 'ours!', field_times = field_times || $2 where id = $1", [id, times])
  t.match(await rowOf(id), { field_times: { description: rows[0].time } }, 'who knows the time of a value says it')
  minutesLater(15)
  controls.updateCustomer(stripeId, { description: 'first' })
  t.match(await reconcile(id), { outcome: 'settled' })
  t.match(controls.getCustomer(stripeId), { description: 'ours!' })
  minutesLater(5)
  controls.updateCustomer(stripeId, { description: 'second' })
  for (const event of controls.events().slice(0, 3).reverse()) {
    await insertEvents(db, vault.cipher, [newEvent(tenant.id, event, 'webhook')])
    await drain.drainBatch()
  }
  t.match(await reconcile(id), { outcome: 'settled' })
  t.match(await rowOf(id), { description: 'second' })
  t.match(controls.getCustomer(stripeId), { description: 'second' })
})

t.test(
  'who is given up for a passing reason is told when it is tried again, and how to have it tried at once',
  async (t) => {
    const { reconcile, controls, newPair, set, stateOf, pool } = await open(t)
    const { id } = await newPair('a@example.com')
    await set(id, "description = 'one'")
    controls.faults.add({ operation: 'customers.update', kind: 'reset_before' })
    t.match(await reconcile(id), { outcome: 'retry' })
    const { lastError } = await stateOf(id)
    t.notMatch(lastError?.message, 'rests')
    await pool.query('update sync_state set attempts = 9, next_attempt_at = null where user_id = $1', [id])
    t.match(await reconcile(id), { outcome: 'failed' })
    t.match(await stateOf(id), {
      status: 'failed',
      nextAttemptAt: null,
      lastError: {
        retryable: true,
        message: /It rests for an hour now; POST .customers.:id.sync tries at once/,
      },
    })
  },
)

t.test('an edit there to what an unanswered write of ours had said is theirs, and not lost', async (t) => {
  const { reconcile, controls, newPair, set, rowOf, conflictsOf, minutesLater, newestEventComesIn, stateOf, pool } =
    await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  await set(id, "description = 'one'")
  controls.faults.add({ operation: 'customers.update', kind: '500', times: 1 })
  t.match(await reconcile(id), { outcome: 'retry' })
  t.match(await reconcile(id), { outcome: 'settled' })
  await set(id, "description = 'two'")
  t.match(await reconcile(id), { outcome: 'settled' })
  t.match(controls.getCustomer(stripeId), { description: 'two' })
  await pool.query("update sync_state set remote_as_of = remote_as_of - interval '1 hour' where user_id = $1", [id])
  minutesLater(60)
  controls.updateCustomer(stripeId, { description: 'one' })
  await newestEventComesIn()
  t.match(await reconcile(id), { outcome: 'settled' })
  t.match(await stateOf(id), { status: 'in_sync' })
  t.ok(
    (await conflictsOf(id)).length > 0 || (await rowOf(id)).description === 'one',
    'taken over, or a conflict: not lost',
  )
})

t.test('a copy of a customer whose create has no answer yet is not taken for it', async (t) => {
  const { reconcile, controls, pool, newestEventComesIn, drain, rowOf, stateOf } = await open(t)
  const { rows } = await pool.query(
    "insert into users (email, phone) values ('a@example.com', '+46701740605') returning id",
  )
  const { id } = rows[0]
  controls.faults.add({ operation: 'customers.create', kind: 'truncate', times: 1 })
  t.match(await reconcile(id), { outcome: 'retry' })
  const [original] = controls.dump().data
  const copy = controls.createCustomer({ email: 'a@example.com', metadata: original?.metadata ?? {} })
  await newestEventComesIn()
  t.match(await rowOf(id), { stripe_customer_id: null, phone: '+46701740605' })
  t.match(await reconcile(id), { outcome: 'settled', stripeCustomerId: original?.id })
  await pool.query('update stripe_events set next_attempt_at = null')
  await drain.drainBatch()
  t.match((await pool.query('select outcome from stripe_events where status = $1', ['processed'])).rows, [
    { outcome: 'duplicate' },
  ])
  t.match((await pool.query('select * from duplicate_customers')).rows, [{ stripe_customer_id: copy.id, user_id: id }])
  t.match(await rowOf(id), { stripe_customer_id: original?.id, phone: '+46701740605' })
  t.match(await stateOf(id), { status: 'in_sync' })
})

t.test('a write whose answer was lost days ago is still known for ours', async (t) => {
  const { reconcile, controls, pool, newPair, set, conflictsOf, settings } = await open(t)
  await settings({ policies: { default: 'manual' } })
  const { id, stripeId } = await newPair('a@example.com')
  const oldWrites = () =>
    pool.query("select sent - disowned as sent from stripe_writes where settled_at is null and kind = 'update'")
  await set(id, "description = 'one'")
  controls.faults.add({ operation: 'customers.update', kind: 'truncate', times: 1 })
  t.match(await reconcile(id), { outcome: 'retry' })
  t.match(controls.getCustomer(stripeId), { description: 'one' })
  await pool.query("update stripe_writes set started_at = started_at - interval '3 days'")
  await set(id, "description = 'two'")
  await pool.query('update sync_state set needs_fetch = true where user_id = $1', [id])
  t.match((await oldWrites()).rows, [{ sent: { description: { sealed: String } } }], 'sealed, as it is of a person')
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.strictSame(await conflictsOf(id), [], 'what Stripe had was our own')
  t.match(controls.getCustomer(stripeId), { description: 'two' })
  t.strictSame((await oldWrites()).rows, [{ sent: {} }], 'and is overwritten now')
})

for (const [outcome, lead] of [
  ['no_news', '0'],
  ['stale', '1 hour'],
] as const) {
  t.test(`a write known as ours by its event alone (${outcome}) is not taken for an edit there`, async (t) => {
    const { reconcile, controls, pool, newPair, set, conflictsOf, settings, newestEventComesIn } = await open(t)
    await settings({ policies: { default: 'stripe' } })
    const { id, stripeId } = await newPair('a@example.com')
    await set(id, "description = 'one'")
    controls.faults.add({ operation: 'customers.update', kind: 'truncate', times: 1 })
    t.match(await reconcile(id), { outcome: 'retry' })
    await pool.query("update stripe_writes set started_at = started_at - interval '1 minute'")
    // A worker reads the customer, and is killed before it decides anything.
    await pool.query(
      `update sync_state set remote = jsonb_set(remote, '{fields,description}', '"one"'),
         remote_as_of = now() + $2::interval where user_id = $1`,
      [id, lead],
    )
    await newestEventComesIn()
    t.match(
      (await pool.query("select outcome from stripe_events where idempotency_key like 'lockstep-update%'")).rows,
      [{ outcome }],
    )
    await set(id, "description = 'two'")
    t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
    t.match(controls.getCustomer(stripeId), { description: 'two' })
    t.strictSame(await conflictsOf(id), [])
  })
}

t.test('what comes home from before a write says nothing of what the write set', async (t) => {
  const { reconcile, controls, db, tenant, vault, drain, rowOf, newPair, set, conflictsOf, settings, ...core } =
    await open(t)
  await settings({ policies: { default: 'stripe' } })
  const { id, stripeId } = await newPair('a@example.com')
  controls.updateCustomer(stripeId, { description: 'theirs' })
  const [theirs] = controls.events()
  await set(id, "description = 'ours'")
  controls.faults.add({ operation: 'customers.update', kind: 'truncate', times: 1 })
  t.match(await reconcile(id), { outcome: 'retry' })
  t.match(controls.getCustomer(stripeId), { description: 'ours' }, 'it was carried out')
  // Their event, a minute older than our write, comes only now, and by policy wins.
  if (theirs === undefined) throw new Error('no event')
  const before = { ...theirs, created: theirs.created - 60 }
  await insertEvents(db, vault.cipher, [newEvent(tenant.id, before as typeof theirs, 'webhook')])
  await drain.drainBatch()
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.match(await rowOf(id), { description: 'theirs' })
  // An event about something else shows what our write had set.
  core.minutesLater(1)
  controls.updateCustomer(stripeId, { metadata: { k: '1' } })
  await core.newestEventComesIn()
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.match(controls.getCustomer(stripeId), { description: 'theirs', metadata: { k: '1' } }, 'that was us, no later edit')
  t.match(await rowOf(id), { description: 'theirs', metadata: { k: '1' } })
  t.match(await conflictsOf(id), [{ field: 'description', local: 'ours', remote: 'theirs' }])
})

t.test('a row that is deleted while its create has no answer does not come back as a new user', async (t) => {
  const { reconcile, controls, pool, newestEventComesIn } = await open(t)
  const { rows } = await pool.query("insert into users (email) values ('a@example.com') returning id")
  controls.faults.add({ operation: 'customers.create', kind: 'truncate', times: 1 })
  t.match(await reconcile(rows[0].id), { outcome: 'retry' })
  await pool.query('delete from users')
  const [customer] = controls.dump().data
  controls.updateCustomer(customer?.id ?? '', { name: 'Someone Else' })
  await newestEventComesIn()
  t.equal((await pool.query('select from users')).rowCount, 0)
  t.match(await reconcile(rows[0].id), { outcome: 'forgotten' })
  t.match(controls.dump().data, [{ name: 'Someone Else', metadata: { lockstep_state: 'deleted' } }])
})

t.test('a user that was unlinked by SQL and linked again', async (t) => {
  const { reconcile, newPair, set, rowOf, controls } = await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  await set(id, 'stripe_customer_id = null')
  await set(id, `stripe_customer_id = '${stripeId}'`)
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync', stripeCustomerId: stripeId })
  t.match(await rowOf(id), { stripe_customer_id: stripeId })
  t.equal(controls.dump().total, 1)
})
