import t from 'tap'
import { covers, previousAttributes } from '../../src/simulator/events.js'
import { errorOf, hour, second, simulate } from './harness.js'

t.test('each change makes one event that says what changed and who asked', async (t) => {
  const { stripe, clock } = await simulate(t)
  const { id, lastResponse } = await stripe.customers.create(
    { name: 'Ada', address: { city: 'Lund', country: 'SE' }, metadata: { a: '1', b: '2' } },
    { idempotencyKey: 'lockstep-1' },
  )
  clock.advance(second)
  await stripe.customers.update(id, {
    name: 'Grace',
    address: { city: 'Oslo', country: 'SE' },
    metadata: { a: '', b: '3', c: '4' },
    preferred_locales: ['sv'],
    invoice_settings: { footer: 'x' },
    shipping: { name: 'S', address: { city: 'x' } },
  })
  await stripe.customers.del(id)
  const { data } = await stripe.events.list()
  t.strictSame(
    data.map(({ type }) => type),
    ['customer.deleted', 'customer.updated', 'customer.created'],
  )
  const [deleted, updated, created] = data
  t.match(created, {
    object: 'event',
    api_version: '2026-10-28.endive',
    created: 1_795_176_000,
    livemode: false,
    pending_webhooks: 0,
    request: { id: lastResponse.requestId, idempotency_key: 'lockstep-1' },
    data: { object: { id, name: 'Ada' } },
  })
  t.notOk(created && 'previous_attributes' in created.data)
  t.notOk(created && 'account' in created)
  t.strictSame(updated?.data.previous_attributes, {
    address: { city: 'Lund' },
    invoice_settings: { footer: null },
    metadata: { a: '1', b: '2', c: null },
    name: 'Ada',
    preferred_locales: [],
    shipping: null,
  })
  t.match(updated?.request?.idempotency_key, /^stripe-node-retry-/)
  t.match(deleted, { request: { idempotency_key: null }, data: { object: { id, name: 'Grace', object: 'customer' } } })
  t.notOk(deleted && 'deleted' in deleted.data.object, 'the whole last object, without a flag')
  t.match(await stripe.events.retrieve(created?.id ?? ''), { id: created?.id })
})

t.test('an update that changes nothing makes no event, unless told to', async (t) => {
  const { stripe, control } = await simulate(t)
  const { id } = await stripe.customers.create({ name: 'Ada' })
  await stripe.customers.update(id, { name: ' Ada ' })
  t.equal((await stripe.events.list()).data.length, 1)
  await control('PUT', '/settings', { noopEvents: true })
  await stripe.customers.update(id, { name: 'Ada' })
  t.equal((await stripe.events.list()).data[0]?.type, 'customer.updated')
})

t.test('list filters by type, window and delivery, and pages', async (t) => {
  const { stripe, clock, controls } = await simulate(t, { webhookUrl: 'http://127.0.0.1:9/' })
  const { id } = await stripe.customers.create({})
  clock.advance(second)
  await stripe.customers.update(id, { name: 'x' })
  controls.changeSettings({ webhookUrl: undefined })
  clock.advance(second)
  await stripe.customers.del(id)
  const types = async (params: object) =>
    (await stripe.events.list(params)).data.map(({ type }) => type.replace('customer.', ''))
  t.strictSame(await types({ type: 'customer.updated' }), ['updated'])
  t.strictSame(await types({ type: 'customer.*' }), ['deleted', 'updated', 'created'])
  t.strictSame(await types({ types: ['customer.created', 'customer.deleted'] }), ['deleted', 'created'])
  t.strictSame(await types({ created: { gte: 1_795_176_001 } }), ['deleted', 'updated'])
  t.strictSame(await types({ delivery_success: false }), ['updated', 'created'])
  t.strictSame(await types({ delivery_success: true }), ['deleted'])
  const first = await stripe.events.list({ limit: 1 })
  const cursor = first.data[0]?.id ?? ''
  t.strictSame(await types({ starting_after: cursor }), ['updated', 'created'])
  t.strictSame(await types({ ending_before: cursor }), [])
  t.match(await errorOf(stripe.events.list({ starting_after: 'evt_x' })), {
    statusCode: 400,
    message: "No such notification: 'evt_x'",
  })
  t.match(await errorOf(stripe.events.list({ type: 'a', types: ['b'] })), { code: 'parameters_exclusive' })
  t.match(await errorOf(stripe.events.list({ types: Array.from({ length: 21 }, () => 'x') })), { param: 'types' })
  t.match(await errorOf(stripe.events.list({ delivery_success: 'no' as never })), { message: /Invalid boolean/ })
  t.match(await errorOf(stripe.events.retrieve('evt_x')), { statusCode: 404 })
})

