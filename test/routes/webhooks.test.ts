import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'
import { eventually } from '../helpers/wait.js'

t.test('the raw body goes to the inbox, whatever it is', async (t) => {
  const api = await openApi(t)
  const body = '{ "id" :\n "evt_1" }\u00e9'
  const signed = { 'stripe-signature': 't=1,v1=ab' }
  for (const type of [
    'application/json',
    'application/json; charset=utf-8',
    'text/plain',
    'application/octet-stream',
    'odd/type',
  ]) {
    const answer = await api.call('POST', '/webhooks/stripe', {
      body,
      key: null,
      headers: { ...signed, 'content-type': type },
    })
    t.match(answer, { status: 200, body: { received: true } }, type)
    const got = api.inbox.got.pop()
    t.equal(got?.tenantId, null)
    t.equal(got?.signature, 't=1,v1=ab')
    t.strictSame(got?.rawBody, Buffer.from(body), 'byte for byte')
  }
  const tenantId = newId()
  api.inbox.next = { outcome: 'quarantined', eventId: 'evt_1' }
  t.equal((await api.call('POST', `/webhooks/stripe/${tenantId}`, { body: '{"__proto__":1', key: null })).status, 200)
  t.match(api.inbox.got.pop(), { tenantId, signature: undefined })
  t.equal((await api.call('POST', '/webhooks/stripe', { key: null })).status, 200)
  t.equal(api.inbox.got.pop()?.rawBody.length, 0)
})

t.test('what is not believed', async (t) => {
  const api = await openApi(t)
  for (const reason of [
    'bad_signature',
    'timestamp_out_of_tolerance',
    'unparsable_body',
    'wrong_mode',
    'unknown_tenant',
  ] as const) {
    api.inbox.next = { outcome: 'rejected', reason, message: `because of ${reason}` }
    const answer = await api.call('POST', '/webhooks/stripe', { body: '{}', key: null })
    isProblem(t, answer, 400, reason)
    t.equal(answer.body.detail, `because of ${reason}`)
  }
  const got = api.inbox.got.length
  isProblem(
    t,
    await api.call('POST', '/webhooks/stripe/default', { body: '{}', key: null }),
    400,
    'validation_failed',
    'tenantId',
  )
  isProblem(
    t,
    await api.call('POST', '/webhooks/stripe', { body: 'x'.repeat(100_001), key: null }),
    413,
    'body_too_large',
  )
  t.equal(api.inbox.got.length, got, 'neither reached the inbox')
  t.strictSame(api.asked, ['refuse body_too_large'], 'which was told of what nobody read')
  const other = await api.call('POST', '/customers', { body: JSON.stringify({ email: 'x'.repeat(100_001) }) })
  t.equal(other.status, 413)
  t.equal(api.asked.length, 1, 'other routes are no deliveries')
  isProblem(t, await api.call('GET', '/webhooks/stripe', { key: null }), 405, 'method_not_allowed')
})

t.test('a delivery that the database keeps waiting is told to come again', async (t) => {
  let answer = () => {}
  const api = await openApi(t, ({ inbox, options }) => ({
    options: { ...options, openMetrics: true },
    inbox: {
      ...inbox,
      async accept(input) {
        await new Promise<void>((resolve) => {
          answer = resolve
        })
        return inbox.accept(input)
      },
    },
  }))
  const late = await api.call('POST', '/webhooks/stripe', { body: '{}', key: null })
  isProblem(t, late, 503, 'overloaded')
  t.ok(Number(late.headers.get('retry-after')) >= 1)
  answer()
})

t.test('no more deliveries are under way than fit into memory; the others come again', async (t) => {
  let waiting: (() => void)[] = []
  const api = await openApi(t, ({ inbox, options }) => ({
    // A body without a length may be as long as any: 64 MiB hold 32 of them.
    options: { ...options, webhookBodyLimit: 2 * 1024 * 1024, openMetrics: true },
    inbox: {
      ...inbox,
      async accept(input) {
        await new Promise<void>((resolve) => waiting.push(resolve))
        return inbox.accept(input)
      },
    },
  }))
  await api.call('GET', '/health/live', { key: null })
  const deliver = () =>
    fetch(`${api.url}/webhooks/stripe`, {
      method: 'POST',
      body: new Blob(['{}']).stream(),
      duplex: 'half',
    } as RequestInit)
  const under = Array.from({ length: 32 }, deliver)
  await eventually(() => waiting.length === 32)
  const answer = await api.call('POST', '/webhooks/stripe', { body: '{}', key: null })
  isProblem(t, answer, 503, 'overloaded')
  const { body } = await api.call('GET', '/metrics', { key: null })
  t.match(body, 'lockstep_requests_shed_total{part="webhook"} 1')
  t.equal((await api.call('GET', '/customers')).status, 200, 'the API goes on')
  for (const go of waiting) go()
  waiting = []
  for (const { status } of await Promise.all(under)) t.equal(status, 200)
  const next = api.call('POST', '/webhooks/stripe', { body: '{}', key: null })
  await eventually(() => waiting.length === 1)
  waiting[0]?.()
  t.equal((await next).status, 200, 'there is room again')
})
