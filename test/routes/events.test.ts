import t from 'tap'
import { isProblem, openApi } from '../helpers/api.js'

t.test('events', async (t) => {
  const api = await openApi(t)
  await api.pool.query(
    `insert into stripe_events (tenant_id, id, type, livemode, created, payload, source, status, stripe_customer_id)
     select $1, 'evt_' || n, case when n = 1 then 'invoice.paid' else 'customer.updated' end, false, now(),
       '{"id":"x","data":{"object":{"email":"ada@example.com"}}}', 'webhook', case when n < 3 then 'ignored' else 'failed' end, 'cus_' || n
     from generate_series(1, 4) n`,
    [api.tenantId],
  )
  const list = await api.call('GET', '/events')
  t.equal(list.body.data.length, 4)
  t.notMatch(JSON.stringify(list.body), 'ada@example.com', 'lists hold no payloads')
  t.equal((await api.call('GET', '/events?status=failed')).body.data.length, 2)
  t.match((await api.call('GET', '/events?type=invoice.paid')).body.data, [{ id: 'evt_1' }])
  t.match((await api.call('GET', '/events?stripeCustomerId=cus_2')).body.data, [{ id: 'evt_2' }])
  const first = (await api.call('GET', '/events?limit=2')).body
  const second = (await api.call('GET', `/events?limit=2&cursor=${first.nextCursor}`)).body
  t.equal(new Set([...first.data, ...second.data].map(({ id }) => id)).size, 4)
  t.equal(second.nextCursor, null)

  t.match((await api.call('GET', '/events/evt_3')).body, {
    payload: { data: { object: { email: 'ada@example.com' } } },
  })
  isProblem(t, await api.call('GET', '/events/evt_9'), 404, 'not_found')
  t.match(await api.call('POST', '/events/evt_3/replay'), { status: 202, body: { status: 'pending' } })
  t.ok(api.asked.includes('replay evt_3'))
  isProblem(t, await api.call('POST', '/events/evt_9/replay'), 404, 'not_found')
})
