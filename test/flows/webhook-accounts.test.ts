import type Stripe from 'stripe'
import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'
import { deliver, eventOf, type Json, metric, nowSeconds, rowOf, settled, storedEvents } from '../helpers/webhooks.js'

// A dozen deliveries take a second alone, and much longer beside other tests.
t.setTimeout(580_000)

/** Another tenant whose Stripe objects live in a connected account. */
async function connectTenant({ pool }: Service, stripeAccount: string, livemode = false): Promise<string> {
  const id = newId()
  await pool.query(
    'insert into tenants (id, slug, name, stripe_account, livemode, swept_at) values ($1, $2, $2, $2, $3, now())',
    [id, stripeAccount, livemode],
  )
  return id
}

/** All that is known of a tenant's users, to prove that it did not change. */
async function holdings({ pool }: Service, tenantId: string): Promise<string> {
  const tables = ['users', 'sync_state', 'stripe_links', 'sync_conflicts', 'duplicate_customers']
  const rows = await Promise.all(
    tables.map((table) =>
      pool.query(`select to_jsonb(x) as row from ${table} x where tenant_id = $1 order by 1`, [tenantId]),
    ),
  )
  return JSON.stringify(rows.map((result) => result.rows))
}

t.test('Connect: whose event it is', async (t) => {
  const service = await startService(t)
  const { api, pool, simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const platform = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string
  const shop = await connectTenant(service, 'acct_shop')
  const { stripeId } = await newCustomer({ email: 'platform@example.com', description: 'of the platform' })
  await quiet()

  t.test('of another tenant: it goes there, both ways', async (t) => {
    const before = await holdings(service, platform)
    const { id } = controls.createCustomer({ email: 'shop@example.com', name: 'Shop Keeper' }, 'acct_shop')
    const user = await eventually(
      async () => (await pool.query('select * from users where stripe_customer_id = $1', [id])).rows[0],
    )
    await quiet()
    t.match(user, { tenant_id: shop, email: 'shop@example.com' })
    await pool.query("update users set description = 'by SQL' where id = $1", [user.id])
    await eventually(() => (controls.getCustomer(id, 'acct_shop') as Stripe.Customer).description === 'by SQL')
    await quiet()
    t.equal(await holdings(service, platform), before)
  })

  t.test('of another tenant, about a customer with the id of one of ours: ours is not touched', async (t) => {
    const before = await holdings(service, platform)
    await pool.query("update tenants set settings = jsonb_build_object('onRemoteCreate', 'link-only') where id = $1", [
      shop,
    ])
    // Its metadata even names our user.
    const twin = { ...(controls.getCustomer(stripeId) as unknown as Json), email: 'twin@example.com' }
    const of = (type: string) => eventOf(twin, { type, account: 'acct_shop', created: nowSeconds() + 60 })
    const created = of('customer.created')
    t.match(await deliver(service, created), { status: 200 })
    t.match(await eventually(() => settled(service, created.id)), { tenantId: shop, outcome: 'not_imported' })
    for (const type of ['customer.updated', 'customer.deleted']) {
      const event = of(type)
      t.match(await deliver(service, event, { path: `/${platform}` }), { status: 200 }, 'whatever the path says')
      t.match(await eventually(() => settled(service, event.id)), { tenantId: shop, status: 'processed' }, type)
    }
    t.equal(await holdings(service, platform), before)
  })

  t.test('of an account that nobody has: kept aside with 2xx, and nothing else', async (t) => {
    const [ours, theirs] = [await holdings(service, platform), await holdings(service, shop)]
    for (const type of ['customer.created', 'customer.updated', 'customer.deleted']) {
      const event = eventOf(controls.getCustomer(stripeId), {
        type,
        account: 'acct_nobody',
        created: nowSeconds() + 60,
      })
      t.match(await deliver(service, event), { status: 200, body: { received: true } }, type)
      t.match(await settled(service, event.id), { status: 'quarantined', outcome: null })
      t.match(await api('POST', `/events/${event.id}/replay`), { status: 404 }, 'not even on request')
      t.match(await deliver(service, event), { status: 200 }, 'again')
    }
    t.equal(await metric(service, 'lockstep_webhook_deliveries_total{outcome="quarantined"}'), 6)
    await quiet()
    t.equal(await holdings(service, platform), ours)
    t.equal(await holdings(service, shop), theirs)
  })

  t.test('kept aside, it is no word about our own customer with that id', async (t) => {
    // The time of an edit that we overwrote is looked for among the customer's events.
    const { id, stripeId: edited } = await newCustomer({ email: 'aside@example.com', description: 'base' })
    await quiet()
    controls.advanceClock(10_000)
    controls.setDeliveryFaults({ drop: 1 })
    controls.updateCustomer(edited, { description: 'theirs' })
    const { data } = controls.events()[0] as unknown as { data: Json }
    const foreign = eventOf({}, { data, account: 'acct_nobody', created: nowSeconds() + 3_000 })
    t.match(await deliver(service, foreign), { status: 200 })
    await api('PATCH', `/customers/${id}`, { description: 'ours' }, { prefer: 'wait=10' })
    controls.setDeliveryFaults()
    const own = controls.events()[0]
    t.match(own, { type: 'customer.updated', data: { previous_attributes: { description: 'theirs' } } })
    controls.resendEvent(own?.id ?? '')
    await eventually(() => settled(service, own?.id ?? ''))
    await quiet()
    t.match(await rowOf(service, id), { description: 'ours' })
    const { conflicts } = (await api('GET', `/customers/${id}/sync`)).body
    t.match(conflicts, [{ reason: 'overwritten', winner: 'local' }])
  })

  t.test('of our own account, named or not: it stays here', async (t) => {
    await pool.query('update tenants set stripe_account = $2 where id = $1', [platform, simulator.accountId])
    for (const account of [{}, { account: simulator.accountId }, { account: null }]) {
      const event = eventOf(controls.getCustomer(stripeId), account)
      t.match(await deliver(service, event), { status: 200 })
      t.match(await eventually(() => settled(service, event.id)), { tenantId: platform, status: 'processed' })
    }
    await pool.query('update tenants set stripe_account = null where id = $1', [platform])
  })
})

t.test('the other mode', async (t) => {
  const service = await startService(t)
  const { pool, simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const platform = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string
  const { id, stripeId } = await newCustomer({ email: 'mode@example.com' })
  await quiet()
  const before = await storedEvents(service)

  controls.setDeliveryFaults({ livemodeMismatch: true })
  controls.updateCustomer(stripeId, { description: 'from the wrong mode' })
  await eventually(() => controls.summary().recentDeliveries.at(-1)?.status === 400)
  t.equal(await storedEvents(service), before, 'refused, and nothing of it is stored')
  t.match(await rowOf(service, id), { description: null })
  controls.setDeliveryFaults()
  await quiet()
  t.match(await rowOf(service, id), { description: 'from the wrong mode' }, 'the next try is right')

  // A live Connect endpoint also gets its accounts' test events, for as long as they are refused (docs.stripe.com/connect/webhooks).
  const shop = await connectTenant(service, 'acct_live', true)
  const object = controls.getCustomer(stripeId)
  const known = eventOf(object)
  t.match(await deliver(service, known), { status: 200 })
  await settled(service, known.id)
  const holding = [await holdings(service, platform), await holdings(service, shop)]
  for (const type of ['customer.created', 'customer.updated', 'customer.deleted']) {
    const test = eventOf(object, { type, account: 'acct_live', created: nowSeconds() + 60 })
    t.match(await deliver(service, test), { status: 200 }, 'a test event of a live account is taken')
    t.match(await settled(service, test.id), { status: 'quarantined' }, 'and does nothing')
  }
  const wrong = await storedEvents(service)
  const live = eventOf(object, { account: 'acct_nobody', livemode: true })
  t.match(await deliver(service, live), { status: 400, body: { code: 'wrong_mode' } }, 'a live one at a test endpoint')
  await pool.query('update tenants set livemode = true where id = $1', [platform])
  // What the API knows of a tenant may be a second old.
  await eventually(async () => (await deliver(service, known)).status === 400)
  t.match(await deliver(service, eventOf(object)), { status: 400, body: { code: 'wrong_mode' } }, "the platform's own")
  t.equal(await storedEvents(service), wrong)
  const nobody = eventOf(object, { account: 'acct_nobody' })
  t.match(await deliver(service, nobody), { status: 200 })
  t.match(await settled(service, nobody.id), { status: 'quarantined' })
  await pool.query('update tenants set livemode = false where id = $1', [platform])
  t.strictSame([await holdings(service, platform), await holdings(service, shop)], holding)
})
