import Stripe from 'stripe'
import t from 'tap'
import { ManualClock } from '../../src/lib/clock.js'
import { makeSimulatorCore } from '../../src/simulator/core.js'
import { makeSimulatorFetch } from '../../src/simulator/in-process.js'
import { errorOf, seeded, start } from './harness.js'

/** A run without sockets and timers, told by its deliveries. */
async function run(seed: number) {
  const clock = new ManualClock(start)
  const delivered: string[] = []
  const core = makeSimulatorCore({
    clock,
    random: seeded(seed),
    webhookUrl: 'http://lockstep/hook',
    transport: ({ body, attempt }) => {
      delivered.push(body)
      return attempt === 1 ? 500 : 200
    },
  })
  const stripe = new Stripe('sk_test_1', {
    httpClient: Stripe.createFetchHttpClient(makeSimulatorFetch(core)),
    maxNetworkRetries: 0,
    telemetry: false,
  })
  core.controls.setDeliveryFaults({ reorder: true, duplicate: 0.3, drop: 0.1 })
  for (let at = 0; at < 20; at++) await stripe.customers.create({ name: `N${at}` }, { idempotencyKey: `k${at}` })
  while (core.deliveries.nextDueAt() !== undefined) {
    clock.set(Math.max(clock.now(), core.deliveries.nextDueAt() ?? 0))
    await core.controls.deliverDue()
  }
  return { core, stripe, delivered }
}

t.test('a seeded run in process repeats to the letter', async (t) => {
  const [first, second, other] = [await run(7), await run(7), await run(8)]
  t.ok(first.delivered.length > 30)
  t.strictSame(second.delivered, first.delivered)
  t.notSame(other.delivered, first.delivered)
  t.strictSame(second.core.controls.dump(), first.core.controls.dump())
})

t.test('faults of the connection reach the SDK without a socket', async (t) => {
  const { core, stripe } = await run(1)
  for (const kind of ['reset_before', 'timeout_after', 'truncate'] as const) {
    core.controls.faults.add({ kind })
    const before = core.controls.dump().total
    t.match(await errorOf(stripe.customers.create({})), { type: 'StripeConnectionError' }, kind)
    t.equal(core.controls.dump().total - before, kind === 'reset_before' ? 0 : 1)
    core.controls.faults.remove()
  }
  core.close()
  core.close()
})
