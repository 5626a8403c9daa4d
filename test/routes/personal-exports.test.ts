import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

const BILLING = {
  balance: 7,
  currency: null,
  delinquent: false,
  taxExempt: 'none',
  defaultPaymentMethod: null,
  invoicePrefix: null,
}

t.test('all that is held about a person, and nothing about another', async (t) => {
  const api = await openApi(t)
  const { pool, tenantId } = api
  const make = async (name: string) =>
    (
      await api.call('POST', '/customers', {
        body: { firstName: name, email: `${name}@example.com`, metadata: { tier: `${name}-tier` } },
        headers: { 'idempotency-key': `key-${name}` },
      })
    ).body.id as string
  const [ada, bob] = [await make('Qada'), await make('Qbob')]
  for (const [id, name] of [
    [ada, 'Qada'],
    [bob, 'Qbob'],
  ]) {
    const cus = `cus_${name}`
    await pool.query('update users set stripe_customer_id = $2, billing = $3 where id = $1', [id, cus, BILLING])
    await pool.query('update sync_state set base = $2, remote = $2 where user_id = $1', [
      id,
      { fields: `${name} base` },
    ])
    // More than a page, many of one moment.
    await pool.query(
      `insert into stripe_events (tenant_id, id, type, livemode, stripe_customer_id, created, payload, source, status)
       select $1, 'evt_' || $2 || n, 'customer.updated', false, $2, to_timestamp(1700000000 + n / 60) + n * interval '10 microseconds', jsonb_build_object('who', $3::text, 'n', n),
         'webhook', 'processed' from generate_series(1, 130) n`,
      [tenantId, cus, name],
    )
    await pool.query(
      `insert into sync_conflicts (tenant_id, user_id, field, reason, policy, status, local)
       values ($1, $2, 'email', 'both_changed', 'manual', 'open', $3)`,
      [tenantId, id, JSON.stringify(`${name} conflict`)],
    )
    await pool.query(
      `insert into duplicate_customers (tenant_id, stripe_customer_id, user_id, reason) values ($1, $2, $3, 'email')`,
      [tenantId, `cus_like_${name}`, id],
    )
    await pool.query(
      `insert into stripe_writes (idempotency_key, tenant_id, user_id, kind, lease_token, sent)
       values ($2, $1, $3, 'update', 1, $4)`,
      [tenantId, `w-${name}`, id, { email: `${name} sent` }],
    )
    await api.call('PUT', `/customers/${id}/consents/news`, {
      body: { status: 'granted', source: 'web', evidence: { by: `${name} evidence` } },
    })
  }
  await api.call('POST', '/orders', { body: { attendees: [{ customerId: ada }, { customerId: bob }] } })

  const answer = await api.call('GET', `/customers/${ada}/export`)
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('content-disposition'), `attachment; filename="customer-${ada}.json"`)
  t.equal(answer.headers.get('cache-control'), 'no-store')
  const file = answer.body
  t.match(file, {
    format: 'lockstep-personal-data/1',
    customer: { id: ada, email: 'Qada@example.com', billing: { balance: 7 } },
    sync: { base: { fields: 'Qada base' } },
    merged: [],
    stripeLinks: [{ stripeCustomerId: 'cus_Qada', how: 'attached' }],
    stripeWrites: [{ sent: { email: 'Qada sent' } }],
    conflicts: [{ local: 'Qada conflict' }],
    duplicates: [{ stripeCustomerId: 'cus_like_Qada', reason: 'email' }],
    orders: [{ snapshot: { email: 'Qada@example.com' }, position: 0 }],
    consents: [{ purpose: 'news', evidence: { by: 'Qada evidence' } }],
    states: [{ to: 'active' }],
    answers: [{ body: { id: ada } }],
  })
  t.ok(file.fieldTimes.email)
  t.strictSame(
    file.events.map((event: { payload: { n: number } }) => event.payload.n).sort((a: number, b: number) => a - b),
    Array.from({ length: 130 }, (_, n) => n + 1),
    'each event once',
  )
  t.strictSame(
    file.audit.map(({ action }: { action: string }) => action),
    ['customer.create', 'customer.link', 'consent.record', 'customer.export'],
  )
  t.notMatch(JSON.stringify(file), /Qbob/, 'nothing of another')
  const { body: docs } = await api.call('GET', '/api/docs/json')
  const documented = docs.paths['/customers/{id}/export'].get.responses['200'].content['application/json'].schema
  t.strictSame(Object.keys(documented.properties).sort(), Object.keys(file).sort(), 'every part is documented')

  const { rows } = await pool.query("select actor, ip, entity_id from audit_log where action = 'customer.export'")
  t.match(rows, [{ actor: /^key:/, ip: '127.0.0.1', entity_id: ada }])
})

// One that is new belongs into PERSONAL_SECTIONS, or is here for a reason.
t.test('every table that names a customer is in the export', async (t) => {
  const api = await openApi(t)
  const { rows } = await api.pool.query(
    `select distinct table_name as name from information_schema.columns
     where table_schema = 'public' and column_name in ('user_id', 'customer_id', 'stripe_customer_id', 'survivor_id')`,
  )
  t.strictSame(rows.map(({ name }) => name).sort(), [
    'consent_changes',
    'customer_merges',
    'customer_state_changes',
    'duplicate_customers',
    'order_attendees',
    // What seals the records; it says nothing about anyone.
    'person_keys',
    // Who changed in the last minute, by id alone.
    'search_zone_changes',
    'stripe_events',
    'stripe_links',
    'stripe_writes',
    'sync_conflicts',
    'sync_state',
    // What lists and searches look into: the row itself, in other forms.
    'user_list',
    'user_search',
    'users',
  ])
})

t.test('who may not have it', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const get = (key: string, of = id) => api.call('GET', `/customers/${of}/export`, { key })
  isProblem(t, await get(api.keys.manager), 403, 'permission_denied')
  isProblem(t, await get(api.keys.other), 404, 'not_found')
  isProblem(t, await get(api.keys.admin, newId()), 404, 'not_found')
  const { body: blind } = await api.call('POST', '/api-keys', {
    body: { name: 'blind', role: 'admin', scopes: ['privacy:export'] },
  })
  const answer = await get(blind.key)
  isProblem(t, answer, 403, 'permission_denied')
  t.match(answer.body.detail, 'pii:read')
  const audit = await api.pool.query("select from audit_log where action = 'customer.export'")
  t.equal(audit.rowCount, 0)
})
