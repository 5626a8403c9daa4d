import t from 'tap'
import { isProblem, openApi } from '../helpers/api.js'

t.test('GET /audit: who did what, by every condition, page by page', async (t) => {
  const api = await openApi(t)
  const requestId = (answer: { headers: Headers }) => answer.headers.get('x-request-id')
  const created = await api.call('POST', '/customers', { body: { email: 'ada@example.com', firstName: 'Ada' } })
  const { id } = created.body
  const changed = await api.call('PATCH', `/customers/${id}`, { body: { email: 'king@example.com' } })
  await api.call('DELETE', `/customers/${id}`, { key: api.keys.manager })
  const made = await api.call('POST', '/api-keys', { body: { name: 'Till', role: 'viewer' } })

  const list = async (query: string) => (await api.call('GET', `/audit?${query}`)).body.data
  const [archived, updated, first] = await list(`entity=customer&entityId=${id}`)
  t.match(first, {
    action: 'customer.create',
    actor: /^key:/,
    requestId: requestId(created),
    ip: '127.0.0.1',
    at: /^20/,
    seq: null,
    hash: null,
    changes: { fields: { email: { from: null, to: 'ada@example.com' }, name: { to: 'Ada' }, state: { to: 'active' } } },
  })
  t.match(updated, {
    action: 'customer.update',
    requestId: requestId(changed),
    changes: { fields: { email: { from: 'ada@example.com', to: 'king@example.com' } }, revision: 2 },
  })
  t.match(archived, { action: 'customer.archive', changes: { fields: { state: { from: 'active', to: 'archived' } } } })
  t.not(archived.actor, updated.actor)

  t.strictSame(
    (await list(`actor=${archived.actor}`)).map(({ action }: { action: string }) => action),
    ['customer.archive'],
  )
  t.match(await list('action=api_key.create&limit=1'), [
    { entity: 'api_key', entityId: made.body.id, changes: { name: 'Till' } },
  ])
  t.strictSame(await list(`to=${first.at}&entity=customer`), [], '`to` is exclusive')
  t.equal((await list(`from=${first.at}&entity=customer`)).length, 3, '`from` is inclusive')

  const seen: string[] = []
  for (let cursor = ''; ; ) {
    const { body } = await api.call('GET', `/audit?limit=2${cursor}`)
    seen.push(...body.data.map((entry: { id: string }) => entry.id))
    if (!body.hasMore) break
    cursor = `&cursor=${body.nextCursor}`
  }
  t.equal(new Set(seen).size, seen.length)
  t.equal(seen.length, (await api.pool.query('select from audit_log where tenant_id = $1', [api.tenantId])).rowCount)

  isProblem(t, await api.call('GET', '/audit?cursor=abc'), 400, 'invalid_cursor')
  isProblem(t, await api.call('GET', '/audit?from=yesterday'), 400, 'validation_failed', 'from')
  isProblem(t, await api.call('GET', '/audit', { key: api.keys.manager }), 403, 'permission_denied')
  const others = (await api.call('GET', '/audit', { key: api.keys.other })).body.data
  t.ok(
    others.every((entry: { action: string }) => entry.action === 'api_key.create'),
    'another tenant sees its own',
  )
})

t.test('what is stored of a person is sealed, and unreadable once they were erased', async (t) => {
  const api = await openApi(t)
  const { body } = await api.call('POST', '/customers', {
    body: { email: 'ada@example.com', metadata: { tier: 'gold' } },
  })
  const stored = async () => {
    const { rows } = await api.pool.query('select changes from audit_log where entity_id = $1 order by at', [body.id])
    return JSON.stringify(rows)
  }
  t.notMatch(await stored(), /ada@|gold/)
  t.match(await stored(), /"metadata.tier"/)
  const before = await stored()
  await api.call('DELETE', `/customers/${body.id}?erase=true`)
  t.ok((await stored()).startsWith(before.slice(0, -1)), 'no entry was changed')
  const entries = (await api.call('GET', `/audit?entityId=${body.id}`)).body.data
  t.match(entries, [
    {
      action: 'customer.erase',
      changes: { fields: { email: { from: '[erased]', to: null }, state: { to: 'erased' } } },
    },
    { action: 'customer.create', changes: { fields: { email: { from: null, to: '[erased]' } } } },
  ])
  const history = (await api.call('GET', `/customers/${body.id}/history?field=email`)).body.data
  t.match(history, [
    { before: '[erased]', after: null },
    { before: null, after: '[erased]' },
  ])
})

