import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { bodyOf, pathOf } from '../helpers/routes.js'
import { startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

t.test(
  'requests work under row-level security where there is more than one tenant, unless it is turned off',
  async (t) => {
    const { api, pool, newCustomer, restart } = await startService(t)
    await pool.query("insert into tenants (slug, name) values ('acme', 'Acme')")
    await restart({})
    const { id } = await newCustomer({ email: 'ada@example.com', firstName: 'Ada' })
    const isBound = async () => {
      const { body } = await api('GET', '/health')
      return body.parts.database.rowSecurity
    }

    t.test('what searches, streams and takes transactions works under it', async (t) => {
      t.equal(await isBound(), true)
      t.match(await api('GET', '/customers?q=ada'), { status: 200, body: { data: [{ id }] } })
      t.match(await api('POST', '/customers/match', { email: 'ADA@example.com' }), { body: { outcome: 'matched' } })
      // Matches within its transaction, which is bound again for what it writes.
      const attendees = [{ email: 'ada@example.com' }, { email: 'new@example.com' }]
      t.match(await api('POST', '/orders', { attendees }), {
        status: 201,
        body: { attendees: [{ customerId: id, matchedBy: 'email' }, { matchedBy: 'created' }] },
      })
      for (const path of ['/customers/export', `/customers/${id}/export`]) {
        const { status, body } = await api('GET', path)
        t.equal(status, 200)
        t.match(typeof body === 'string' ? body : JSON.stringify(body), 'ada@example.com', path)
      }
      const { rows } = await pool.query("select action from audit_log where action like '%export%' order by seq")
      t.match(
        rows.map(({ action }) => action),
        ['export.start', 'export.finish', 'customer.export'],
      )
    })

    t.test('a policy decides, not only the code', async (t) => {
      await pool.query(
        "create policy nobody on users as restrictive to lockstep_api using (email <> 'ada@example.com')",
      )
      t.equal((await api('GET', `/customers/${id}`)).status, 404)
      t.match(await api('GET', '/customers?q=ada'), { status: 200, body: { data: [] } }, 'nor does a search show it')
      await pool.query('drop policy nobody on users')
      t.equal((await api('GET', `/customers/${id}`)).status, 200)
    })

    t.test('it can be turned off, and on again', async (t) => {
      await restart({ LOCKSTEP_ROW_SECURITY: 'off' })
      t.equal(await isBound(), false)
      t.equal((await api('GET', `/customers/${id}`)).status, 200)
      await restart({})
      t.equal(await isBound(), true)
      t.equal((await api('GET', `/customers/${id}`)).status, 200)
    })

    t.test('of one tenant there is nothing to keep apart', async (t) => {
      await pool.query("delete from tenants where slug = 'acme'")
      await restart({})
      t.equal(await isBound(), false)
      await restart({ LOCKSTEP_ROW_SECURITY: 'on' })
      t.equal(await isBound(), true)
    })
  },
)

t.test('no route of a tenant goes past it', async (t) => {
  // No worker: only requests change rows here.
  const service = await startService(t, { roles: { api: true, worker: false } })
  const { adminKey, api, pool, restart } = service
  await pool.query("insert into tenants (slug, name) values ('acme', 'Acme')")
  await restart({})
  const tenantId = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id
  const { body: customer } = await api('POST', '/customers', { email: 'hidden@example.com', firstName: 'Hidden' })
  const { body: order } = await api('POST', '/orders', { attendees: [{ customerId: customer.id }] })
  const { body: key } = await api('POST', '/api-keys', { name: 'Till', role: 'viewer' })
  const { body: run } = await api('POST', '/reconciliations', { kind: 'sweep', dryRun: true })
  const { body: retention } = await api('POST', '/retention-runs', { dryRun: true })
  const upload = await fetch(`${service.app.apiUrl}/customers/import`, {
    method: 'POST',
    headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'text/csv' },
    body: 'email\nhidden@example.com\n',
  }).then((answer) => answer.json() as Promise<{ id: string }>)
  await api('PUT', `/customers/${customer.id}/consents/marketing.email`, { status: 'granted', source: 'web' })
  const [conflictId, duplicateId] = [newId(), newId()]
  await pool.query("insert into import_errors (import_id, line, errors) values ($1, 1, '[]')", [upload.id])
  await pool.query(
    `insert into sync_conflicts (id, tenant_id, user_id, field, reason, policy, status)
     values ($1, $2, $3, 'email', 'both_changed', 'manual', 'open')`,
    [conflictId, tenantId, customer.id],
  )
  await pool.query(
    `insert into duplicate_customers (id, tenant_id, stripe_customer_id, user_id, reason)
     values ($1, $2, 'cus_other', $3, 'email')`,
    [duplicateId, tenantId, customer.id],
  )
  await pool.query(
    `insert into customer_merges (tenant_id, survivor_id, actor, status, moved)
     values ($1, $2, 'test', 'done', '{"orders":0,"consents":0}')`,
    [tenantId, customer.id],
  )
  await pool.query(
    `insert into stripe_events (tenant_id, id, type, livemode, created, payload, source)
     values ($1, 'evt_1', 'customer.updated', false, now(), '{}', 'webhook')`,
    [tenantId],
  )
  const ids = {
    '/customers': customer.id,
    '/orders': order.id,
    '/api-keys': key.id,
    '/reconciliations': run.id,
    '/retention-runs': retention.id,
    '/imports': upload.id,
    '/conflicts': conflictId,
    '/duplicates': duplicateId,
    '/events': 'evt_1',
  }
  const { body: document } = await api('GET', '/api/docs/json')
  const routes = Object.entries(document.paths as Record<string, Record<string, { security?: unknown[] }>>).flatMap(
    ([path, operations]) =>
      Object.entries(operations).map(([method, { security }]) => ({
        method: method.toUpperCase(),
        url: path.replace(/\{(\w+)\}/g, ':$1'),
        isPublic: (security ?? []).length === 0,
      })),
  )
  // Operators look after all tenants, Prometheus counts them all; who is not known by a key is by what Stripe signed.
  const guarded = routes.filter(({ url, isPublic }) => !isPublic && !/^\/(tenants|metrics)(\/|$)/.test(url))
  t.ok(guarded.length > 40, `${guarded.length} routes`)

  const send = async (method: string, url: string) => {
    const isUpload = url === '/customers/import'
    const body = isUpload ? 'email\nnew@example.com\n' : JSON.stringify(bodyOf(`${method} ${url}`))
    const answer = await fetch(`${service.app.apiUrl}${pathOf(url, ids)}`, {
      method,
      headers: {
        authorization: `Bearer ${adminKey}`,
        ...(body === undefined ? {} : { 'content-type': isUpload ? 'text/csv' : 'application/json' }),
      },
      ...(body === undefined ? {} : { body }),
    })
    return { status: answer.status, text: await answer.text() }
  }
  /** What says something of the tenant, or of anyone in it. */
  const shows = ({ status, text }: { status: number; text: string }) =>
    status < 400 &&
    (/hidden@|"(id|customerId|survivorId|purpose|line|onRemoteDelete)":/i.test(text) ||
      status === 202 ||
      status === 204)
  const { rows: tables } = await pool.query(
    "select distinct polrelid::regclass::text as name from pg_policy where polname = 'lockstep_tenant' order by 1",
  )
  const snapshot = async () => {
    const rows: Record<string, unknown> = {}
    for (const { name } of tables) {
      // When a key was last used is written before it is known whose it is.
      const sql = `select to_jsonb(x) - 'last_used_at' as row from ${name} x order by 1::text`
      rows[name] = (await pool.query(sql)).rows
    }
    return rows
  }

  for (const { method, url } of guarded) {
    if (method !== 'GET') continue
    t.ok(shows(await send(method, url)), `GET ${url} shows something, so that there is something to hide`)
  }
  for (const { name } of tables)
    await pool.query(`create policy nobody on ${name} as restrictive to lockstep_api using (false)`)
  // Settings that were read are taken for current for a second.
  await restart({})
  // The chain of the audit log is numbered within a second.
  await eventually(async () => (await pool.query('select from audit_log where seq is null')).rowCount === 0)
  const quiet = await snapshot()
  for (const { method, url } of guarded) {
    const answer = await send(method, url)
    t.notOk(shows(answer), `${method} ${url}: ${answer.status} ${answer.text.slice(0, 200)}`)
    if (method !== 'GET' && url !== '/customers/match') t.ok(answer.status >= 400, `${method} ${url}: ${answer.status}`)
  }
  t.strictSame(await snapshot(), quiet, 'nothing changed')
})
