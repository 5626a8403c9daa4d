import Fastify from 'fastify'
import t from 'tap'
import { guard } from '../../src/access/authenticate.js'
import { makeRequestLimits } from '../../src/access/request-limits.js'
import { newId } from '../../src/lib/ids.js'
import { allows, PERMISSIONS, ROLES } from '../../src/models/roles.js'
import { isProblem, openApi } from '../helpers/api.js'

const PUBLIC = [
  'GET /health',
  'GET /health/live',
  'GET /health/ready',
  'POST /webhooks/stripe',
  'POST /webhooks/stripe/:tenantId',
]

/** A body that the route's schema takes, so that only the guard and the id can refuse. */
const BODIES: Record<string, unknown> = {
  'PUT /customers/:id': { email: 'a@example.com' },
  'PATCH /customers/:id': {},
  'POST /customers': { email: 'a@example.com' },
  'POST /reconciliations': { kind: 'sweep' },
  'POST /conflicts/:id/resolve': { winner: 'local' },
  'POST /duplicates/:id/resolve': { action: 'ignore' },
  'POST /customers/match': { email: 'a@example.com' },
  'POST /orders': { attendees: [{ email: 'a@example.com' }] },
  'PATCH /orders/:id': { status: 'completed' },
  'POST /api-keys': { name: 'Till', role: 'viewer' },
  'POST /api-keys/:id/rotate': {},
  'PUT /tenant/stripe': { webhookSecrets: ['whsec_other'] },
  'PATCH /tenant/settings': { onRemoteDelete: 'archive' },
  'POST /tenants': { slug: 'acme', name: 'Acme' },
  'PATCH /tenants/:id': { name: 'Acme' },
  'PUT /customers/:id/consents/:purpose': { status: 'granted', source: 'web' },
  'POST /customers/:id/merge': { from: newId() },
  'POST /retention-runs': { dryRun: true },
}

t.test('every route: no key, a weak key, another tenant’s id', async (t) => {
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
  const routes = api.app.routeTable.filter(({ method, url }) => method !== 'HEAD' && !url.startsWith('/api/docs'))
  t.ok(routes.length > 20)
  for (const { method, url, config } of routes) {
    const name = `${method} ${url}`
    const id = ids[Object.keys(ids).find((prefix) => url.startsWith(prefix)) ?? ''] ?? newId()
    const path = url.replace(/:\w+/, id).replace(':purpose', 'marketing.email')
    const body = BODIES[name]
    if (config.public) {
      t.ok(PUBLIC.includes(name), `${name} is open on purpose`)
      continue
    }
    const permission = config.permission
    t.ok(permission !== undefined && PERMISSIONS.includes(permission), name)
    const anonymous = await api.call(method, path, { body, key: null })
    isProblem(t, anonymous, 401, 'api_key_required')
    t.equal(anonymous.headers.get('www-authenticate'), 'Bearer realm="lockstep"')
    const wrong = await api.call(method, path, { body, key: 'lsk_aaaaaaaa_wrong' })
    isProblem(t, wrong, 401, 'invalid_api_key')
    t.match(wrong.headers.get('www-authenticate'), 'error="invalid_token"')
    if (permission !== undefined && !allows('viewer', permission)) {
      const viewer = await api.call(method, path, { body, key: api.keys.viewer })
      isProblem(t, viewer, 403, 'permission_denied')
      t.match(viewer.body.detail, permission)
    } else {
      t.equal((await api.call(method, path, { body, key: api.keys.viewer })).status, 200, `${name} is a viewer’s too`)
    }
    if (permission?.startsWith('tenants:')) {
      for (const key of [api.keys.admin, api.keys.other])
        isProblem(t, await api.call(method, path, { body, key }), 403, 'permission_denied')
      continue
    }
    if (url.includes(':id')) isProblem(t, await api.call(method, path, { body, key: api.keys.other }), 404, 'not_found')
    const operator = await api.call(method, path, { body, key: api.keys.operator })
    if (permission !== 'metrics:read') isProblem(t, operator, 403, 'permission_denied')
  }
  for (const path of [
    '/customers',
    '/orders',
    '/conflicts',
    '/duplicates',
    '/events',
    '/reconciliations',
    '/imports',
    '/retention-runs',
  ]) {
    t.strictSame(
      (await api.call('GET', path, { key: api.keys.other })).body.data,
      [],
      `${path} shows the own tenant only`,
    )
  }
  t.equal(await api.snapshot(), before, 'nothing changed')
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
