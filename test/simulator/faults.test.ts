import t from 'tap'
import { type FaultKind, Faults } from '../../src/simulator/faults.js'
import { errorOf, seeded, simulate } from './harness.js'

t.test('each fault answers as Stripe would and leaves the change made or not', async (t) => {
  const expected: Array<[FaultKind, object, boolean]> = [
    ['429', { statusCode: 429, code: 'rate_limit', headers: { 'stripe-rate-limited-reason': 'global-rate' } }, false],
    [
      'lock_timeout',
      { statusCode: 429, code: 'lock_timeout', requestId: undefined, headers: { 'stripe-should-retry': 'true' } },
      false,
    ],
    ['500', { statusCode: 500, rawType: 'api_error', headers: { 'stripe-should-retry': 'false' } }, false],
    ['500_after', { statusCode: 500, rawType: 'api_error' }, true],
    ['timeout_before', { type: 'StripeConnectionError' }, false],
    ['timeout_after', { type: 'StripeConnectionError' }, true],
    ['reset_before', { type: 'StripeConnectionError' }, false],
    ['reset_after', { type: 'StripeConnectionError' }, true],
    ['truncate', { type: 'StripeConnectionError' }, true],
    [
      '401',
      {
        statusCode: 401,
        type: 'StripeAuthenticationError',
        requestId: undefined,
        headers: { 'www-authenticate': 'Bearer realm="Stripe"' },
      },
      false,
    ],
    [
      '403',
      { statusCode: 403, type: 'StripePermissionError', message: /does not have the required permissions/ },
      false,
    ],
    [
      'wrong_mode',
      {
        statusCode: 404,
        code: 'resource_missing',
        message: /a similar object exists in live mode, but a test mode key/,
      },
      false,
    ],
  ]
  for (const [kind, error, made] of expected) {
    const { client, controls, control } = await simulate(t)
    const added = await control('POST', '/faults', { kind, operation: 'customers.create' })
    t.match(added, { status: 200, body: { kind, operation: 'customers.create' } })
    const stripe = client('rk_test_abcdefgh', { timeout: 100 })
    t.match(await errorOf(stripe.customers.create({ name: 'A' })), error, kind)
    t.equal(controls.dump().total, made ? 1 : 0, `${kind} ${made ? 'after' : 'before'} the change`)
    t.equal(controls.events().length, made ? 1 : 0)
    await stripe.customers.list()
    await control('DELETE', '/faults')
    await stripe.customers.create({ name: 'B' })
  }
})

t.test('wrong_mode names the id; a delay is only slow', async (t) => {
  const { stripe, controls } = await simulate(t)
  const { id } = await stripe.customers.create({})
  controls.faults.add({ kind: 'wrong_mode', times: 1 })
  t.match(await errorOf(stripe.customers.retrieve(id)), {
    message: new RegExp(`^No such customer: '${id}'; a similar`),
  })
  controls.faults.add({ kind: 'delay', delayMs: 30 })
  const before = performance.now()
  await stripe.customers.retrieve(id)
  t.ok(performance.now() - before >= 29)
})

t.test('rules count down, match by pattern and by chance, and can be removed', (t) => {
  const faults = new Faults(seeded(2))
  faults.add({ kind: '429', operation: 'customers.*', times: 2 })
  const last = faults.add({ kind: '500', probability: 0.5 })
  t.equal(faults.take('customers.list')?.kind, '429')
  t.equal(faults.take('customers.create')?.kind, '429')
  const taken = Array.from({ length: 1000 }, () => faults.take('events.list')).filter(Boolean)
  t.ok(taken.length > 400 && taken.length < 600)
  faults.remove(last.id)
  t.strictSame(faults.rules, [])
  t.end()
})

t.test('keys: missing, wrong, restricted, and the accounts they stand for', async (t) => {
  const { client, raw, simulator } = await simulate(t)
  const none = await raw('/v1/customers', { headers: { Authorization: '' } })
  t.equal(none.status, 401)
  t.equal(none.headers.get('request-id'), null)
  t.equal(none.headers.get('www-authenticate'), 'Bearer realm="Stripe"')
  t.match(none.body.error, { type: 'invalid_request_error', message: /You did not provide an API key/ })
  t.match(await errorOf(client('sk_live_1').customers.list()), {
    statusCode: 401,
    message: /^Invalid API Key provided: sk_live_/,
  })
  t.equal((await client('sk_test_acct_1Own').accounts.retrieveCurrent()).id, 'acct_1Own')
  t.equal((await client().accounts.retrieveCurrent()).id, simulator.accountId)
  const basic = Buffer.from('sk_test_1:').toString('base64')
  t.equal((await raw('/v1/customers', { headers: { Authorization: `Basic ${basic}` } })).status, 200)

  const listed = await simulate(t, {
    apiKeys: [
      'sk_test_a',
      { key: 'rk_test_b', allow: ['events.*', 'customers.list'] },
      { key: 'sk_live_c', account: 'acct_1C' },
    ],
  })
  t.match(await errorOf(listed.client('sk_test_1').customers.list()), { statusCode: 401 })
  const restricted = listed.client('rk_test_b')
  await restricted.customers.list()
  await restricted.events.list()
  t.match(await errorOf(restricted.customers.create({})), { statusCode: 403, message: /Customers Write/ })
  const live = await listed.client('sk_live_c').customers.create({})
  t.equal(live.livemode, true)
})

t.test('the other mode of an account is named when an id belongs there', async (t) => {
  const { client } = await simulate(t, { apiKeys: ['sk_test_a', 'sk_live_a'] })
  const { id } = await client('sk_test_a').customers.create({})
  t.match(await errorOf(client('sk_live_a').customers.retrieve(id)), {
    message: `No such customer: '${id}'; a similar object exists in test mode, but a live mode key was used to make this request.`,
  })
})

t.test('what is no call of the API', async (t) => {
  const { raw } = await simulate(t)
  const unknown = await raw('/v1/nonsense')
  t.equal(unknown.status, 404)
  t.match(unknown.body.error.message, /^Unrecognized request URL \(GET: \/v1\/nonsense\)/)
  const json = await raw('/v1/customers', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: '{"a":1}',
  })
  t.equal(json.status, 400)
  t.equal((await raw('/v1/customers/%zz')).status, 404)
  t.equal((await raw('/_simulator/customers/%zz')).status, 404)
  await t.rejects(raw('/v1/customers', { method: 'POST', body: 'x'.repeat(2_000_000) }), 'a body over the limit')
})
