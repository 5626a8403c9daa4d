import t from 'tap'
import { isProblem, openApi } from '../helpers/api.js'

t.test('a key is made, used, listed, and ended', async (t) => {
  const api = await openApi(t)
  const made = await api.call('POST', '/api-keys', { body: { name: 'Till', role: 'viewer' } })
  t.equal(made.status, 201)
  t.equal(made.headers.get('cache-control'), 'no-store')
  t.match(made.body, { name: 'Till', role: 'viewer', scopes: [], expiresAt: null, revokedAt: null, lastUsedAt: null })
  const { id, key } = made.body
  t.equal((await api.call('GET', '/customers', { key })).status, 200)

  const first = await api.call('GET', '/api-keys?limit=1')
  t.match(first.body, { data: [{ id, name: 'Till' }], hasMore: true })
  t.not(first.body.data[0].lastUsedAt, null)
  t.notOk('key' in first.body.data[0], 'it is shown once')
  const rest = await api.call('GET', `/api-keys?cursor=${first.body.nextCursor}`)
  t.strictSame(
    rest.body.data.map(({ name }: { name: string }) => name),
    ['operator', 'viewer', 'manager', 'admin'],
  )
  isProblem(t, await api.call('GET', '/api-keys?cursor=abc'), 400, 'invalid_cursor', 'cursor')

  const ended = await api.call('DELETE', `/api-keys/${id}`)
  t.equal(ended.status, 204)
  t.equal(ended.body, '')
  isProblem(t, await api.call('GET', '/customers', { key }), 401, 'invalid_api_key')
  isProblem(t, await api.call('DELETE', `/api-keys/${id}`), 404, 'not_found')
  t.not((await api.call('GET', '/api-keys?limit=1')).body.data[0].revokedAt, null)
  const { rows } = await api.pool.query('select action, actor from audit_log where entity_id = $1 order by at, id', [
    id,
  ])
  t.match(rows, [{ action: 'api_key.create' }, { action: 'api_key.revoke' }])
})

t.test('what makes no key', async (t) => {
  const api = await openApi(t)
  const before = (await api.pool.query('select count(*) from api_keys')).rows[0].count
  const post = (body: unknown) => api.call('POST', '/api-keys', { body })
  isProblem(t, await post({ name: '', role: 'viewer' }), 400, 'validation_failed', 'name')
  isProblem(t, await post({ name: 'a\0b', role: 'viewer' }), 400, 'validation_failed', 'name')
  isProblem(t, await post({ name: 'x' }), 400, 'validation_failed', 'role')
  isProblem(t, await post({ name: 'x', role: 'owner' }), 400, 'validation_failed', 'role')
  isProblem(t, await post({ name: 'x', role: 'viewer', scopes: ['all'] }), 400, 'validation_failed', 'scopes.0')
  const beyond = { name: 'x', role: 'viewer', scopes: ['customers:read', 'customers:write'] }
  isProblem(t, await post(beyond), 400, 'validation_failed', 'scopes.1')
  const past = { name: 'x', role: 'viewer', expiresAt: '2020-01-01T00:00:00Z' }
  isProblem(t, await post(past), 400, 'validation_failed', 'expiresAt')
  t.equal((await api.pool.query('select count(*) from api_keys')).rows[0].count, before)
})

t.test('scopes narrow a role, and nobody gives what they have not', async (t) => {
  const api = await openApi(t)
  const scopes = ['keys:write', 'customers:read']
  const { body: narrow } = await api.call('POST', '/api-keys', { body: { name: 'x', role: 'admin', scopes } })
  t.strictSame(narrow.scopes, scopes)
  t.equal((await api.call('GET', '/customers', { key: narrow.key })).status, 200)
  const refused = await api.call('GET', '/events', { key: narrow.key })
  isProblem(t, refused, 403, 'permission_denied')
  t.match(refused.body.detail, 'events:read')

  const give = (body: unknown) => api.call('POST', '/api-keys', { key: narrow.key, body })
  isProblem(t, await give({ name: 'more', role: 'admin' }), 403, 'permission_denied')
  t.equal((await give({ name: 'less', role: 'viewer', scopes: ['customers:read'] })).status, 201)
  const { body: wide } = await api.call('POST', '/api-keys', { body: { name: 'wide', role: 'manager' } })
  const stolen = await api.call('POST', `/api-keys/${wide.id}/rotate`, { key: narrow.key, body: {} })
  isProblem(t, stolen, 403, 'permission_denied')
  const ended = await api.call('DELETE', `/api-keys/${wide.id}`, { key: narrow.key })
  isProblem(t, ended, 403, 'permission_denied')
  t.match(ended.body.detail, 'may do more than yours')
  t.equal((await api.call('GET', '/customers', { key: wide.key })).status, 200, 'and works on')
  isProblem(t, await api.call('DELETE', `/api-keys/${narrow.id}`, { key: narrow.key }), 409, 'own_key')
})

t.test('a key is replaced while both work', async (t) => {
  const api = await openApi(t)
  const spec = { name: 'Till', role: 'manager', scopes: ['customers:read', 'pii:read'] }
  const { body: old } = await api.call('POST', '/api-keys', { body: spec })
  const rotate = (id: string, graceSeconds: number) =>
    api.call('POST', `/api-keys/${id}/rotate`, { body: { graceSeconds } })
  const { status, body: next } = await rotate(old.id, 3_600)
  t.equal(status, 201)
  t.match(next, spec)
  t.not(next.key, old.key)
  for (const { key } of [old, next]) t.equal((await api.call('GET', '/customers', { key })).status, 200)

  const { body: third } = await api.call('POST', `/api-keys/${next.id}/rotate`)
  t.match(third, spec, 'without a body: in a day')
  const left = (await api.call('GET', '/api-keys')).body.data.find(({ id }: { id: string }) => id === next.id)
  t.ok(Math.abs(Date.parse(left.expiresAt) - Date.now() - 86_400_000) < 60_000, left.expiresAt)
  t.equal((await rotate(next.id, 0)).status, 201)
  isProblem(t, await api.call('GET', '/customers', { key: next.key }), 401, 'invalid_api_key')
  isProblem(t, await rotate(next.id, 0), 404, 'not_found')
  await api.pool.query("update api_keys set prefix = 'chosen' where id = $1", [old.id])
  isProblem(t, await rotate(old.id, 0), 409, 'chosen_key')
})
