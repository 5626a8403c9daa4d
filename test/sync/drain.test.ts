import t, { type Test } from 'tap'
import { insertEvents } from '../../src/repositories/stripe-events.js'
import { insertLink, moveLink, unlink } from '../../src/repositories/stripe-links.js'
import { findConflictsOfUser } from '../../src/repositories/sync-conflicts.js'
import { clearStripeCustomerId, lockUser, setStripeCustomerId } from '../../src/repositories/users.js'
import { newEvent } from '../../src/sync/stored-event.js'
import { openTestCore } from '../helpers/core.js'
import { eventually } from '../helpers/wait.js'

async function open(t: Test) {
  const core = await openTestCore(t)
  const { db, pool, controls, tenant, vault, reconcile, metrics } = core
  return {
    ...core,
    rowOf: async (id: string) => (await pool.query('select * from users where id = $1', [id])).rows[0],
    stateOf: async (id: string) => (await pool.query('select * from sync_state where user_id = $1', [id])).rows[0],
    conflictsOf: (id: string) => findConflictsOfUser(db, vault, tenant.id, id),
    async newPair(email: string) {
      const { rows } = await pool.query("insert into users (email, last_name) values ($1, 'Byron') returning id", [
        email,
      ])
      const result = await reconcile(rows[0].id)
      if (result.outcome !== 'settled' || result.stripeCustomerId === null) throw new Error(JSON.stringify(result))
      return { id: rows[0].id as string, stripeId: result.stripeCustomerId }
    },
    /** All events that Stripe has made come in. Those made so far are of an hour ago, so that the next are clearly later. */
    async eventsComeIn() {
      const events = controls.events().map((event) => newEvent(tenant.id, event, 'webhook'))
      await insertEvents(db, vault.cipher, events.reverse())
    },
    async anHourPasses() {
      await pool.query("update sync_state set remote_as_of = remote_as_of - interval '1 hour'")
    },
    plainEdits: async () => (await metrics.plainEdits.get()).values[0]?.value,
    callsMade: () => Object.values(controls.summary().calls).reduce((sum, { total }) => sum + total, 0),
  }
}

