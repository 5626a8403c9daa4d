import Fastify from 'fastify'
import t from 'tap'
import { guard } from '../../src/access/authenticate.js'
import { makeRequestLimits } from '../../src/access/request-limits.js'
import { newId } from '../../src/lib/ids.js'
import { allows, PERMISSIONS, type Permission, ROLES } from '../../src/models/roles.js'
import { isProblem, openApi } from '../helpers/api.js'
import { bodyOf, pathOf } from '../helpers/routes.js'

const PUBLIC = [
  'GET /health',
  'GET /health/live',
  'GET /health/ready',
  'POST /webhooks/stripe',
  'POST /webhooks/stripe/:tenantId',
]

t.test('every route: no key, every role, another tenant’s id, another tenant’s lists', async (t) => {
  const api = await openApi(t)
  const { body: customer } = await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })
  const { body: run } = await api.call('POST', '/reconciliations', { body: { kind: 'sweep' } })
  const { body: order } = await api.call('POST', '/orders', { body: { attendees: [{ customerId: customer.id }] } })
  const { body: upload } = await api.call('POST', '/customers/import', {
    body: 'email\nada@example.com',
    headers: { 'content-type': 'text/csv' },
  })
  const { body: retention } = await api.call('POST', '/retention-runs', { body: { dryRun: true } })
  const conflictId = newId()
  await api.pool.query(
    `insert into sync_conflicts (id, tenant_id, user_id, field, reason, policy, status)
     values ($1, $2, $3, 'email', 'both_changed', 'manual', 'open')`,
    [conflictId, api.tenantId, customer.id],
  )
  await api.pool.query(
    `insert into stripe_events (tenant_id, id, type, livemode, created, payload, source)
     values ($1, 'evt_1', 'customer.updated', false, now(), '{}', 'webhook')`,
    [api.tenantId],
  )
  const ids: Record<string, string> = {
    '/customers': customer.id,
    '/orders': order.id,
    '/reconciliations': run.id,
    '/retention-runs': retention.id,
    '/conflicts': conflictId,
    '/events': 'evt_1',
    '/imports': upload.id,
  }
  const before = await api.snapshot()
  const guarded: { method: string; url: string; path: string; body: unknown; permission: Permission }[] = []
  const routes = api.app.routeTable.filter(({ method, url }) => method !== 'HEAD' && !url.startsWith('/api/docs'))
  t.ok(routes.length > 20)
  for (const { method, url, config } of routes) {
    const name = `${method} ${url}`
    const path = pathOf(url, ids)
    const body = bodyOf(name)
    if (config.public) {
      t.ok(PUBLIC.includes(name), `${name} is open on purpose`)
      continue
    }
    const permission = config.permission
    if (permission === undefined || !PERMISSIONS.includes(permission)) {
      t.fail(`${name} names no permission that there is`)
      continue
    }
    const anonymous = await api.call(method, path, { body, key: null })
    isProblem(t, anonymous, 401, 'api_key_required')
    t.equal(anonymous.headers.get('www-authenticate'), 'Bearer realm="lockstep"')
    const wrong = await api.call(method, path, { body, key: 'lsk_aaaaaaaa_wrong' })
    isProblem(t, wrong, 401, 'invalid_api_key')
    t.match(wrong.headers.get('www-authenticate'), 'error="invalid_token"')
    guarded.push({ method, url, path, body, permission })
    for (const role of ROLES) {
      if (allows(role, permission)) continue
      const answer = await api.call(method, path, { body, key: api.keys[role] })
      isProblem(t, answer, 403, 'permission_denied')
      t.match(answer.body.detail, permission, `${name}: ${role}`)
    }
    if (url.includes(':id') && allows('admin', permission)) {
      const answer = await api.call(method, path, { body, key: api.keys.other })
      isProblem(t, answer, 404, 'not_found')
    }
  }
  t.ok(guarded.length > 20)
  t.equal(await api.snapshot(), before, 'nothing changed')

  const ours = [...Object.values(ids), api.tenantId, 'ada@example.com']
  const mine = await api.snapshot(api.tenantId)
  for (const { method, url, path, body, permission } of guarded) {
    if (url.includes(':id') || !allows('admin', permission)) continue
    const { status, body: answer } = await api.call(method, path, { body, key: api.keys.other })
    const shown = typeof answer === 'string' ? answer : JSON.stringify(answer)
    t.strictSame(
      ours.filter((one) => shown.includes(one)),
      [],
      `${method} ${url} (${status}) shows nothing of another tenant’s`,
    )
  }
  t.equal(await api.snapshot(api.tenantId), mine, 'nor changes anything of it')

  for (const { method, url, path, body, permission } of guarded) {
    for (const role of ROLES.filter((one) => allows(one, permission))) {
      const { status } = await api.call(method, path, { body, key: api.keys[role] })
      t.notOk([401, 403].includes(status), `${method} ${url} is open to the role ${role}: ${status}`)
    }
  }
})

t.test('erasing needs more than writing', async (t) => {
  const api = await openApi(t)
  const { body } = await api.call('POST', '/customers', { body: { email: 'ada@example.com' }, key: api.keys.manager })
  const refused = await api.call('DELETE', `/customers/${body.id}?erase=true`, { key: api.keys.manager })
  isProblem(t, refused, 403, 'permission_denied')
  t.match(refused.body.detail, 'customers:erase')
  t.equal((await api.call('DELETE', `/customers/${body.id}`, { key: api.keys.manager })).status, 200)
  t.equal((await api.call('DELETE', `/customers/${body.id}?erase=true`)).body.state, 'erased')
})

t.test('a route that names no permission stops the boot', async (t) => {
  const app = Fastify()
  const limits = makeRequestLimits({ perMinute: 1, redis: null })
  guard(app, { credentials: { verify: async () => null }, limits, openPaths: ['/docs'], isIsolated: false })
  app.get('/docs', async () => 'open')
  app.get('/docs/more', async () => 'open')
  app.get('/open', { config: { public: true } }, async () => 'open')
  t.throws(() => app.get('/docs-of-others', async () => ''), /GET \/docs-of-others names no permission/)
  t.throws(() => app.post('/forgotten', { config: {} }, async () => ''), /POST \/forgotten names no permission/)
  t.equal((await app.inject('/docs/more')).body, 'open')
  t.equal((await app.inject('/open')).body, 'open')
})

t.test('roles', async (t) => {
  for (const permission of PERMISSIONS) {
    t.equal(allows('admin', permission), !permission.startsWith('tenants:'))
    t.equal(allows('operator', permission), /^(tenants:|metrics:read$)/.test(permission))
    if (allows('viewer', permission)) t.match(permission, /:read$/)
    if (allows('viewer', permission)) t.ok(allows('manager', permission))
  }
  t.same(ROLES, ['viewer', 'manager', 'admin', 'operator'])
})
