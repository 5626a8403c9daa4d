import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { openApi } from '../helpers/api.js'

/** Each is somewhere in the data, and nowhere else in an answer. */
const PERSONAL = {
  firstName: 'Qfirst',
  lastName: 'Qlast',
  email: 'qmail@example.com',
  phone: '+14155550199',
  description: 'Qdescription',
  line1: 'Qline',
  city: 'Qcity',
  postalCode: 'Q94105',
  shipping: 'Qshipping',
  metadata: 'Qvalue',
}

t.test('who may not see personal data sees none, on any route', async (t) => {
  const api = await openApi(t)
  const address = { line1: PERSONAL.line1, city: PERSONAL.city, postalCode: PERSONAL.postalCode, country: 'US' }
  const { firstName, lastName, email, phone, description } = PERSONAL
  const { body: customer } = await api.call('POST', '/customers', {
    body: {
      firstName,
      lastName,
      email,
      phone,
      description,
      address,
      shipping: { name: PERSONAL.shipping, phone, address },
      metadata: { tier: PERSONAL.metadata },
    },
  })
  const fields = {
    email,
    phone,
    name: `${firstName} ${lastName}`,
    description,
    locale: 'en',
    address,
    shipping: { name: PERSONAL.shipping, address },
    metadata: { tier: PERSONAL.metadata },
  }
  await api.pool.query('update sync_state set base = $1, remote = $2', [
    JSON.stringify(fields),
    JSON.stringify({ fields, facts: {}, billing: null, locales: [] }),
  ])
  const conflictId = newId()
  await api.pool.query(
    `insert into sync_conflicts (id, tenant_id, user_id, field, reason, policy, status, local, remote, base)
     values ($1, $2, $3, 'email', 'both_changed', 'manual', 'open', $4, $4, $4)`,
    [conflictId, api.tenantId, customer.id, JSON.stringify(email)],
  )
  const payload = {
    id: 'evt_1',
    type: 'customer.updated',
    data: { object: { id: 'cus_1', object: 'customer', ...fields } },
  }
  await api.pool.query(
    `insert into stripe_events (tenant_id, id, type, livemode, created, payload, source)
     values ($1, 'evt_1', 'customer.updated', false, now(), $2, 'webhook')`,
    [api.tenantId, JSON.stringify(payload)],
  )
  const { body: order } = await api.call('POST', '/orders', { body: { attendees: [{ customerId: customer.id }] } })
  const ids: Record<string, string> = {
    '/customers': customer.id,
    '/orders': order.id,
    '/conflicts': conflictId,
    '/events': 'evt_1',
  }

  const scopes = [
    'orders:read',
    'orders:write',
    'customers:read',
    'customers:write',
    'customers:export',
    'sync:read',
    'sync:run',
    'reviews:read',
    'reviews:write',
  ]
  await api.call('PUT', `/customers/${customer.id}/consents/marketing.email`, {
    body: { status: 'granted', source: 'web', evidence: { ip: PERSONAL.description } },
  })
  const readers = [
    'events:read',
    'events:replay',
    'runs:read',
    'keys:read',
    'metrics:read',
    'audit:read',
    'tenant:read',
  ]
  const { body: blind } = await api.call('POST', '/api-keys', {
    body: { name: 'blind', role: 'admin', scopes: [...scopes, ...readers] },
  })
  const leaks = (text: string) => Object.entries(PERSONAL).filter(([, value]) => text.includes(value))
  const routes = api.app.routeTable.filter(({ method, url, config }) => {
    const isPlain = ['GET', 'PATCH', 'POST'].includes(method) && !url.startsWith('/api/docs') && config.public !== true
    return isPlain && (method === 'GET' || url.includes(':id'))
  })
  let revealing = 0
  for (const { method, url } of routes) {
    const id = ids[Object.keys(ids).find((prefix) => url.startsWith(prefix)) ?? ''] ?? newId()
    const bodies: Record<string, unknown> = {
      '/conflicts/:id/resolve': { winner: 'local' },
      '/duplicates/:id/resolve': { action: 'ignore' },
      '/orders/:id': { status: 'completed' },
      '/customers/:id/merge': { from: newId() },
    }
    const body = method === 'GET' ? undefined : (bodies[url] ?? {})
    const path = url.replace(/:\w+/, id)
    const masked = await api.call(method, path, { key: blind.key, body })
    t.strictSame(leaks(JSON.stringify(masked.body)), [], `${method} ${url} ${masked.status}`)
    if (method !== 'GET') continue
    if (leaks(JSON.stringify((await api.call(method, path)).body)).length > 0) revealing += 1
  }
  t.ok(revealing >= 5, 'others see it')

  const { body } = await api.call('GET', `/customers/${customer.id}`, { key: api.keys.viewer })
  t.match(body, {
    firstName: 'Q***',
    lastName: 'Q***',
    email: 'q***@example.com',
    phone: '***99',
    address: { line1: '***', line2: null, country: 'US' },
    metadata: { tier: '***' },
  })
  t.match((await api.call('GET', `/customers/${customer.id}`, { key: api.keys.manager })).body, { email, phone })
})
