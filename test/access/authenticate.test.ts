import { readFile } from 'node:fs/promises'
import Fastify from 'fastify'
import t from 'tap'
import { guard } from '../../src/access/authenticate.js'
import { makeRequestLimits } from '../../src/access/request-limits.js'
import { newId } from '../../src/lib/ids.js'
import { allows, PERMISSIONS, type Permission, permissionsOf, ROLES, type Role } from '../../src/models/roles.js'
import { isProblem, openApi } from '../helpers/api.js'
import { bodyOf, pathOf } from '../helpers/routes.js'

const PUBLIC = [
  'GET /health',
  'GET /health/live',
  'GET /health/ready',
  'POST /webhooks/stripe',
  'POST /webhooks/stripe/:tenantId',
]

/** Writes by their method that only ask. */
const ASKING = ['POST /customers/match']

/** The least role that each route needs, as the README's table says: it does not follow the code when that is changed. */
async function documentedRoles(): Promise<ReadonlyMap<string, Role>> {
  const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
  const roleIn = (cell: string) => ROLES.find((role) => new RegExp(`^${role}\\b`).test(cell))
  return new Map(
    [...readme.matchAll(/^\| `([A-Z]+ \/[^`?]*)` \|.*\| ([^|]+) \|$/gm)].flatMap(([, route, needs]) => {
      const role = roleIn(needs ?? '')
      return route === undefined || role === undefined ? [] : [[route, role] as const]
    }),
  )
}

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
  const { body: till } = await api.call('POST', '/api-keys', { body: { name: 'Till', role: 'viewer' } })
  const duplicateId = newId()
  await api.pool.query(
    `insert into duplicate_customers (id, tenant_id, stripe_customer_id, user_id, reason)
     values ($1, $2, 'cus_other', $3, 'email')`,
    [duplicateId, api.tenantId, customer.id],
  )
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
    '/api-keys': till.id,
    '/duplicates': duplicateId,
  }
  const roles = await documentedRoles()
  // An admin's keys that lack one permission each: scopes count, not the role alone.
  const without = new Map<Permission, string>()
  for (const permission of permissionsOf('admin', [])) {
    const scopes = [...permissionsOf('admin', [])].filter((one) => one !== permission)
    const { body } = await api.call('POST', '/api-keys', { body: { name: 'Narrow', role: 'admin', scopes } })
    without.set(permission, body.key)
  }
  // The other tenant's own, from which it may try to reach ours.
  const theirs = await api.call('POST', '/customers', { body: { email: 'own@example.com' }, key: api.keys.other })
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
    const least = ROLES.find((role) => allows(role, permission))
    if (url !== '/metrics')
      t.equal(roles.get(name), least, `${name} needs ${permission}, and so the role that the README says`)
    if (method !== 'GET')
      t.ok(!permission.endsWith(':read') || ASKING.includes(name), `${name} needs more than reading`)
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
    const narrow = without.get(permission)
    if (narrow !== undefined)
      isProblem(t, await api.call(method, path, { body, key: narrow }), 403, 'permission_denied')
    if (url.includes(':id') && allows('admin', permission)) {
      t.ok(
        Object.keys(ids).some((prefix) => url.startsWith(prefix)),
        `${name} is tried with the id of something that there is`,
      )
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
  // Ids in a body or a filter lead nowhere either.
  const reaching: [string, string, unknown?][] = [
    ['POST', '/orders', { attendees: [{ customerId: customer.id }] }],
    ['POST', `/customers/${theirs.body.id}/merge`, { from: customer.id }],
    ['GET', `/orders?customerId=${customer.id}`],
    ['GET', `/audit?entity=customer&entityId=${customer.id}`],
  ]
  for (const [method, path, body] of reaching) {
    const { status, body: answer } = await api.call(method, path, { body, key: api.keys.other })
    if (method === 'GET') t.match([status, answer], [200, { data: [] }], path)
    else t.ok(status >= 400 && status < 500, `${method} ${path}: ${status}`)
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
