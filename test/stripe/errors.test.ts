import { createServer } from 'node:http'
import Stripe from 'stripe'
import t, { type Test } from 'tap'
import { LockstepError } from '../../src/lib/errors.js'
import { makeMetrics } from '../../src/lib/metrics.js'
import type { FaultKind } from '../../src/simulator/faults.js'
import { startSimulator } from '../../src/simulator/server.js'
import { makeStripe, makeStripeAccount, type StripeAccount } from '../../src/stripe/account.js'
import {
  DuplicateCustomerError,
  invalidParameter,
  mapStripeError,
  StripeAuthError,
  StripeCallError,
  StripeIdempotencyError,
  StripeNotFoundError,
  StripeRateLimitError,
  StripeUnavailableError,
  StripeValidationError,
} from '../../src/stripe/errors.js'

const EMAIL = 'ada.secret@example.com'

interface Expected {
  type: new (...args: never[]) => StripeCallError
  code: string
  retryable: boolean
  notApplied: boolean
  statusCode?: number | null
}

const auth: Expected = { type: StripeAuthError, code: 'stripe_auth_failed', retryable: true, notApplied: true }
const rate: Expected = { type: StripeRateLimitError, code: 'stripe_rate_limited', retryable: true, notApplied: true }
const down: Expected = { type: StripeUnavailableError, code: 'stripe_unavailable', retryable: true, notApplied: false }
const invalid: Expected = {
  type: StripeValidationError,
  code: 'stripe_invalid_request',
  retryable: false,
  notApplied: true,
}
const missing: Expected = { type: StripeNotFoundError, code: 'stripe_not_found', retryable: false, notApplied: true }

/** What each fault of the simulator has to come to. */
const FAULTS = {
  '401': { ...auth, statusCode: 401 },
  '403': { ...auth, statusCode: 403 },
  wrong_mode: { ...auth, statusCode: 404 },
  '429': { ...rate, statusCode: 429 },
  lock_timeout: { ...rate, statusCode: 429 },
  '500': { ...down, statusCode: 500 },
  '500_after': { ...down, statusCode: 500 },
  reset_before: { ...down, statusCode: null },
  reset_after: { ...down, statusCode: null },
  truncate: down,
  timeout_before: { ...down, statusCode: null },
  timeout_after: { ...down, statusCode: null },
} as const satisfies Partial<Record<FaultKind, Expected>>

async function open(t: Test) {
  const simulator = await startSimulator({ delivery: 'manual' })
  t.teardown(() => simulator.close())
  const refusals: object[] = []
  const metrics = makeMetrics()
  const stripe = new Stripe('sk_test_1', {
    host: simulator.host,
    port: simulator.port,
    protocol: 'http',
    telemetry: false,
    maxNetworkRetries: 0,
    timeout: 300,
  })
  const account = makeStripeAccount({
    stripe,
    connectAccount: null,
    urgency: 'push',
    limiter: { take: async () => {}, slow: async (name, refusal) => void refusals.push({ name, ...refusal }) },
    metrics,
  })
  return { controls: simulator.controls, account, refusals, metrics }
}

async function failureOf(call: Promise<unknown>): Promise<StripeCallError> {
  const error = await call.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  if (error instanceof StripeCallError) return error
  throw new Error('the call did not fail with a StripeCallError', { cause: error })
}

function check(t: Test, error: StripeCallError, { type, ...expected }: Expected, name: string): void {
  t.type(error, type, name)
  t.match(error, expected, name)
  t.notMatch(error.message, /@|sk_test|secret/, `${name}: the message holds nothing of the customer or the key`)
  t.ok(error.message.length > 20, `${name}: ${error.message}`)
}

const create = (account: StripeAccount, params: Stripe.CustomerCreateParams, idempotencyKey = `k-${Math.random()}`) =>
  account.call('customers.create', (stripe, options) => stripe.customers.create(params, { ...options, idempotencyKey }))

t.test('what the simulator can do wrong, through the SDK', async (t) => {
  const { controls, account, refusals, metrics } = await open(t)
  for (const [kind, expected] of Object.entries(FAULTS) as [FaultKind, Expected][]) {
    controls.faults.add({ operation: 'customers.create', kind })
    check(t, await failureOf(create(account, { email: EMAIL })), expected, kind)
    controls.faults.remove()
  }
  t.strictSame(
    refusals,
    [{ name: 'platform', operation: null, retryAfterSeconds: null }],
    'only being asked for fewer calls slows everybody down; a locked object does not',
  )
  const counted = await metrics.registry.metrics()
  t.match(counted, /lockstep_stripe_calls_total\{operation="customers.create",outcome="stripe_rate_limited"\} 2/)
  t.match(counted, /lockstep_stripe_calls_total\{operation="customers.create",outcome="stripe_auth_failed"\} 3/)
})

