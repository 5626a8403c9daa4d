import t from 'tap'
import { errorOf, second, simulate } from './harness.js'

t.test('calls beyond the limits of a second are refused, with the reason', async (t) => {
  const { stripe, clock } = await simulate(t, { rateLimit: 4, operationRateLimit: 3 })
  for (let at = 0; at < 3; at++) await stripe.customers.create({})
  const refused = await errorOf(stripe.customers.create({}))
  t.match(refused, {
    type: 'StripeRateLimitError',
    statusCode: 429,
    code: 'rate_limit',
    requestId: /^req_/,
    headers: { 'stripe-rate-limited-reason': 'endpoint-rate' },
  })
  t.notOk(refused.headers?.['stripe-should-retry'])
  await stripe.customers.list()
  t.match(await errorOf(stripe.customers.list()), { headers: { 'stripe-rate-limited-reason': 'global-rate' } })
  await stripe.customers.list({}, { stripeAccount: 'acct_1Other' })
  clock.advance(second)
  await stripe.customers.create({})
})
