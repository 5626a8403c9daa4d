import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('the states of a customer: who, when and why, whoever wrote', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const states = async (query = '') => (await api.call('GET', `/customers/${id}/states${query}`)).body
  t.match((await states()).data, [{ from: null, to: 'active', actor: /^key:/, reason: null }])

  await api.call('DELETE', `/customers/${id}?reason=closed%20the%20account`)
  await api.call('DELETE', `/customers/${id}?reason=again`)
  await api.call('POST', `/customers/${id}/restore?reason=came%20back`)
  await api.call('PATCH', `/customers/${id}`, { body: { firstName: 'Ada' } })
  await api.pool.query("update users set state = 'archived' where id = $1", [id])
  const client = await api.pool.connect()
  await client.query('begin')
  await client.query("select set_config('lockstep.actor', 'crm', true), set_config('lockstep.reason', 'moved', true)")
  await client.query("update users set state = 'active' where id = $1", [id])
  await client.query('commit')
  await client.query("update users set state = 'archived' where id = $1", [id])
  client.release()
  await api.call('DELETE', `/customers/${id}?erase=true&reason=asked%20for%20it`)
  const { data } = await states()
  t.strictSame(
    data.map(({ from, to, reason }: Record<string, string>) => [from, to, reason]),
    [
      ['archived', 'erased', 'asked for it'],
      ['active', 'archived', null],
      ['archived', 'active', 'moved'],
      ['active', 'archived', null],
      ['archived', 'active', 'came back'],
      ['active', 'archived', 'closed the account'],
      [null, 'active', null],
    ],
  )
  t.strictSame(
    data.map(({ actor }: { actor: string }) => actor.replace(/^key:.*/, 'key')),
    ['key', 'sql', 'crm', 'sql', 'key', 'key', 'key'],
  )
  const first = await states('?limit=4')
  const rest = await states(`?limit=4&cursor=${first.nextCursor}`)
  t.strictSame([...first.data, ...rest.data], data)
  t.equal(rest.nextCursor, null)

  await api.pool.query('delete from users where id = $1', [id])
  t.match((await states()).data[0], { from: 'erased', to: 'deleted', actor: 'sql' }, 'it outlives the row')
})

t.test('a change that does not go through leaves no trace', async (t) => {
  const api = await openApi(t)
  const { body: order } = await api.call('POST', '/orders', { body: { attendees: [{ email: 'ada@example.com' }] } })
  const { customerId: id } = order.attendees[0]
  isProblem(t, await api.call('DELETE', `/customers/${id}?reason=x`), 409, 'customer_in_use')
  const { data } = (await api.call('GET', `/customers/${id}/states`)).body
  t.match(data, [{ from: null, to: 'active', actor: /^key:/, reason: 'came with an order' }])
  t.equal(data.length, 1)
  isProblem(t, await api.call('GET', `/customers/${newId()}/states`), 404, 'not_found')
  isProblem(t, await api.call('GET', `/customers/${id}/states`, { key: api.keys.other }), 404, 'not_found')
  isProblem(
    t,
    await api.call('DELETE', `/customers/${id}?reason=${'x'.repeat(201)}`),
    400,
    'validation_failed',
    'reason',
  )
  isProblem(t, await api.call('DELETE', `/customers/${id}?reason=%00`), 400, 'validation_failed', 'reason')
})