t.test('what a caller can do wrong', async (t) => {
  const { controls, account } = await open(t)
  const refused = await failureOf(create(account, { email: EMAIL, phone: '1'.repeat(30) }))
  check(t, refused, { ...invalid, statusCode: 400 }, 'a parameter')
  t.equal(refused.param, 'phone')
  t.match(refused.requestId, /^req_/)
  check(t, await failureOf(create(account, { email: 'ada.secret' })), invalid, 'an e-mail')

  const get = (id: string) => account.call('customers.retrieve', (stripe) => stripe.customers.retrieve(id))
  check(t, await failureOf(get('cus_never')), { ...missing, statusCode: 404 }, 'an id that never was')

  const made = await create(account, { email: EMAIL }, 'once')
  const mismatch = await failureOf(create(account, { email: `x${EMAIL}` }, 'once'))
  check(
    t,
    mismatch,
    { type: StripeIdempotencyError, code: 'stripe_idempotency_mismatch', retryable: false, notApplied: true },
    'a key with other parameters',
  )

  controls.deleteCustomer(made.id)
  const late = account.call('customers.update', (stripe) => stripe.customers.update(made.id, { name: 'Late' }))
  check(t, await failureOf(late), { ...missing, statusCode: 400 }, 'a change of one deleted: 400, but the code says it')
})

t.test('the same key at the same time: the one that waits is to come again, with that key', async (t) => {
  const { controls, account } = await open(t)
  controls.faults.add({ operation: 'customers.create', kind: 'delay', delayMs: 150 })
  const answers = await Promise.allSettled([1, 2].map(() => create(account, { email: EMAIL }, 'same')))
  const failures = answers.flatMap((answer) => (answer.status === 'rejected' ? [answer.reason] : []))
  for (const failure of failures) check(t, failure, { ...down, statusCode: 409 }, 'in use')
  t.equal(controls.dump().total, 1)
})

t.test('by status and code alone, where the simulator has no such answer', async (t) => {
  const raised = (raw: object, statusCode: number) =>
    mapStripeError(Stripe.errors.StripeError.generate({ message: EMAIL, statusCode, ...raw } as never))
  const cases: [string, object, number, Expected][] = [
    ['conflict', { type: 'api_error', code: 'idempotency_key_in_use' }, 409, down],
    ['failed dependency', { type: 'api_error' }, 424, down],
    ['bad gateway', { type: 'api_error' }, 502, down],
    ['an unknown 4xx', { type: 'invalid_request_error' }, 418, invalid],
    ['a card', { type: 'card_error', code: 'card_declined' }, 402, invalid],
    ['rate by code', { type: 'invalid_request_error', code: 'rate_limit' }, 400, rate],
    [
      'there already',
      { type: 'invalid_request_error', code: 'resource_already_exists', param: 'id' },
      400,
      { type: DuplicateCustomerError, code: 'stripe_duplicate', retryable: false, notApplied: true },
    ],
  ]
  for (const [name, raw, status, expected] of cases) {
    check(t, raised(raw, status) as StripeCallError, expected, name)
  }
})

t.test('what is no answer at all, and what is ours', async (t) => {
  for (const thrown of [new TypeError(EMAIL), undefined, EMAIL]) {
    check(t, mapStripeError(thrown) as StripeCallError, { ...down, statusCode: null }, String(typeof thrown))
  }
  const ours = new LockstepError('Ours.', { code: 'ours' })
  t.equal(mapStripeError(ours), ours)
  const own = invalidParameter('shipping[name]', 'is missing')
  check(t, own, { ...invalid, statusCode: null }, 'our own check')
  t.equal(own.param, 'shipping[name]')
})

t.test('what an answer of 429 asks for reaches the limiter', async (t) => {
  const answers: Record<string, string>[] = [
    { 'stripe-rate-limited-reason': 'endpoint-rate' },
    { 'stripe-rate-limited-reason': 'global-concurrency', 'retry-after': '3' },
    { 'retry-after': new Date(Date.now() + 60_000).toUTCString() },
    { 'retry-after': 'soon' },
  ]
  const server = createServer((_request, response) => {
    response.writeHead(429, { 'content-type': 'application/json', ...answers.shift() })
    response.end('{"error":{"type":"invalid_request_error","code":"rate_limit","message":"slow down"}}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : 0
  const refusals: { operation: string | null; retryAfterSeconds: number | null }[] = []
  const account = makeStripeAccount({
    stripe: makeStripe({ secretKey: 'sk_test_1', apiBase: `http://127.0.0.1:${port}` }),
    connectAccount: null,
    urgency: 'push',
    limiter: { take: async () => {}, slow: async (_name, refusal) => void refusals.push(refusal) },
    metrics: makeMetrics(),
  })
  for (let n = 0; n < 4; n += 1) await failureOf(create(account, { email: EMAIL }))
  t.strictSame(refusals[0], { operation: 'customers.create', retryAfterSeconds: null })
  t.strictSame(refusals[1], { operation: null, retryAfterSeconds: 3 })
  const seconds = refusals[2]?.retryAfterSeconds ?? 0
  t.ok(seconds > 30 && seconds <= 60, `a date: in ${seconds} s`)
  t.strictSame(refusals[3], { operation: null, retryAfterSeconds: null })
})
