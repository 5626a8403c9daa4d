import Stripe from 'stripe'
import t from 'tap'
import { startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

// Two services start, and wait for each other's caches; alone that takes seconds, beside other tests much longer.
t.setTimeout(580_000)

/** How long a process may go by what it read before, and some more for a busy machine, in milliseconds. */
const SOON = { timeout: 10_000 }

t.test('what is changed by one process counts in another, without a restart', async (t) => {
  // The first takes no jobs, so that every call to Stripe is the second one's.
  const service = await startService(t, { roles: { api: true, worker: false } })
  const { pool, simulator, api, adminKey } = service
  const { controls } = simulator
  const there = (await service.another()).apiUrl ?? ''
  const account = simulator.accountId
  const call = async (method: string, path: string, body?: unknown, key = adminKey) => {
    const response = await fetch(`${there}${path}`, {
      method,
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', prefer: 'wait=10' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: await response.json() }
  }
  const stripe = (answer: { body: unknown }) => (answer.body as { stripe: unknown }).stripe

  await t.test('a Stripe key', async (t) => {
    const [first, second] = ['sk_test_two_first', 'sk_test_two_second']
    t.match(await api('PUT', '/tenant/stripe', { secretKey: first }), { status: 200 })
    const made = await call('POST', '/customers', { email: 'ada@example.com' })
    t.match(made, { status: 201, body: { stripeCustomerId: /^cus_/ } })

    controls.changeKey(first, { revoked: true })
    const { id } = made.body as { id: string }
    await call('PATCH', `/customers/${id}`, { description: 'kept' })
    await eventually(async () => (await api('GET', '/tenant')).body.stripe.status === 'refused')
    t.match(stripe(await call('GET', '/tenant')), { status: 'refused' }, 'the second one is held up')
    t.match(await api('PUT', '/tenant/stripe', { secretKey: second }), { status: 200, body: { stripe: { account } } })
    await eventually(() => service.stripeCustomers().some(({ description }) => description === 'kept'), {
      timeout: 30_000,
      what: 'what it had kept, by the new key',
    })
    t.match(stripe(await call('GET', '/tenant')), { status: 'connected', key: { last4: second.slice(-4) } })
  })

  await t.test('a webhook secret', async (t) => {
    const { rows } = await pool.query('select id from tenants')
    const deliver = async (url: string, secret: string) => {
      const object = service.stripeCustomers()[0]
      const event = { id: `evt_${secret}`, object: 'event', type: 'customer.updated', created: 1, livemode: false }
      const payload = JSON.stringify({ ...event, api_version: Stripe.API_VERSION, data: { object } })
      const signature = Stripe.webhooks.generateTestHeaderString({ payload, secret })
      const headers = { 'stripe-signature': signature, 'content-type': 'application/json' }
      const path = `/webhooks/stripe/${rows[0].id}`
      return (await fetch(`${url}${path}`, { method: 'POST', headers, body: payload })).status
    }
    const [old, next] = ['whsec_two_old', 'whsec_two_next']
    t.equal((await api('PUT', '/tenant/stripe', { webhookSecrets: [old] })).status, 200)
    await eventually(async () => (await deliver(there, old)) === 200, SOON)
    t.equal(await deliver(there, next), 400)
    t.equal((await api('PUT', '/tenant/stripe', { webhookSecrets: [next] })).status, 200)
    await eventually(async () => (await deliver(there, next)) === 200, SOON)
    await eventually(async () => (await deliver(there, old)) === 400, SOON)
    t.equal(await deliver(service.app.apiUrl ?? '', old), 400, 'nor the first one')
  })

  await t.test('a setting', async (t) => {
    const phone = (n: number) => `020 7946 095${n}`
    t.equal((await api('PATCH', '/tenant/settings', { defaultRegion: 'GB' })).status, 200)
    let n = 0
    await eventually(async () => {
      n += 1
      const { body } = await call('POST', '/customers', { phone: phone(n % 10), email: `n${n}@example.com` })
      return (body as { phone?: string }).phone?.startsWith('+4420')
    }, SOON)
  })

  await t.test('an API key that is revoked', async (t) => {
    const { body } = await api('POST', '/api-keys', { name: 'till', role: 'viewer' })
    const status = async () => (await call('GET', '/customers?limit=1', undefined, body.key)).status
    t.equal(await status(), 200, 'the second one knows it')
    t.equal((await api('DELETE', `/api-keys/${body.id}`)).status, 204)
    await eventually(async () => (await status()) === 401, SOON)
  })
})
