import t from 'tap'
import { startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'
import { deliver, eventOf, metric, nowSeconds, rowOf, settled, storedEvents } from '../helpers/webhooks.js'

// A restart and a dozen deliveries take a second alone, and much longer beside other tests.
t.setTimeout(580_000)

t.test('a secret that is rotated while events come: none is refused, then the old one is', async (t) => {
  const service = await startService(t)
  const { api, simulator, newCustomer, quiet, webhookSecret: old } = service
  const { controls } = simulator
  const next = 'whsec_test_flows_next'
  const { id, stripeId } = await newCustomer({ email: 'rotate@example.com' })
  await quiet()
  // A deployment takes a moment, in which Stripe finds nobody: it tries again.
  controls.changeSettings({ retryDelaysMs: Array.from({ length: 100 }, () => 100) })
  const editing = (async () => {
    for (let n = 0; n < 20; n += 1) {
      controls.updateCustomer(stripeId, { description: `during ${n}` })
      await new Promise((resolve) => setImmediate(resolve))
    }
  })()
  await service.restart({ STRIPE_WEBHOOK_SECRET: `${old},${next}` })
  await editing

  for (const webhookSecret of [old, `${old},${next}`, `${next},${old}`, next]) {
    controls.changeSettings({ webhookSecret })
    const description = `signed with ${webhookSecret}`
    controls.updateCustomer(stripeId, { description })
    await eventually(async () => (await rowOf(service, id)).description === description, { timeout: 30_000 })
  }
  await quiet()
  t.equal(await metric(service, 'lockstep_webhook_deliveries_total{outcome="bad_signature"}'), undefined)
  const updates = controls.events().filter(({ type }) => type === 'customer.updated')
  t.ok(updates.length >= 24)
  for (const { id: eventId } of updates) t.match(await settled(service, eventId), { status: 'processed' })

  await service.restart({ STRIPE_WEBHOOK_SECRET: next })
  // The start reads Stripe's list of events; what comes after that can come by the webhook only.
  await quiet()
  controls.changeSettings({ webhookSecret: old })
  const before = await storedEvents(service)
  controls.updateCustomer(stripeId, { description: 'signed with the old one only' })
  await eventually(() => controls.summary().recentDeliveries.at(-1)?.status === 400)
  t.equal(await storedEvents(service), before, 'nothing of it is stored')
  t.ok((await metric(service, 'lockstep_webhook_deliveries_total{outcome="bad_signature"}')) ?? 0)
  controls.changeSettings({ webhookSecret: next })
  await eventually(async () => (await rowOf(service, id)).description === 'signed with the old one only')
  await quiet()
  t.match((await api('GET', `/customers/${id}/sync`)).body, { status: 'in_sync', conflicts: [] }, 'and nothing is lost')
})

t.test('clocks that do not agree', async (t) => {
  const service = await startService(t)
  const { simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const { id, stripeId } = await newCustomer({ email: 'clock@example.com' })
  await quiet()
  const before = await storedEvents(service)
  const skew = () => metric(service, 'lockstep_webhook_clock_skew_seconds')
  const near = (actual: number | undefined, expected: number) =>
    t.ok(actual !== undefined && Math.abs(actual - expected) < 20, `${actual} is about ${expected}`)

  const object = controls.getCustomer(stripeId)
  for (const seconds of [600, -600, 3_000_000]) {
    const answer = await deliver(service, eventOf(object), { timestamp: nowSeconds() - seconds })
    t.match(answer, { status: 400, body: { code: 'timestamp_out_of_tolerance' } }, `${seconds} s`)
    near(await skew(), seconds)
  }
  t.equal(await storedEvents(service), before, 'nothing of it is stored')
  t.match(await deliver(service, eventOf(object), { timestamp: nowSeconds() - 240 }), { status: 200 })
  near(await skew(), 240)
  const forged = { 'stripe-signature': `t=${nowSeconds() - 900},v1=${'0'.repeat(64)}` }
  await fetch(`${service.app.apiUrl}/webhooks/stripe`, { method: 'POST', headers: forged, body: '{}' })
  near(await skew(), 240)

  controls.setDeliveryFaults({ timestampSkewSeconds: -900 })
  controls.updateCustomer(stripeId, { description: 'while the clock was wrong' })
  await eventually(() => controls.summary().recentDeliveries.at(-1)?.status === 400)
  near(await skew(), 900)
  controls.setDeliveryFaults()
  await quiet()
  t.match(await rowOf(service, id), { description: 'while the clock was wrong' }, 'it comes once the clock is right')
  near(await skew(), 0)
})

t.test('a backlog shows', async (t) => {
  const service = await startService(t)
  const { api, pool } = service
  const health = async () => (await api('GET', '/health')).body
  await service.quiet()
  t.match(await health(), { status: 'ok', parts: { inbox: { status: 'ok', pending: 0, oldestSeconds: 0 } } })
  const wait = (age: string) =>
    pool.query(
      `insert into stripe_events (tenant_id, id, type, livemode, created, payload, source, received_at, next_attempt_at)
       select id, 'evt_' || gen_random_uuid(), 'customer.updated', false, now(), '{}', 'webhook',
         now() - $1::interval, now() + interval '1 hour' from tenants where slug = 'default'`,
      [age],
    )
  await wait('20 seconds')
  const young = await health()
  t.match(young, { status: 'ok', parts: { inbox: { status: 'ok', pending: 1 } } }, 'a burst is nothing unusual')
  t.ok(young.parts.inbox.oldestSeconds >= 20)
  await wait('90 seconds')
  const old = await health()
  t.match(old, {
    status: 'degraded',
    parts: { inbox: { status: 'degraded', code: 'inbox_behind', pending: 2 }, database: { status: 'ok' } },
  })
  t.ok(old.parts.inbox.oldestSeconds >= 90)
  t.equal((await api('GET', '/health/ready')).status, 200, 'more deliveries can be taken')
  t.equal(await metric(service, 'lockstep_inbox_events{status="pending"}'), 2)
  await pool.query("delete from stripe_events where status = 'pending'")
  t.match(await health(), { status: 'ok', parts: { inbox: { status: 'ok', pending: 0 } } })
})
