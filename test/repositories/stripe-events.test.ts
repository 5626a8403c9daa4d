import t from 'tap'
import { reviveFailedEvents } from '../../src/repositories/dirty-users.js'
import {
  findEventsOfCustomer,
  findKnownEvents,
  findPendingEvents,
  inboxFigures,
  insertEvents,
  lockPendingEvent,
  type NewEvent,
  type PendingEvent,
  postponeEvent,
  reopenEvent,
  saveEventFailure,
  saveEventSettled,
} from '../../src/repositories/stripe-events.js'
import { testVault } from '../helpers/vault.js'
import { at, openTables } from './helpers.js'

const { cipher } = testVault()

const event = (tenantId: string, id: string, rest: Partial<NewEvent> = {}): NewEvent => ({
  tenantId,
  id,
  account: null,
  type: 'customer.updated',
  apiVersion: null,
  livemode: false,
  stripeCustomerId: 'cus_1',
  idempotencyKey: null,
  created: at(0),
  payload: JSON.stringify({ data: { object: { id: 'cus_1' } } }),
  source: 'webhook',
  status: 'pending',
  ...rest,
})

t.test('an event is stored once, whoever brings it, and kept apart by tenant', async (t) => {
  const { db, tenantId, newTenant } = await openTables(t)
  const other = await newTenant('other')
  const brought = await Promise.all(
    Array.from({ length: 8 }, () => insertEvents(db, cipher, [event(tenantId, 'evt_1')])),
  )
  t.equal(brought.flat().length, 1)
  const again = [event(tenantId, 'evt_1', { source: 'catch_up' }), event(tenantId, 'evt_2'), event(other, 'evt_1')]
  t.strictSame(
    (await insertEvents(db, cipher, again)).sort(),
    ['evt_1', 'evt_2'],
    'what was new: of this tenant, of the other',
  )
  t.strictSame(await insertEvents(db, cipher, []), [])
  t.strictSame(
    await insertEvents(db, cipher, [event(tenantId, 'evt_3'), event(tenantId, 'evt_3')]),
    ['evt_3'],
    'twice in one batch',
  )
  t.strictSame([...(await findKnownEvents(db, tenantId, ['evt_1', 'evt_9']))], ['evt_1'])
  t.equal(
    (
      await insertEvents(
        db,
        cipher,
        Array.from({ length: 1_000 }, (_, n) => event(tenantId, `evt_b${n}`)),
      )
    ).length,
    1_000,
  )
})

t.test('only what waits is settled, oldest first, by one at a time', async (t) => {
  const { db, pool, tenantId } = await openTables(t)
  await insertEvents(db, cipher, [
    event(tenantId, 'evt_b', { created: at(2), stripeCustomerId: 'cus_2' }),
    event(tenantId, 'evt_c', { created: at(3) }),
    event(tenantId, 'evt_a', { created: at(1) }),
    event(tenantId, 'evt_i', { status: 'ignored' }),
    event(tenantId, 'evt_q', { status: 'quarantined' }),
  ])
  await pool.query('update stripe_events set received_at = $1', [at(10)])
  const pending = async () => (await findPendingEvents(db, 10)).map(({ id }) => id)
  t.strictSame(await pending(), ['evt_a', 'evt_b'], 'of each customer the first')
  t.strictSame(
    (await findPendingEvents(db, 1)).map(({ id }) => id),
    ['evt_a'],
  )

  await db.transaction(async (tx) => {
    const held = (await lockPendingEvent(tx, cipher, tenantId, 'evt_a')) as PendingEvent
    t.match(held, { id: 'evt_a', created: at(1), attempts: 0, payload: { data: { object: { id: 'cus_1' } } } })
    t.equal(await lockPendingEvent(db, cipher, tenantId, 'evt_a'), null, 'another passes it by, without waiting')
    await saveEventSettled(tx, held, 'applied')
  })
  t.equal(await lockPendingEvent(db, cipher, tenantId, 'evt_a'), null, 'settled')
  t.equal(await lockPendingEvent(db, cipher, tenantId, 'evt_i'), null)
  t.strictSame(await pending(), ['evt_b', 'evt_c'])
  const next = (await lockPendingEvent(db, cipher, tenantId, 'evt_c')) as PendingEvent
  await saveEventSettled(db, next, 'applied')

  const held = (await lockPendingEvent(db, cipher, tenantId, 'evt_b')) as PendingEvent
  await postponeEvent(db, held, 60_000)
  t.strictSame(await pending(), [])
  t.match(await inboxFigures(db), { pending: 1, failed: 0 }, 'it still waits')
  await postponeEvent(db, held, -1)
  t.strictSame(await pending(), ['evt_b'])
})

t.test('failing, giving up, trying again', async (t) => {
  const { db, pool, tenantId } = await openTables(t)
  await insertEvents(db, cipher, [event(tenantId, 'evt_1'), event(tenantId, 'evt_q', { status: 'quarantined' })])
  const held = (await lockPendingEvent(db, cipher, tenantId, 'evt_1')) as PendingEvent
  const row = async () => (await pool.query("select * from stripe_events where id = 'evt_1'")).rows[0]
  await saveEventFailure(db, held, 'broke', 60_000)
  t.match(await row(), { status: 'pending', attempts: 1, error: 'broke', next_attempt_at: Date })
  t.strictSame(await findPendingEvents(db, 10), [])
  await saveEventFailure(db, held, 'broke again', null)
  t.match(await row(), { status: 'failed', attempts: 2, next_attempt_at: null })
  t.match(await inboxFigures(db), { pending: 0, failed: 1, oldestSeconds: 0 })

  t.equal(await reopenEvent(db, tenantId, 'evt_1'), true)
  t.match(await row(), { status: 'pending', attempts: 0, error: null, outcome: null })
  t.equal(await reopenEvent(db, tenantId, 'evt_q'), false, 'nobody’s event is not for this tenant to replay')
  t.equal(await reopenEvent(db, tenantId, 'evt_9'), false)

  await saveEventFailure(db, held, 'broke', null)
  t.equal(await reviveFailedEvents(db, 60_000, 10), 0, 'not at once')
  await pool.query("update stripe_events set received_at = now() - interval '2 minutes'")
  t.equal(await reviveFailedEvents(db, 60_000, 10), 1)
  t.match(await row(), { status: 'pending', attempts: 0 })
  const { oldestSeconds } = await inboxFigures(db)
  t.ok(oldestSeconds >= 120 && oldestSeconds < 180, `${oldestSeconds} s`)
})

t.test('the latest events of one customer', async (t) => {
  const { db, tenantId } = await openTables(t)
  await insertEvents(db, cipher, [
    ...[1, 2, 3].map((n) => event(tenantId, `evt_${n}`, { created: at(n), payload: JSON.stringify({ n }) })),
    event(tenantId, 'evt_other', { created: at(9), stripeCustomerId: 'cus_2' }),
  ])
  const found = await findEventsOfCustomer(db, cipher, tenantId, 'cus_1', at(2))
  t.strictSame(
    found.map(({ payload }) => payload),
    [{ n: 3 }, { n: 2 }],
  )
})
