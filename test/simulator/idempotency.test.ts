import t from 'tap'
import { errorOf, hour, simulate, start, until } from './harness.js'

const idempotencyKey = 'lockstep-1'

t.test('a repeated key replays the first answer, old state and all', async (t) => {
  const { stripe, clock, controls } = await simulate(t)
  const first = await stripe.customers.create({ name: 'A', metadata: { a: '1', b: '2' } }, { idempotencyKey })
  t.match(first.lastResponse.headers, {
    'idempotency-key': idempotencyKey,
    'original-request': first.lastResponse.requestId,
    'stripe-should-retry': 'false',
    date: new Date(start).toUTCString(),
  })
  t.notOk(first.lastResponse.headers['idempotent-replayed'])
  await stripe.customers.update(first.id, { name: 'B' })
  clock.advance(24 * hour - 1)
  const again = await stripe.customers.create({ metadata: { b: '2', a: '1' }, name: 'A' }, { idempotencyKey })
  t.strictSame({ ...again }, { ...first })
  t.match(again.lastResponse.headers, {
    'idempotent-replayed': 'true',
    'original-request': first.lastResponse.requestId,
  })
  t.not(again.lastResponse.requestId, first.lastResponse.requestId)
  t.equal(controls.dump().total, 1)
  clock.advance(1)
  const new_ = await stripe.customers.create({ name: 'A', metadata: { a: '1', b: '2' } }, { idempotencyKey })
  t.not(new_.id, first.id, 'after 24 hours it is a new execution')
})

t.test('other params or another path under one key are an error', async (t) => {
  const { stripe } = await simulate(t)
  const { id } = await stripe.customers.create({ name: 'A' }, { idempotencyKey })
  const error = {
    statusCode: 400,
    type: 'StripeIdempotencyError',
    code: undefined,
    message: /Keys for idempotent requests/,
  }
  t.match(await errorOf(stripe.customers.create({ name: 'B' }, { idempotencyKey })), error)
  t.match(await errorOf(stripe.customers.update(id, { name: 'A' }, { idempotencyKey })), error)
  await stripe.customers.create({ name: 'B' }, { idempotencyKey, stripeAccount: 'acct_1Other' })
})

t.test('a key in flight answers 409', async (t) => {
  const { stripe, controls, simulator } = await simulate(t, { latencyMs: 50 })
  const key = { idempotencyKey }
  const both = await Promise.allSettled([stripe.customers.create({}, key), stripe.customers.create({}, key)])
  t.strictSame(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  const failed = both.find((result) => result.status === 'rejected')
  t.match(failed?.reason, { statusCode: 409, code: 'idempotency_key_in_use', type: 'StripeAPIError' })
  t.equal(controls.dump().total, 1)
  controls.changeSettings({ latencyMs: 0 })
  const calls = [1, 2].map(() =>
    simulator.core.begin({
      method: 'POST',
      url: '/v1/customers',
      headers: { authorization: 'Bearer sk_test_1', 'idempotency-key': 'k' },
      body: '',
    }),
  )
  t.strictSame(
    calls.map((call) => call.finish().status),
    [200, 409],
  )
})

t.test('GET and DELETE ignore keys; validation errors and 429 are not stored; 500 is', async (t) => {
  const { stripe, controls } = await simulate(t)
  t.match(await errorOf(stripe.customers.create({ email: 'x' }, { idempotencyKey })), { code: 'email_invalid' })
  controls.faults.add({ kind: '429', times: 1 })
  t.match(await errorOf(stripe.customers.create({ email: 'a@b.co' }, { idempotencyKey })), { statusCode: 429 })
  const { id } = await stripe.customers.create({ email: 'a@b.co' }, { idempotencyKey })
  await stripe.customers.retrieve(id, {}, { idempotencyKey })
  await stripe.customers.del(id, {}, { idempotencyKey })
  t.notOk((await stripe.customers.retrieve(id)).lastResponse.headers['idempotency-key'])

  controls.faults.add({ kind: '500', times: 1 })
  const key = { idempotencyKey: 'lockstep-2' }
  t.match(await errorOf(stripe.customers.create({}, key)), { statusCode: 500 })
  const replay = await errorOf(stripe.customers.create({}, key))
  t.match(replay, { statusCode: 500, headers: { 'idempotent-replayed': 'true' } })
  t.equal(controls.dump().total, 0)
  t.match(await errorOf(stripe.customers.create({}, { idempotencyKey: 'k'.repeat(256) })), { statusCode: 400 })
})

t.test('a lost answer is had again by the key', async (t) => {
  const { stripe, controls } = await simulate(t)
  controls.faults.add({ kind: 'reset_after', times: 1 })
  const customer = await stripe.customers.create({})
  t.ok(customer.lastResponse.headers['idempotent-replayed'], 'the SDK retries a reset once, with its key')
  await until(() => controls.dump().total === 1, 'one customer is there')
})