t.test('events show after the visibility lag and are kept for 30 days', async (t) => {
  const { stripe, clock } = await simulate(t, { eventVisibilityLagMs: 5000 })
  await stripe.customers.create({})
  t.equal((await stripe.events.list()).data.length, 0)
  clock.advance(5 * second)
  const { data } = await stripe.events.list()
  t.equal(data.length, 1)
  clock.advance(30 * 24 * hour)
  t.equal((await stripe.events.list()).data.length, 0)
  t.match(await errorOf(stripe.events.retrieve(data[0]?.id ?? '')), { statusCode: 404 })
  await stripe.customers.create({})
  clock.advance(5 * second)
  t.equal((await stripe.events.list()).data.length, 1)
})

t.test('events belong to one account; those of connected accounts carry it', async (t) => {
  const { stripe, client } = await simulate(t)
  const connected = { stripeAccount: 'acct_1Connected' }
  const { id, lastResponse } = await stripe.customers.create({}, connected)
  t.equal(lastResponse.headers['stripe-account'], 'acct_1Connected')
  t.match(await errorOf(stripe.customers.retrieve(id)), { statusCode: 404 })
  t.equal((await stripe.customers.retrieve(id, {}, connected)).id, id)
  t.equal((await stripe.events.list()).data.length, 0)
  t.match((await stripe.events.list({}, connected)).data, [{ account: 'acct_1Connected' }])
  const own = client('sk_test_acct_1Own')
  await own.customers.create({})
  t.notOk('account' in ((await own.events.list()).data[0] ?? {}), 'an account with a key of its own is not connected')
  t.match(await errorOf(stripe.customers.list({}, { stripeAccount: 'nonsense' })), {
    statusCode: 403,
    code: 'account_invalid',
  })
})

t.test('previous attributes and patterns', (t) => {
  t.strictSame(previousAttributes({ a: 1 }, { a: 1 }), undefined)
  t.strictSame(previousAttributes({ a: [1], b: { c: 1, d: 2 } }, { a: [1, 2], b: { c: 1, d: 3 } }), {
    a: [1],
    b: { d: 2 },
  })
  t.strictSame(previousAttributes({ a: { b: 1 } }, { a: null }), { a: { b: 1 } })
  t.ok(covers('*', 'x.y'))
  t.ok(covers('customer.*', 'customer.created'))
  t.notOk(covers('customer.created', 'customer.updated'))
  t.end()
})

t.test('what receivers must not rely on can be taken away', async (t) => {
  const { stripe, control } = await simulate(t)
  const { body } = await control('PUT', '/settings', { omitPreviousAttributes: true, deletedEventStub: true })
  t.match(body, { omitPreviousAttributes: true, deletedEventStub: true })
  const { id } = await stripe.customers.create({})
  await stripe.customers.update(id, { name: 'x' })
  await stripe.customers.del(id)
  const [deleted, updated] = (await stripe.events.list()).data
  t.strictSame(deleted?.data, { object: { id, object: 'customer', deleted: true } })
  t.notOk(updated && 'previous_attributes' in updated.data)
})
