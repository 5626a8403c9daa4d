import Stripe from 'stripe'
import t from 'tap'
import { errorOf, receive, second, simulate } from './harness.js'

t.test('an endpoint made through the API gets what it asked for, at its version, signed with its secret', async (t) => {
  const hook = await receive(t)
  const { stripe, controls, clock } = await simulate(t)
  const endpoint = await stripe.webhookEndpoints.create({
    url: hook.url,
    enabled_events: ['customer.deleted', 'customer.updated'],
    api_version: '2024-06-20',
  })
  const { id } = await stripe.customers.create({})
  await stripe.customers.update(id, { name: 'x' })
  t.equal((await controls.deliverDue()).length, 1)
  const [{ body = '', headers = {} } = {}] = hook.received
  const event = Stripe.webhooks.constructEvent(
    body,
    String(headers['stripe-signature']),
    endpoint.secret ?? '',
    undefined,
    undefined,
    clock.now(),
  )
  t.match(event, { type: 'customer.updated', api_version: '2024-06-20', pending_webhooks: 1 })
  t.match(await stripe.events.retrieve(event.id), { api_version: '2026-10-28.endive', pending_webhooks: 0 })
})

t.test('what is made while an endpoint is disabled is never sent; retries of one that is gone stop', async (t) => {
  const hook = await receive(t)
  const { stripe, controls, clock } = await simulate(t)
  const { id } = await stripe.webhookEndpoints.create({ url: hook.url, enabled_events: ['*'] })
  hook.answers.push(500, 500)
  await stripe.customers.create({})
  await controls.deliverDue()
  t.match(await stripe.webhookEndpoints.update(id, { disabled: true }), { status: 'disabled' })
  await stripe.customers.create({})
  t.equal(controls.pendingDeliveries().length, 1)
  t.match(await stripe.webhookEndpoints.update(id, { disabled: false }), { status: 'enabled' })
  clock.advance(60 * second)
  t.match(await controls.deliverDue(), [{ attempt: 2, status: 500 }], 'enabled again in time: retries go on')
  await stripe.webhookEndpoints.del(id)
  clock.advance(3600 * second)
  t.strictSame(await controls.deliverDue(), [])
  t.equal(controls.pendingDeliveries().length, 0)
})

t.test('Connect endpoints get the events of connected accounts, others those of their own', async (t) => {
  const [own, connect, target] = [await receive(t), await receive(t), await receive(t)]
  const { stripe, controls, client } = await simulate(t, { webhookUrl: target.url })
  await stripe.webhookEndpoints.create({ url: own.url, enabled_events: ['*'] })
  await stripe.webhookEndpoints.create({ url: connect.url, enabled_events: ['*'], connect: true })
  await stripe.customers.create({}, { stripeAccount: 'acct_1Connected' })
  await stripe.customers.create({})
  await client('sk_test_acct_1Own').customers.create({})
  await controls.deliverDue()
  t.strictSame(
    own.received.map(({ event }) => event.account),
    [undefined],
  )
  t.strictSame(
    connect.received.map(({ event }) => event.account),
    ['acct_1Connected'],
  )
  t.equal(target.received.length, 2, 'the target gets both, but not those of an account with a key of its own')
})

t.test('endpoints are kept, listed, changed and deleted; the secret shows once', async (t) => {
  const { stripe } = await simulate(t)
  const url = 'http://localhost/hook'
  const { id, secret, ...rest } = await stripe.webhookEndpoints.create({
    url,
    enabled_events: ['customer.created'],
    metadata: { a: '1' },
  })
  t.match(secret, /^whsec_[A-Za-z0-9]{32}$/)
  t.match(rest, { api_version: null, application: null, description: null, livemode: false, status: 'enabled' })
  t.notOk('secret' in (await stripe.webhookEndpoints.retrieve(id)))
  t.match(
    await stripe.webhookEndpoints.update(id, {
      url: `${url}/2`,
      enabled_events: ['*'],
      description: 'd',
      metadata: { b: '2' },
    }),
    { url: `${url}/2`, enabled_events: ['*'], description: 'd', metadata: { a: '1', b: '2' } },
  )
  const second = await stripe.webhookEndpoints.create({ url, enabled_events: ['*'] })
  t.strictSame(
    (await stripe.webhookEndpoints.list({ limit: 1 })).data.map((endpoint) => endpoint.id),
    [second.id],
  )
  t.equal((await stripe.webhookEndpoints.list({ starting_after: second.id })).data[0]?.id, id)
  t.strictSame({ ...(await stripe.webhookEndpoints.del(id)) }, { id, object: 'webhook_endpoint', deleted: true })
  t.match(await errorOf(stripe.webhookEndpoints.retrieve(id)), { statusCode: 404, code: 'resource_missing' })
  for (let at = 1; at < 16; at++) await stripe.webhookEndpoints.create({ url, enabled_events: ['*'] })
  const cases: Array<[object, object]> = [
    [{ url, enabled_events: ['*'] }, { message: /maximum of 16/ }],
    [{ url }, { code: 'parameter_missing', param: 'enabled_events' }],
    [{ enabled_events: ['*'] }, { code: 'parameter_missing', param: 'url' }],
    [{ url: 'nowhere', enabled_events: ['*'] }, { code: 'url_invalid' }],
    [{ url: '', enabled_events: ['*'] }, { code: 'parameter_invalid_empty' }],
    [{ url, enabled_events: ['Nonsense'] }, { param: 'enabled_events[0]' }],
    [{ url, enabled_events: '' }, { code: 'parameter_invalid_empty' }],
    [{ url, nope: 1, enabled_events: ['*'] }, { code: 'parameter_unknown' }],
  ]
  for (const [params, error] of cases) {
    t.match(await errorOf(stripe.webhookEndpoints.create(params as Stripe.WebhookEndpointCreateParams)), error)
  }
})
