import t from 'tap'
import { type NewDelivery, storeDeliveries } from '../../src/repositories/delivery-batches.js'
import { inboxFigures } from '../../src/repositories/stripe-events.js'
import { eventOf } from '../helpers/webhooks.js'
import { openParts } from '../scenarios/core.js'

type Parts = Awaited<ReturnType<typeof openParts>>

/** A user whose customer is in step, and events of edits that were made in Stripe clearly later. */
async function linked({ addUser, reconcile, controls, pool }: Parts, email: string) {
  const id = await addUser(email)
  await reconcile(id)
  const { rows } = await pool.query('select stripe_customer_id as id from users where id = $1', [id])
  const stripeId: string = rows[0].id
  const edit = (description: string, secondsLater = 60) => {
    const customer = controls.getCustomer(stripeId) as unknown as Record<string, unknown> & {
      description: string | null
    }
    const before = customer.description
    return eventOf(
      { ...customer, description },
      {
        created: Math.floor(Date.now() / 1000) + secondsLater,
        data: { object: { ...customer, description }, previous_attributes: { description: before } },
      },
    )
  }
  return { id, stripeId, edit }
}

function deliveryOf(tenantId: string, event: object, isQuarantined = false): NewDelivery {
  return { tenantId, isQuarantined, text: JSON.stringify(event) }
}

t.test('what was delivered is filed once, and a plain edit is written as what it came to', async (t) => {
  const parts = await openParts(t)
  const { db, vault, tenant, drain, pool, metrics } = parts
  const { id, edit } = await linked(parts, 'plain@example.com')
  const event = edit('from Stripe')
  const delivery = deliveryOf(tenant.id, event)
  const ignored = deliveryOf(tenant.id, eventOf({ id: 'in_1', object: 'invoice' }, { type: 'invoice.paid' }))
  const strange = deliveryOf(tenant.id, eventOf({ id: 'cus_other', object: 'customer' }), true)
  await storeDeliveries(db, vault.cipher, [delivery, ignored, delivery, strange])
  await storeDeliveries(db, vault.cipher, [delivery])
  t.match(await inboxFigures(db), { pending: 5, failed: 0 }, 'it shows that they wait')
  const raw = (await pool.query('select sealed from delivery_batches')).rows
  t.notMatch(JSON.stringify(raw), /plain@example|from Stripe/, 'nothing of it can be read')

  await drain.drainBatch()
  t.match((await pool.query('select description from users where id = $1', [id])).rows, [
    { description: 'from Stripe' },
  ])
  const { rows } = await pool.query(
    'select id, status, outcome from stripe_events where id = any($1) order by status',
    [[event.id, JSON.parse(ignored.text).id, JSON.parse(strange.text).id]],
  )
  t.match(rows, [
    { status: 'ignored', outcome: null },
    { id: event.id, status: 'processed', outcome: 'applied' },
    { status: 'quarantined', outcome: null },
  ])
  t.match(await inboxFigures(db), { pending: 0, failed: 0 })
  const { values } = await metrics.webhooks.get()
  t.equal(values.find(({ labels }) => labels.outcome === 'duplicate')?.value, 2, 'two deliveries were no news')
  t.equal(await drain.drainBatch(), 0)
})

t.test('several edits of one customer in one batch take effect in their order', async (t) => {
  const parts = await openParts(t)
  const { db, vault, tenant, drain, pool, controls } = parts
  const { id, stripeId } = await linked(parts, 'order@example.com')
  const customer = controls.getCustomer(stripeId) as unknown as Record<string, unknown>
  const steps = ['one', 'two', 'three'].map((description, n, all) =>
    eventOf(
      { ...customer, description },
      {
        created: Math.floor(Date.now() / 1000) + 60 * (n + 1),
        data: { object: { ...customer, description }, previous_attributes: { description: all[n - 1] ?? null } },
      },
    ),
  )
  await storeDeliveries(
    db,
    vault.cipher,
    steps.reverse().map((event) => deliveryOf(tenant.id, event)),
  )
  while ((await drain.drainBatch()) > 0);
  t.match((await pool.query('select description from users where id = $1', [id])).rows, [{ description: 'three' }])
  const { rows } = await pool.query(`select from audit_log where entity_id = $1 and action = 'stripe.update'`, [id])
  t.equal(rows.length, 3, 'each is in the history')
})

t.test('what cannot be filed keeps nothing else from it', async (t) => {
  const parts = await openParts(t)
  const { db, vault, tenant, drain, pool } = parts
  const { id, edit } = await linked(parts, 'beside@example.com')
  const bad = { ...eventOf({ id: 'cus_bad', object: 'customer' }), livemode: 'neither' }
  const beside = eventOf({ id: 'cus_beside', object: 'customer' }, { type: 'customer.somehow' })
  await storeDeliveries(db, vault.cipher, [deliveryOf(tenant.id, bad), deliveryOf(tenant.id, beside)])
  await storeDeliveries(db, vault.cipher, [deliveryOf(tenant.id, edit('all the same'))])
  await pool.query(`insert into delivery_batches (count, sealed) values (1, 'v1.0000000000000000.nothing')`)
  while ((await drain.drainBatch()) > 0);
  t.match((await pool.query('select description from users where id = $1', [id])).rows, [
    { description: 'all the same' },
  ])
  t.equal((await pool.query('select from stripe_events where id = $1', [beside.id])).rowCount, 1)
  const { rows } = await pool.query('select attempts, error, next_attempt_at from delivery_batches order by id')
  t.match(rows, [
    { attempts: 1, error: String, next_attempt_at: Date },
    { attempts: 1, error: String, next_attempt_at: Date },
  ])
  t.match(await inboxFigures(db), { pending: 3 }, 'and shows that it waits')

  await pool.query('update delivery_batches set next_attempt_at = null')
  await drain.drainBatch()
  t.match((await pool.query('select attempts from delivery_batches')).rows, [{ attempts: 2 }, { attempts: 2 }])
})

t.test('two processes file side by side', async (t) => {
  const parts = await openParts(t)
  const { db, vault, tenant, drain, pool } = parts
  const events = Array.from({ length: 300 }, (_, n) =>
    eventOf({ id: `in_${n}`, object: 'invoice' }, { type: 'invoice.paid' }),
  )
  for (const event of events) await storeDeliveries(db, vault.cipher, [deliveryOf(tenant.id, event)])
  const all = async () => {
    while ((await drain.drainBatch()) > 0);
  }
  await Promise.all([all(), all(), all()])
  await all()
  const { rows } = await pool.query(`select count(*)::int as n from stripe_events where type = 'invoice.paid'`)
  t.equal(rows[0].n, 300)
})