t.test('GET /customers/:id/history: edits by the API and by plain SQL, page by page, masked', async (t) => {
  const api = await openApi(t)
  const { body } = await api.call('POST', '/customers', {
    body: { email: 'ada@example.com', metadata: { tier: 'gold' } },
  })
  const path = `/customers/${body.id}/history`
  const patched = await api.call('PATCH', `/customers/${body.id}`, { body: { email: 'king@example.com' } })
  await api.pool.query(`update users set email = 'sql@example.com', metadata = '{"tier": "silver"}' where id = $1`, [
    body.id,
  ])

  const emails = (await api.call('GET', `${path}?field=email`)).body.data
  t.equal(emails.length, 3)
  t.match(emails[0], {
    field: 'email',
    kind: 'edit',
    side: 'local',
    by: { origin: 'sql', actor: /^sql:./, requestId: null },
    before: null,
    after: null,
    valuesKnown: false,
    why: null,
  })
  t.match(emails[1], {
    kind: 'edit',
    side: 'local',
    by: { origin: 'rest', actor: /^key:/, requestId: patched.headers.get('x-request-id') },
    before: 'ada@example.com',
    after: 'king@example.com',
    valuesKnown: true,
  })
  t.match(emails[2], { before: null, after: 'ada@example.com' })
  await api.call('PATCH', `/customers/${body.id}`, { body: { lastName: 'King' } })
  for (const field of ['firstName', 'lastName', 'name']) {
    t.match((await api.call('GET', `${path}?field=${field}`)).body.data, [{ field: 'name', after: 'King' }], field)
  }
  for (const field of ['surname', 'address.city', 'Email']) {
    isProblem(t, await api.call('GET', `${path}?field=${field}`), 400, 'validation_failed', 'field')
  }
  const tiers = (await api.call('GET', `${path}?field=metadata`)).body.data
  t.strictSame(
    tiers.map(({ field }: { field: string }) => field),
    ['metadata.tier', 'metadata.tier'],
  )

  const all = (await api.call('GET', path)).body.data
  const seen: unknown[] = []
  for (let cursor = ''; ; ) {
    const page = (await api.call('GET', `${path}?limit=1${cursor}`)).body
    seen.push(...page.data)
    if (!page.hasMore) break
    cursor = `&cursor=${page.nextCursor}`
  }
  t.strictSame(seen, all, 'page by page it is the same')

  const masked = (await api.call('GET', path, { key: api.keys.viewer })).body.data
  t.notMatch(JSON.stringify(masked), /example\.com|gold/)
  t.match(
    masked.find(({ field }: { field: string }) => field === 'state'),
    { after: 'active' },
  )
  isProblem(t, await api.call('GET', path, { key: api.keys.other }), 404, 'not_found')
  isProblem(t, await api.call('GET', `${path}?cursor=abc`), 400, 'invalid_cursor')
})

t.test('every write of a user is recorded once, whoever makes it', async (t) => {
  const { pool, call } = await openApi(t)
  const entries = async (id: string) =>
    (
      await pool.query(
        "select actor, action, changes, ip from audit_log where entity = 'customer' and entity_id = $1 order by at",
        [id],
      )
    ).rows
  const { rows } = await pool.query("insert into users (email, type) values ('sql@example.com', 'new') returning id")
  const { id } = rows[0]
  await pool.query("update users set phone = '+1', description = 'x' where id = $1", [id])
  await pool.query('update users set billing = null, phone = phone where id = $1', [id])
  await call('PATCH', `/customers/${id}`, { body: { description: 'y' } })
  const change = (sql: string) => `update users set ${sql} where id = '${id}'`
  await pool.query(`begin; ${change('email = null')}; ${change("locale = 'en'")}; commit`)
  await pool.query('delete from users where id = $1', [id])
  const found = await entries(id)
  t.match(found, [
    { action: 'customer.create', actor: /^sql:/, ip: '127.0.0.1', changes: { revision: 1 } },
    { action: 'customer.update', actor: /^sql:/, changes: { revision: 2 } },
    { action: 'customer.update', actor: /^key:/, changes: { revision: 3 } },
    { action: 'customer.update', actor: /^sql:/, changes: { revision: 4 } },
    { action: 'customer.update', actor: /^sql:/, changes: { revision: 5 } },
    { action: 'customer.delete', actor: /^sql:/ },
  ])
  t.equal(found.length, 6)
  const fieldsOf = (index: number) => Object.keys(found[index].changes.fields).sort()
  t.strictSame(fieldsOf(0), ['email', 'state', 'type'])
  t.strictSame(fieldsOf(1), ['description', 'phone'])
  t.strictSame(fieldsOf(3), ['email'])
  t.notMatch(JSON.stringify(found), /sql@|\+1/, 'by SQL only the fact, no value')
})
