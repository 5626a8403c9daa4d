import t from 'tap'
import { second, simulate, start } from './harness.js'

t.test('the index names every switch', async (t) => {
  const { control } = await simulate(t)
  const { body } = await control('GET', '')
  for (const call of ['GET /_simulator/state', 'POST /_simulator/faults', 'PATCH /_simulator/customers/:id']) {
    t.ok(body.switches.some((entry: { call: string; description: string }) => entry.call === call && entry.description))
  }
  t.ok(body.faultKinds.reset_after)
  t.equal((await control('GET', '/nonsense')).status, 404)
})

t.test('customers are edited as if in the dashboard', async (t) => {
  const { control, stripe, controls } = await simulate(t)
  const created = await control('POST', '/customers', {
    email: 'a@b.co',
    metadata: { a: '1' },
    preferred_locales: ['sv'],
  })
  t.match(created, { status: 200, body: { email: 'a@b.co', preferred_locales: ['sv'] } })
  const { id } = created.body
  const edited = await control('PATCH', `/customers/${id}`, {
    email: null,
    balance: 100,
    delinquent: true,
    currency: 'sek',
    default_source: 'card_1',
    invoice_settings: { default_payment_method: 'pm_1' },
    metadata: { a: null, b: '2' },
    address: { city: 'Lund' },
    shipping: {},
  })
  const expected = {
    email: null,
    balance: 100,
    delinquent: true,
    currency: 'sek',
    default_source: 'card_1',
    invoice_settings: { default_payment_method: 'pm_1' },
    address: { city: 'Lund' },
  }
  t.match(edited.body, expected)
  t.match(await stripe.customers.retrieve(id), expected)
  t.strictSame((await control('GET', `/customers/${id}`)).body.metadata, { b: '2' })
  const { data } = await stripe.events.list()
  t.match(data[0], { type: 'customer.updated', request: { id: null, idempotency_key: null } })
  t.match(data[0]?.data.previous_attributes, { delinquent: false, invoice_settings: { default_payment_method: null } })
  t.match(await control('PATCH', `/customers/${id}`, { email: 'x' }), {
    status: 400,
    body: { error: { code: 'email_invalid' } },
  })
  t.match(await control('PATCH', `/customers/${id}`, '{'), { status: 400 })
  t.match(await control('PATCH', `/customers/${id}`, '[]'), { status: 400 })
  t.strictSame((await control('DELETE', `/customers/${id}`)).body, { id, object: 'customer', deleted: true })
  t.equal((await control('PATCH', `/customers/${id}`, {})).status, 400)
  t.equal((await control('DELETE', `/customers/${id}`)).status, 404)

  await control('POST', '/customers?account=acct_1Connected', { name: 'C' })
  t.equal(controls.events('acct_1Connected').length, 1)
  t.equal((await control('GET', '/events?account=acct_1Connected')).body.data[0].account, 'acct_1Connected')
})

t.test('the dump pages through all customers, oldest first', async (t) => {
  const { control, stripe } = await simulate(t, { customers: 5 })
  const { id } = await stripe.customers.create({})
  const first = await control('GET', '/customers?limit=4')
  t.match(first.body, { has_more: true, total: 6 })
  t.equal(first.body.data[0].email, 'customer0@example.com')
  const second = await control('GET', `/customers?limit=4&after=${first.body.data[3].id}`)
  t.match(second.body, { has_more: false, data: [{ email: 'customer4@example.com' }, { id }] })
  t.equal((await control('GET', '/customers?after=cus_x')).status, 404)
  t.equal((await control('GET', '/customers?limit=x')).status, 400)
  await stripe.customers.list({}, { stripeAccount: 'acct_1Other' })
  t.strictSame((await control('GET', '/customers?account=acct_1Other')).body, { data: [], has_more: false, total: 0 })
})

t.test('a redaction leaves placeholders in the customer and its events', async (t) => {
  const { control, stripe } = await simulate(t)
  const { id } = await stripe.customers.create({
    name: 'Ada',
    email: 'a@b.co',
    metadata: { a: 'secret' },
    address: { city: 'Lund' },
    shipping: { name: 'Ada', address: { city: 'Lund' } },
  })
  await stripe.customers.update(id, { name: 'Grace' })
  const { body } = await control('POST', `/customers/${id}/redact`)
  t.match(body, { name: '[redacted]', email: '[redacted]', metadata: { a: '[redacted]' }, phone: null })
  const everything = JSON.stringify([await stripe.customers.retrieve(id), await stripe.events.list()])
  t.notMatch(everything, /Ada|Grace|a@b\.co|secret|Lund/)
  t.equal((await stripe.events.list()).data.length, 2, 'and there is no event about it')
  t.equal((await control('POST', '/customers/cus_x/redact')).status, 404)
})

