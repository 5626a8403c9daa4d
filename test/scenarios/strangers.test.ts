import t, { type Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { openParts } from './core.js'
import { eventAbout, type Json, must, nowSeconds, openScene, type Scene, SECOND } from './scene.js'

t.setTimeout(580_000)

/** Another tenant, whose Stripe objects live in a connected account. */
async function connect({ pool }: Scene, account: string, livemode = false): Promise<string> {
  const id = newId()
  await pool.query(
    'insert into tenants (id, slug, name, stripe_account, livemode, swept_at) values ($1, $2, $2, $2, $3, now())',
    [id, account, livemode],
  )
  return id
}

/** All that is known of a tenant's users, to prove that nothing of it changed. */
async function holdings({ pool }: Scene, tenantId: string): Promise<string> {
  const tables = ['users', 'sync_state', 'stripe_links', 'sync_conflicts', 'duplicate_customers']
  const found = tables.map((table) =>
    pool.query(`select to_jsonb(x) as row from ${table} x where tenant_id = $1 order by 1`, [tenantId]),
  )
  return JSON.stringify((await Promise.all(found)).map(({ rows }) => rows))
}

t.test('scenarios: customers that nobody here made', async (t) => {
  const scene = await openScene(t)
  const { pool, controls, newCustomer, quiet, unseen, deliver, event, eventsOf, usersWith, linksOf, metric } = scene
  const platform = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string

  t.test('16. updated before created: read, then taken over; a deletion beats a late created', async (t) => {
    const stripeId = unseen(() => {
      const { id } = controls.createCustomer({ email: 'early@example.com', name: 'First Name' })
      controls.updateCustomer(id, { name: 'Second Name' })
      return id
    })
    const [updated, created] = eventsOf(stripeId)
    // What happened since, the late events do not tell.
    unseen(() => controls.updateCustomer(stripeId, { name: 'Third Name' }))
    await deliver(must(updated))
    await quiet()
    t.match(await usersWith(stripeId), [{ email: 'early@example.com', first_name: 'Third', last_name: 'Name' }])
    await deliver(must(created))
    await quiet()
    t.match(await usersWith(stripeId), [{ email: 'early@example.com', first_name: 'Third', last_name: 'Name' }])
    t.match(await event(must(created).id), { outcome: 'stale' })

    const goneId = unseen(() => {
      const { id } = controls.createCustomer({ email: 'gone@example.com' })
      controls.updateCustomer(id, { name: 'Gone' })
      controls.deleteCustomer(id)
      return id
    })
    for (const late of eventsOf(goneId)) {
      await deliver(late)
      await quiet()
    }
    const outcomes = await Promise.all(eventsOf(goneId).map(async ({ id }) => (await event(id))?.outcome))
    t.strictSame(outcomes, ['deleted', 'dead_customer', 'dead_customer'])
    t.equal((await pool.query("select from users where email = 'gone@example.com'")).rowCount, 0)
    const { rows } = await pool.query('select * from stripe_links where stripe_customer_id = $1', [goneId])
    t.match(rows, [{ user_id: null, how: 'tombstone', deleted_at: Date }])
  })

  t.test('29. a test event at a live endpoint, and the reverse: no row of the other mode is touched', async (t) => {
    const { stripeId } = await newCustomer({ email: 'mode@example.com' })
    await quiet()
    const shop = await connect(scene, 'acct_live', true)
    const before = await Promise.all([holdings(scene, platform), holdings(scene, shop)])
    const object = scene.stripeOf(stripeId)
    for (const type of ['customer.created', 'customer.updated', 'customer.deleted']) {
      const test = eventAbout(object, { type, account: 'acct_live', created: nowSeconds() + 60 })
      t.match(await deliver(test), { status: 200 }, 'a live Connect endpoint also gets the test events of its accounts')
      t.match(await event(test.id), { status: 'quarantined', outcome: null })
      const live = eventAbout(object, { type, livemode: true, created: nowSeconds() + 60 })
      t.match(await deliver(live), { status: 400, body: { code: 'wrong_mode' } }, 'a live event at a test endpoint')
      t.equal(await event(live.id), undefined)
    }
    await quiet()
    t.strictSame(await Promise.all([holdings(scene, platform), holdings(scene, shop)]), before)
  })

  t.test('31. an event of another account: to that tenant; of nobody’s account: kept aside with 2xx', async (t) => {
    const { stripeId } = await newCustomer({ email: 'platform@example.com' })
    await quiet()
    const shop = await connect(scene, 'acct_shop')
    const before = await holdings(scene, platform)
    const made = controls.createCustomer({ email: 'shop@example.com' }, 'acct_shop')
    // As if ids were not unique across accounts: the same id there is another customer.
    const twin = { ...(scene.stripeOf(stripeId) as unknown as Json), email: 'twin@example.com', metadata: {} }
    for (const type of ['customer.created', 'customer.updated', 'customer.deleted']) {
      const there = eventAbout(twin, { type, account: 'acct_shop', created: nowSeconds() + 60 })
      t.match(await deliver(there), { status: 200 })
      const nobodys = eventAbout(twin, { type, account: 'acct_nobody', created: nowSeconds() + 60 })
      t.match(await deliver(nobodys), { status: 200 })
      t.match(await event(nobodys.id), { status: 'quarantined', outcome: null })
    }
    await quiet()
    t.match(await usersWith(made.id), [{ tenant_id: shop, email: 'shop@example.com' }])
    const { rows } = await pool.query('select * from stripe_links where stripe_customer_id = $1 and tenant_id = $2', [
      stripeId,
      shop,
    ])
    t.match(rows, [{ deleted_at: Date }], 'created, changed and deleted there')
    t.equal(await holdings(scene, platform), before, 'and nothing of it is filed under the platform')
    t.equal(await metric('lockstep_webhook_deliveries_total{outcome="quarantined"}'), 3 + 3)
  })

  t.test('17. a customer made in the dashboard: one user, also when events and a sweep come at once', async (t) => {
    for (let round = 0; round < 3; round += 1) {
      controls.setDeliveryFaults({ duplicate: 1, twin: 1, reorder: true, reorderWindowMs: 50 })
      const { id } = controls.createCustomer({ email: `dash-${round}@example.com`, name: 'Dash Board' })
      controls.updateCustomer(id, { description: 'made in the dashboard' })
      await Promise.all([scene.run('sweep'), scene.run('catch_up')])
      await quiet()
      const users = await usersWith(id)
      t.match(users, [{ first_name: 'Dash', description: 'made in the dashboard' }])
      t.match(await linksOf(users[0].id), [{ stripe_customer_id: id, how: 'imported' }])
      t.equal((await pool.query('select from users where email = $1', [`dash-${round}@example.com`])).rowCount, 1)
      t.match(scene.stripeOf(id), { metadata: { lockstep_user_id: users[0].id } }, 'and is told whose it is')
    }
    await concurrently(t)
  })
})

/** The same with every cause in the same moment, as several processes would have it. */
async function concurrently(t: Test): Promise<void> {
  const parts = await openParts(t)
  const { pool, controls, drain, runs, tenant, reconcile, comeIn, eventsOf } = parts
  for (let round = 0; round < 5; round += 1) {
    controls.advanceClock(10 * SECOND)
    const { id } = controls.createCustomer({ email: `race-${round}@example.com` })
    controls.updateCustomer(id, { name: 'Ada King' })
    const run = await runs.start({
      tenantId: tenant.id,
      kind: 'sweep',
      dryRun: false,
      trigger: 'api',
      requestedBy: null,
    })
    await Promise.all([
      comeIn(...eventsOf(id)),
      runs.execute(run.id, new AbortController().signal),
      drain.drainBatch(),
      drain.drainBatch(),
    ])
    await drain.drainBatch()
    const { rows } = await pool.query('select * from users where email = $1', [`race-${round}@example.com`])
    t.equal(rows.length, 1)
    t.match(await reconcile(rows[0].id), { outcome: 'settled', status: 'in_sync', stripeCustomerId: id })
    t.match((await pool.query('select first_name from users where stripe_customer_id = $1', [id])).rows, [
      { first_name: 'Ada' },
    ])
  }
}
