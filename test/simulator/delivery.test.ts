import Stripe from 'stripe'
import t from 'tap'
import { systemClock } from '../../src/lib/clock.js'
import { defaultRetryDelays } from '../../src/simulator/delivery.js'
import { receive, second, seeded, simulate, start, until } from './harness.js'

const verify = (body: string, signature: unknown, secret: string, at = start) =>
  Stripe.webhooks.constructEvent(body, String(signature), secret, undefined, undefined, at)

t.test('an event is delivered signed, once, and then counts as delivered', async (t) => {
  const hook = await receive(t)
  const { stripe, controls } = await simulate(t, { webhookUrl: hook.url, webhookSecret: 'whsec_a' })
  await stripe.customers.create({ name: 'Ada' })
  t.equal((await stripe.events.list()).data[0]?.pending_webhooks, 1)
  t.match(await controls.deliverDue(), [{ attempt: 1, status: 200, delivered: true }])
  t.equal(hook.received.length, 1)
  const [{ body = '', headers = {} } = {}] = hook.received
  const event = verify(body, headers['stripe-signature'], 'whsec_a')
  t.match(event, { type: 'customer.created', data: { object: { name: 'Ada' } } })
  t.throws(() => verify(body, headers['stripe-signature'], 'whsec_b'))
  t.throws(() => verify(body, headers['stripe-signature'], 'whsec_a', start + 301_000))
  t.equal((await stripe.events.list()).data[0]?.pending_webhooks, 0)
  t.strictSame(await controls.deliverDue(), [])
})

t.test('without being stepped, the loop delivers and retries by the clock', async (t) => {
  const hook = await receive(t)
  hook.answers.push(500)
  const { stripe, control } = await simulate(t, { webhookUrl: hook.url, delivery: 'auto', clock: systemClock })
  await stripe.customers.create({})
  await until(() => hook.received.length === 1, 'the first attempt was made')
  await control('POST', '/clock', { advance: 60_000 })
  await until(() => hook.received.length === 2, 'the retry was made')
})

t.test('failures are retried with longer waits, signed anew, until they run out', async (t) => {
  const hook = await receive(t)
  const { stripe, clock, controls } = await simulate(t, {
    webhookUrl: hook.url,
    webhookSecret: 'whsec_a',
    retryDelaysMs: [10_000, 40_000],
  })
  hook.answers.push(500, 302, 404)
  await stripe.customers.create({})
  t.match(await controls.deliverDue(), [{ status: 500, delivered: false }])
  t.strictSame(await controls.deliverDue(), [])
  clock.advance(10 * second)
  t.match(await controls.deliverDue(), [{ attempt: 2, status: 302 }])
  verify(hook.received[1]?.body ?? '', hook.received[1]?.headers['stripe-signature'], 'whsec_a', start + 10_000)
  t.not(hook.received[0]?.headers['stripe-signature'], hook.received[1]?.headers['stripe-signature'])
  clock.advance(40 * second)
  t.match(await controls.deliverDue(), [{ attempt: 3, status: 404 }])
  clock.advance(1000 * second)
  t.strictSame(await controls.deliverDue(), [])
  t.match((await stripe.events.list({ delivery_success: false })).data, [{ pending_webhooks: 1 }])
  t.equal(defaultRetryDelays(false).length, 3)
  t.ok(defaultRetryDelays(true).reduce((a, b) => a + b) <= 72 * 3_600_000)
})

t.test('an unreachable or silent receiver is a failure', async (t) => {
  const { stripe, controls } = await simulate(t, { webhookUrl: 'http://127.0.0.1:1/' })
  await stripe.customers.create({})
  t.match(await controls.flush(), [{ status: null, delivered: false }])
})

t.test('each delivery fault does what it says', async (t) => {
  const hook = await receive(t)
  const { stripe, clock, controls, control } = await simulate(t, {
    webhookUrl: hook.url,
    webhookSecret: 'whsec_a',
    random: seeded(1),
  })
  const make = async (faults: object) => {
    const answer = await control('PUT', '/deliveries', faults)
    t.equal(answer.status, 200)
    hook.received.length = 0
    await stripe.customers.create({})
    await controls.deliverDue()
    return hook.received
  }
  t.equal((await make({ drop: true })).length, 0)
  t.equal((await control('GET', '/deliveries')).body.data.length, 0, 'dropped for good')
  t.match((await stripe.events.list({ limit: 1 })).data, [{ pending_webhooks: 1 }])

  const twice = await make({ duplicate: 1 })
  t.equal(twice.length, 2)
  t.equal(twice[0]?.event.id, twice[1]?.event.id)

  const twins = await make({ twin: true })
  t.equal(twins.length, 2)
  t.not(twins[0]?.event.id, twins[1]?.event.id)
  t.strictSame(twins[0]?.event.data, twins[1]?.event.data)

  t.equal((await make({ delayMs: 5000 })).length, 0)
  clock.advance(5 * second)
  t.equal((await controls.deliverDue()).length, 1)

  t.equal((await make({ paused: true })).length, 0)
  t.equal((await control('POST', '/deliveries/flush')).body.data.length, 1, 'a flush delivers all the same')

  t.equal((await make({ livemodeMismatch: true }))[0]?.event.livemode, true)

  const now = clock.now()
  const [bad] = await make({ badSignature: true })
  t.throws(() => verify(bad?.body ?? '', bad?.headers['stripe-signature'], 'whsec_a', now))
  const [old] = await make({ timestampSkewSeconds: -600 })
  t.throws(() => verify(old?.body ?? '', old?.headers['stripe-signature'], 'whsec_a', now), /tolerance/)

  const [rolling] = await make({ extraSecrets: ['whsec_new'] })
  for (const secret of ['whsec_a', 'whsec_new'])
    verify(rolling?.body ?? '', rolling?.headers['stripe-signature'], secret, now)

  await control('PUT', '/deliveries', { reorder: true, reorderWindowMs: 10_000 })
  hook.received.length = 0
  const made: string[] = []
  for (let at = 0; at < 20; at++) made.push((await stripe.customers.create({})).id)
  clock.advance(10 * second)
  await controls.deliverDue()
  const order = hook.received.map(({ event }) => (event.data.object as Stripe.Customer).id)
  t.equal(new Set(order).size, 20)
  t.notSame(order, made)

  t.strictSame((await make({})).length, 1, 'what is not given is off again')
})

t.test('a resend delivers again without touching the retries', async (t) => {
  const hook = await receive(t)
  const { stripe, controls, control } = await simulate(t, { webhookUrl: hook.url })
  hook.answers.push(500)
  await stripe.customers.create({})
  await controls.deliverDue()
  const { data } = await stripe.events.list()
  t.strictSame((await control('POST', `/events/${data[0]?.id}/resend`)).body, { deliveries: 1 })
  t.match((await control('POST', '/deliveries/deliver-due')).body.data, [{ status: 200 }])
  t.equal(controls.pendingDeliveries().length, 1, 'the automatic retry still waits')
  t.equal((await control('POST', '/events/evt_x/resend')).status, 404)
})

t.test('an unknown kind of event can be made and is delivered', async (t) => {
  const hook = await receive(t)
  const { controls, control } = await simulate(t, { webhookUrl: hook.url })
  const made = await control('POST', '/events', { type: 'invoice.paid', object: { id: 'in_1', object: 'invoice' } })
  t.match(made.body, { type: 'invoice.paid', request: { id: null } })
  await controls.deliverDue()
  t.match(hook.received[0]?.event, { type: 'invoice.paid', data: { object: { id: 'in_1' } } })
})