t.test('the state counts calls by operation and status', async (t) => {
  const { control, stripe } = await simulate(t, { webhookUrl: 'http://127.0.0.1:1/' })
  await stripe.customers.create({})
  await stripe.customers.retrieve('cus_x').catch(() => {})
  const { body } = await control('GET', '/state')
  t.match(body, {
    livemode: false,
    now: start,
    frozen: true,
    pendingDeliveries: 1,
    nextDeliveryAt: start,
    calls: {
      'customers.create': { total: 1, byStatus: { 200: 1 } },
      'customers.retrieve': { total: 1, byStatus: { 404: 1 } },
    },
  })
  t.match(Object.values(body.accounts), [{ customers: 1, events: 1, idempotencyKeys: 1 }])
  t.strictSame((await control('DELETE', '/calls')).body, {})
})

t.test('the clock is moved, stopped and started', async (t) => {
  const { control, stripe } = await simulate(t)
  t.strictSame((await control('POST', '/clock', { advance: 1000 })).body, { now: start + 1000, frozen: true })
  t.strictSame((await control('POST', '/clock', { set: start - 5000 })).body, { now: start - 5000, frozen: true })
  t.equal((await stripe.customers.create({})).created, (start - 5000) / 1000)
  t.equal((await control('POST', '/clock', { advance: 'x' })).status, 400)
  t.equal((await control('POST', '/clock', { rewind: 1 })).status, 400)

  const real = await simulate(t, { clock: { now: () => Date.now() } })
  const set = (body: object) => real.control('POST', '/clock', body)
  t.strictSame((await set({ freeze: true, set: start })).body.frozen, true)
  await set({ set: start })
  t.strictSame((await real.control('GET', '/clock')).body, { now: start, frozen: true })
  t.strictSame((await set({ advance: second })).body, { now: start + second, frozen: true })
  const { body } = await set({ freeze: false })
  t.equal(body.frozen, false)
  t.ok(body.now >= start + second && body.now < start + 60 * second)
  await set({ advance: 3600 * second })
  t.ok((await real.control('GET', '/clock')).body.now >= start + 3601 * second)
})

t.test('settings are read and changed, mistakes named', async (t) => {
  const { control, stripe } = await simulate(t)
  const changed = await control('PUT', '/settings', {
    rateLimit: 1,
    retryDelaysMs: [1],
    webhookUrl: 'http://127.0.0.1:1/',
    keepBlankAddressParts: true,
  })
  t.match(changed.body, { rateLimit: 1, retryDelaysMs: [1], webhookUrl: 'http://127.0.0.1:1/' })
  await stripe.customers.list()
  t.match(await stripe.customers.list().catch((error) => error), { statusCode: 429 })
  await control('PUT', '/settings', { rateLimit: null, webhookUrl: null })
  await stripe.customers.list()
  t.notOk((await control('GET', '/settings')).body.webhookUrl)
  const mistakes = [{ nope: 1 }, { latencyMs: 'x' }, { latencyMs: null }, { retryDelaysMs: 1 }, { noopEvents: 1 }]
  for (const mistake of mistakes)
    t.equal((await control('PUT', '/settings', mistake)).status, 400, JSON.stringify(mistake))
  for (const mistake of [{ nope: 1 }, { paused: 1 }, { drop: 'x' }, { extraSecrets: 'x' }]) {
    t.equal((await control('PUT', '/deliveries', mistake)).status, 400, JSON.stringify(mistake))
  }
  for (const mistake of [{}, { kind: 'x' }, { kind: '429', nope: 1 }, { kind: '429', times: 'x' }]) {
    t.equal((await control('POST', '/faults', mistake)).status, 400, JSON.stringify(mistake))
  }
  t.equal((await control('POST', '/events', { type: 1 })).status, 400)
  const { body } = await control('POST', '/faults', { kind: '429', times: 3, probability: 0, delayMs: 1 })
  t.equal((await control('GET', '/faults')).body.data.length, 1)
  t.equal((await control('DELETE', `/faults/${body.id}`)).body.data.length, 0)
})