t.test('plain edits are carried through together, with no reconcile and no call', async (t) => {
  const { newPair, anHourPasses, eventsComeIn, drain, controls, pool, rowOf, stateOf, ...core } = await open(t)
  const a = await newPair('a@example.com')
  const b = await newPair('b@example.com')
  const c = await newPair('c@example.com')
  await eventsComeIn()
  await drain.drainBatch()
  await anHourPasses()
  controls.updateCustomer(a.stripeId, {
    email: 'new@example.com',
    name: 'Ada King Lovelace',
    metadata: { tier: 'gold' },
    address: { line1: '1 Main St', city: 'Springfield' },
    balance: 500,
  })
  controls.updateCustomer(b.stripeId, { email: '', phone: '+14155550100' })
  controls.updateCustomer(c.stripeId, { metadata: { other: 'x' } })
  await eventsComeIn()
  const before = { calls: core.callsMade(), revision: (await rowOf(a.id)).revision }
  await drain.drainBatch()
  t.equal(await core.plainEdits(), 3)
  t.equal(core.callsMade(), before.calls)

  t.match(await rowOf(a.id), {
    email: 'new@example.com',
    first_name: 'Ada',
    last_name: 'King Lovelace',
    metadata: { tier: 'gold' },
    address: { line1: '1 Main St', city: 'Springfield' },
    billing: { balance: 500 },
    revision: before.revision + 1,
  })
  t.match(await rowOf(b.id), { email: null, phone: '+14155550100', last_name: 'Byron', address: null })
  t.match(await rowOf(c.id), { metadata: { other: 'x' }, email: 'c@example.com' })
  for (const { id } of [a, b, c]) t.match(await stateOf(id), { status: 'in_sync', dirty: false, needs_fetch: false })
  const created = controls.events()[0]?.created ?? 0
  t.equal(Date.parse((await rowOf(b.id)).field_times.phone), created * 1000, 'as old as the edit in Stripe is')

  const { rows } = await pool.query(
    `select actor, action, cause, count(*)::int as n from audit_log where entity_id = $1 and cause is not null
     group by actor, action, cause order by action`,
    [a.id],
  )
  t.match(rows, [
    { actor: 'stripe', action: 'stripe.update', cause: /^evt_/, n: 1 },
    { actor: 'sync', action: 'sync.apply', cause: /^evt_/, n: 1 },
  ])
  t.equal(
    (await pool.query("select from audit_log where action = 'customer.update'")).rowCount,
    0,
    'none took place unrecorded',
  )
  for (const { id } of [a, b, c]) t.match(await core.reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.equal(core.callsMade(), before.calls, 'and there is nothing left to do')
})

t.test('a plain edit counts as the revision that it made, and whoever writes next makes the user dirty', async (t) => {
  const { newPair, anHourPasses, eventsComeIn, drain, controls, pool, rowOf, stateOf, plainEdits } = await open(t)
  const pairs: Awaited<ReturnType<typeof newPair>>[] = []
  for (let n = 0; n < 120; n += 1) pairs.push(await newPair(`p${n}@example.com`))
  await eventsComeIn()
  while ((await drain.drainBatch()) > 0);
  await anHourPasses()
  for (const { stripeId } of pairs) controls.updateCustomer(stripeId, { description: 'edited' })
  await eventsComeIn()
  await drain.drainBatch()
  t.equal(await plainEdits(), 120, 'more than fit in one transaction, side by side')
  const { rows } = await pool.query(
    `select count(*)::int as n from users u join sync_state s on s.user_id = u.id join user_list l on l.user_id = u.id
     where u.description = 'edited' and s.status = 'in_sync' and not s.dirty and l.sync_status = 'in_sync'
       and s.local_revision = u.revision and s.synced_revision = u.revision`,
  )
  t.match(rows, [{ n: 120 }])

  const id = pairs[0]?.id ?? ''
  await pool.query("update users set description = 'by hand' where id = $1", [id])
  t.match(await stateOf(id), { dirty: true, status: 'pending', local_revision: (await rowOf(id)).revision })
})

t.test('of one customer, one after the other', async (t) => {
  const { newPair, anHourPasses, eventsComeIn, drain, controls, rowOf, pool, plainEdits } = await open(t)
  const { id, stripeId } = await newPair('a@example.com')
  await eventsComeIn()
  await drain.drainBatch()
  await anHourPasses()
  for (const description of ['one', 'two', 'three']) {
    controls.updateCustomer(stripeId, { description })
    controls.advanceClock(10_000)
  }
  await eventsComeIn()
  while ((await drain.drainBatch()) > 0);
  t.match(await rowOf(id), { description: 'three' })
  t.equal(await plainEdits(), 3)
  t.equal(
    (await pool.query("select from audit_log where action = 'sync.apply' and changes -> 'fields' ? 'description'"))
      .rowCount,
    3,
    'each is in the history',
  )
})

t.test('what is not plain goes its own way', async (t) => {
  const { newPair, anHourPasses, eventsComeIn, drain, controls, pool, rowOf, stateOf, ...core } = await open(t)
  const { plainEdits, reconcile, conflictsOf } = core
  const [both, other, leased, plain] = (await Promise.all(
    ['both', 'other', 'leased', 'plain'].map((name) => newPair(`${name}@example.com`)),
  )) as { id: string; stripeId: string }[] as [
    { id: string; stripeId: string },
    ...{ id: string; stripeId: string }[],
  ] &
    Record<1 | 2 | 3, { id: string; stripeId: string }>
  await eventsComeIn()
  await drain.drainBatch()
  await anHourPasses()
  await pool.query("update users set description = 'ours', updated_at = now() where id = $1", [both.id])
  await pool.query("update users set phone = '+14155550111' where id = $1", [other.id])
  await pool.query("update sync_state set lease_expires_at = now() + interval '1 hour' where user_id = $1", [leased.id])
  for (const { stripeId } of [both, other, leased, plain]) controls.updateCustomer(stripeId, { description: 'theirs' })
  await eventsComeIn()
  await drain.drainBatch()
  t.equal(await plainEdits(), 1)
  t.match(await rowOf(plain.id), { description: 'theirs' })
  t.match(await rowOf(both.id), { description: 'ours' })
  t.match(await stateOf(leased.id), { status: 'pending', dirty: true, remote: { fields: { description: 'theirs' } } })
  await pool.query('update sync_state set lease_expires_at = null')
  for (const { id } of [both, other, leased]) t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.match(await conflictsOf(both.id), [{ field: 'description', reason: 'both_changed' }])
  t.match(controls.getCustomer(other.stripeId), { phone: '+14155550111' })
  for (const { id } of [other, leased]) t.match(await rowOf(id), { description: 'theirs' })
})

t.test('a row that the application holds is waited for by nobody but its own event', async (t) => {
  const { newPair, anHourPasses, eventsComeIn, drain, controls, pool, rowOf, plainEdits } = await open(t)
  const held = await newPair('held@example.com')
  const free = await newPair('free@example.com')
  await eventsComeIn()
  await drain.drainBatch()
  await anHourPasses()
  for (const { stripeId } of [held, free]) controls.updateCustomer(stripeId, { description: 'theirs' })
  await eventsComeIn()
  const application = await pool.connect()
  await application.query('begin')
  await application.query("update users set phone = '+14155550111' where id = $1", [held.id])
  const batch = drain.drainBatch()
  await eventually(async () => (await plainEdits()) === 1)
  t.match(await rowOf(free.id), { description: 'theirs' })
  await application.query('commit')
  application.release()
  await batch
  t.match(await rowOf(held.id), { phone: '+14155550111' })
})

t.test('a customer that is deleted in Stripe while it is given to another user, or to its first', async (t) => {
  const { newPair, eventsComeIn, drain, controls, pool, db, tenant, rowOf, stateOf } = await open(t)
  const loser = await newPair('a@example.com')
  const survivor = await newPair('b@example.com')
  const other = await newPair('c@example.com')
  await eventsComeIn()
  while ((await drain.drainBatch()) > 0);
  const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
  const isWaiting = () =>
    eventually(async () => ((await pool.query(waits)).rowCount ?? 0) > 0, { what: 'the event to wait' })

  let drained: Promise<number> | undefined
  await db.transaction(async (tx) => {
    for (const { id } of [loser, survivor]) await lockUser(tx, tenant.id, id)
    await unlink(tx, tenant.id, survivor.stripeId)
    await clearStripeCustomerId(tx, tenant.id, survivor.id, survivor.stripeId)
    await moveLink(tx, tenant.id, loser.stripeId, survivor.id)
    await clearStripeCustomerId(tx, tenant.id, loser.id, loser.stripeId)
    await setStripeCustomerId(tx, tenant.id, survivor.id, loser.stripeId)
    controls.deleteCustomer(loser.stripeId)
    await eventsComeIn()
    drained = drain.drainBatch()
    await isWaiting()
  })
  await drained
  while ((await drain.drainBatch()) > 0);
  t.match(await stateOf(survivor.id), { status: 'detached' })
  t.match(await rowOf(survivor.id), { stripe_customer_id: null })

  const { id: strangerId } = controls.createCustomer({ name: 'Somebody' })
  controls.deleteCustomer(strangerId)
  await db.transaction(async (tx) => {
    await lockUser(tx, tenant.id, other.id)
    await unlink(tx, tenant.id, other.stripeId)
    await clearStripeCustomerId(tx, tenant.id, other.id, other.stripeId)
    const link = { tenantId: tenant.id, stripeCustomerId: strangerId, userId: other.id, how: 'attached' as const }
    await insertLink(tx, { ...link, stripeCreated: null })
    await setStripeCustomerId(tx, tenant.id, other.id, strangerId)
    await eventsComeIn()
    drained = drain.drainBatch()
    await isWaiting()
  })
  await drained
  while ((await drain.drainBatch()) > 0);
  t.match(await rowOf(other.id), { stripe_customer_id: null })
  t.match(await stateOf(other.id), { status: 'detached' })
})
