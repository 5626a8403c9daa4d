import t from 'tap'
import { etagOf } from '../../src/http/etag.js'
import { isProblem, openApi } from '../helpers/api.js'

const ada = {
  firstName: 'Ada',
  lastName: 'Lovelace',
  email: 'ada@example.com',
  phone: '(415) 555-0100',
  metadata: { tier: 'gold' },
}

t.test('a customer through its life', async (t) => {
  const api = await openApi(t)
  const created = await api.call('POST', '/customers', {
    body: { ...ada, address: { line1: ' 1 Main St ', country: 'us' }, locale: 'en-gb' },
  })
  t.equal(created.status, 201, JSON.stringify(created.body))
  const { id } = created.body
  t.equal(created.headers.get('location'), `/customers/${id}`)
  t.match(created.body, {
    ...ada,
    phone: '+14155550100',
    type: 'regular',
    state: 'active',
    locale: 'en-GB',
    revision: 1,
    stripeCustomerId: null,
    sync: { status: 'pending', settled: false },
  })
  t.strictSame(created.body.address, {
    line1: '1 Main St',
    line2: null,
    city: null,
    state: null,
    postalCode: null,
    country: 'US',
  })
  t.ok(api.asked.includes('wake'))

  const read = await api.call('GET', `/customers/${id}`)
  t.strictSame(read.body, created.body)
  t.equal(read.headers.get('etag'), created.headers.get('etag'))
  const etag = read.headers.get('etag') ?? ''
  const unchanged = await api.call('GET', `/customers/${id}`, { headers: { 'if-none-match': etag } })
  t.equal(unchanged.status, 304)
  t.equal(unchanged.body, '')
  await api.settle(id)
  const settled = await api.call('GET', `/customers/${id}`, { headers: { 'if-none-match': etag } })
  t.equal(settled.status, 200, 'the sync status is part of what the tag stands for')

  const patched = await api.call('PATCH', `/customers/${id}`, {
    body: { lastName: 'King', metadata: { tier: null, plan: 'pro' }, address: { city: 'Paris', line1: null } },
    headers: { 'if-match': etag, 'content-type': 'application/merge-patch+json' },
  })
  t.match(patched, {
    status: 200,
    body: { lastName: 'King', firstName: 'Ada', metadata: { plan: 'pro' }, revision: 2 },
  })
  t.match(patched.body.address, { line1: null, city: 'Paris', country: 'US' })
  t.notOk('tier' in patched.body.metadata)

  const late = await api.call('PATCH', `/customers/${id}`, { body: { lastName: 'X' }, headers: { 'if-match': etag } })
  isProblem(t, late, 412, 'revision_mismatch')
  isProblem(
    t,
    await api.call('DELETE', `/customers/${id}`, { headers: { 'if-match': '"junk"' } }),
    412,
    'revision_mismatch',
  )
  const same = await api.call('PATCH', `/customers/${id}`, {
    body: { lastName: 'King' },
    headers: { 'if-match': '"2"' },
  })
  t.match(same, { status: 200, body: { revision: 2 } }, 'a change that changes nothing is none')

  const replaced = await api.call('PUT', `/customers/${id}`, {
    body: { email: 'new@example.com' },
    headers: { 'if-match': '*' },
  })
  t.match(replaced, {
    status: 200,
    body: { email: 'new@example.com', firstName: null, phone: null, address: null, metadata: {}, revision: 3 },
  })

  const archived = await api.call('DELETE', `/customers/${id}`)
  t.match(archived, { status: 200, body: { state: 'archived', revision: 4, archivedAt: /^2/ } })
  t.match(await api.call('DELETE', `/customers/${id}`), { status: 200, body: { revision: 4 } }, 'twice is once')
  isProblem(t, await api.call('PATCH', `/customers/${id}`, { body: { email: null } }), 409, 'customer_archived')
  t.strictSame((await api.call('GET', '/customers')).body.data, [])
  t.equal((await api.call('GET', '/customers?state=archived')).body.data.length, 1)

  const restored = await api.call('POST', `/customers/${id}/restore`)
  t.match(restored, { status: 200, body: { state: 'active', archivedAt: null } })
  t.notOk(api.asked.some((asked) => asked.startsWith('reattach')))
  await api.pool.query("update sync_state set status = 'detached' where user_id = $1", [id])
  const reattached = await api.call('POST', `/customers/${id}/restore`)
  t.match(reattached, { status: 200, body: { sync: { status: 'pending' } } })
  t.ok(api.asked.includes(`reattach ${id}`))

  const erased = await api.call('DELETE', `/customers/${id}?erase=true`)
  t.match(erased, { status: 200, body: { state: 'erased', email: null, metadata: {}, archivedAt: /^2/ } })
  isProblem(t, await api.call('POST', `/customers/${id}/restore`), 409, 'customer_erased')
  isProblem(t, await api.call('PUT', `/customers/${id}`, { body: ada }), 409, 'customer_erased')

  const { rows } = await api.pool.query(
    "select action, actor, changes from audit_log where entity = 'customer' order by at",
  )
  t.strictSame(
    rows.map(({ action }) => action),
    ['create', 'update', 'replace', 'archive', 'restore', 'erase'].map((action) => `customer.${action}`),
  )
  t.notMatch(
    JSON.stringify(rows),
    /ada@|Lovelace|Ada |King"|[+]1415/,
    'the audit log names fields, their values are sealed',
  )
  t.match(rows[1], { actor: /^key:/, changes: { revision: 2 } })
  t.strictSame(Object.keys(rows[1].changes.fields).sort(), ['address', 'metadata.plan', 'metadata.tier', 'name'])
})

t.test('Idempotency-Key', async (t) => {
  const api = await openApi(t)
  const post = (body: unknown, key = 'k-1') =>
    api.call('POST', '/customers', { body, headers: { 'idempotency-key': key } })

  const answers = await Promise.all([1, 2, 3, 4, 5].map(() => post(ada)))
  t.strictSame(new Set(answers.map(({ status }) => status)), new Set([201]))
  t.equal(new Set(answers.map(({ body }) => body.id)).size, 1, 'five at once make one')
  t.equal(answers.filter(({ headers }) => headers.get('idempotency-replayed') === 'true').length, 4)

  const reordered = await post(Object.fromEntries(Object.entries(ada).reverse()))
  t.equal(reordered.body.id, answers[0]?.body.id)
  isProblem(t, await post({ ...ada, firstName: 'Other' }), 422, 'idempotency_key_reused')
  isProblem(t, await post(ada, 'not visible\u00e9'), 400, 'validation_failed', 'Idempotency-Key')
  isProblem(t, await post(ada, 'x'.repeat(256)), 400, 'validation_failed', 'Idempotency-Key')
  isProblem(t, await post({ ...ada, email: 'no' }, 'k-2'), 400, 'validation_failed', 'email')
  t.match(await post(ada, 'k-2'), { status: 201 }, 'a refused request does not use the key up')
  const foreign = await api.call('POST', '/customers', {
    body: ada,
    key: api.keys.other,
    headers: { 'idempotency-key': 'k-1' },
  })
  t.not(foreign.body.id, answers[0]?.body.id, 'a key is the tenant’s own')

  const client = await api.pool.connect()
  await client.query('begin')
  await client.query("insert into idempotency_keys (tenant_id, key, fingerprint) values ($1, 'busy', 'x')", [
    api.tenantId,
  ])
  isProblem(t, await post(ada, 'busy'), 409, 'idempotency_key_in_use')
  await client.query('rollback')
  client.release()
  t.equal((await post(ada, 'busy')).status, 201)

  await api.pool.query("update idempotency_keys set created_at = now() - interval '25 hours' where key = 'k-1'")
  const fresh = await post({ ...ada, firstName: 'Other' })
  t.equal(fresh.headers.get('idempotency-replayed'), null, 'after a day the key is free')

  await api.call('DELETE', `/customers/${fresh.body.id}?erase=true`)
  const { rows } = await api.pool.query("select body from idempotency_keys where key = 'k-1' and tenant_id = $1", [
    api.tenantId,
  ])
  t.match(
    rows[0].body,
    { id: fresh.body.id, email: null, state: 'erased' },
    'an erased person does not live on in answers',
  )
})

t.test('Prefer: wait', async (t) => {
  const api = await openApi(t)
  const late = await api.call('POST', '/customers', { body: ada, headers: { prefer: 'wait=0' } })
  t.equal(late.status, 202)
  const { id } = late.body
  t.equal(late.headers.get('location'), `/customers/${id}/sync`)
  t.equal(late.headers.get('preference-applied'), 'wait=0')
  t.match(late.headers.get('link'), 'rel="monitor"')

  const patch = api.call('PATCH', `/customers/${id}`, {
    body: { firstName: 'A' },
    headers: { prefer: 'respond-async, wait=99' },
  })
  while (!api.asked.includes('wait 30000')) await new Promise((resolve) => setTimeout(resolve, 5))
  await api.settle(id)
  const done = await patch
  t.match(done, { status: 200, body: { firstName: 'A', sync: { status: 'in_sync', settled: true } } })
  t.equal(done.headers.get('preference-applied'), 'wait=30')

  const waiting = api.call('PATCH', `/customers/${id}`, { body: { firstName: 'B' }, headers: { prefer: 'wait=20' } })
  while (!api.asked.includes('wait 20000')) await new Promise((resolve) => setTimeout(resolve, 5))
  const started = Date.now()
  await api.app.close()
  t.equal((await waiting).status, 202, 'closing ends the wait')
  t.ok(Date.now() - started < 5_000)
})

t.test('lists, filters, pages', async (t) => {
  const api = await openApi(t)
  const stamp = "timestamptz '2026-01-01 00:00:00.000123Z'"
  // All within one millisecond: a cursor of JavaScript's precision would skip or repeat some.
  await api.pool.query(
    `insert into users (first_name, email, phone, type, created_at)
     select 'N' || n, 'user' || n || '@example.com', '+1415555' || lpad(n::text, 4, '0'),
       case when n % 2 = 0 then 'regular' else 'new' end, ${stamp} + n * interval '10 microseconds'
     from generate_series(1, 25) n`,
  )
  await api.pool.query("insert into users (email, tenant_id) values ('user1@example.com', $1)", [api.otherTenantId])
  const names = async (query: string) =>
    ((await api.call('GET', `/customers?${query}`)).body.data as { firstName: string }[]).map(
      ({ firstName }) => firstName,
    )

  for (const sort of ['-createdAt', 'createdAt', '-updatedAt', 'updatedAt']) {
    const seen: string[] = []
    let cursor: string | null = null
    do {
      const query: string = `sort=${sort}&limit=10${cursor === null ? '' : `&cursor=${cursor}`}`
      const { body } = await api.call('GET', `/customers?${query}`)
      seen.push(...body.data.map(({ firstName }: { firstName: string }) => firstName))
      t.equal(body.hasMore, body.nextCursor !== null)
      cursor = body.nextCursor
    } while (cursor !== null)
    t.equal(seen.length, 25, sort)
    t.equal(new Set(seen).size, 25, sort)
    if (sort === 'createdAt') t.equal(seen[0], 'N1')
    if (sort === '-createdAt') t.equal(seen[0], 'N25')
  }
  t.strictSame(await names('email=USER7@example.com'), ['N7'])
  t.strictSame(await names('email=%20USER7@example.com%20'), ['N7'], 'blanks that came with it do not count')
  t.strictSame(await names(`phone=${encodeURIComponent('(415) 555-0007')}`), ['N7'])
  t.strictSame(await names('phone=nonsense'), [])
  t.strictSame(await names('q=ser12@'), ['N12'])
  t.strictSame(await names('q=%25'), [], 'a % is a %')
  t.equal((await names('type=new&limit=100')).length, 13)
  t.equal((await names('createdFrom=2026-01-01T00:00:00.001Z')).length, 0)
  t.equal((await names('createdTo=2026-01-01T00:00:00.001Z&limit=100')).length, 25)
  t.equal((await names('syncStatus=in_sync')).length, 0)
  const [one] = (await api.call('GET', '/customers?email=user3@example.com')).body.data
  await api.pool.query("update users set stripe_customer_id = 'cus_3' where id = $1", [one.id])
  await api.settle(one.id)
  t.strictSame(await names('syncStatus=in_sync'), ['N3'])
  t.strictSame(await names('stripeCustomerId=cus_3'), ['N3'])
  t.strictSame(await names('q=cus_3'), ['N3'])
  t.strictSame(await names(`q=${one.id}`), ['N3'])
  t.equal((await names('state=any&limit=100')).length, 25)
})

t.test('edits of one customer at the same time all get through', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: ada })).body
  const keys = Array.from({ length: 40 }, (_, n) => `key${n}`)
  const answers = await Promise.all(
    keys.map((key) => api.call('PATCH', `/customers/${id}`, { body: { metadata: { [key]: 'set' } } })),
  )
  t.same(
    answers.map(({ status }) => status),
    keys.map(() => 200),
  )
  const { body } = await api.call('GET', `/customers/${id}`)
  t.match(body, { revision: 41, metadata: Object.fromEntries(keys.map((key) => [key, 'set'])) })
})

t.test('times that no database can tell are refused', async (t) => {
  const api = await openApi(t)
  for (const time of ['0000-01-01T00:00:00Z', '0001-01-01T00:00:00+14:00', '9999-12-31T23:59:59-14:00']) {
    for (const name of ['createdFrom', 'createdTo', 'updatedFrom', 'updatedTo']) {
      isProblem(t, await api.call('GET', `/customers?${name}=${encodeURIComponent(time)}`), 400, 'validation_failed')
    }
    isProblem(
      t,
      await api.call('GET', `/customers/export?createdFrom=${encodeURIComponent(time)}`),
      400,
      'validation_failed',
    )
    isProblem(t, await api.call('GET', `/audit?from=${encodeURIComponent(time)}`), 400, 'validation_failed')
    const order = { attendees: [{ email: 'ada@example.com' }], orderedAt: time }
    isProblem(t, await api.call('POST', '/orders', { body: order }), 400, 'validation_failed')
  }
  for (const time of ['0001-01-01T00:00:00Z', '9999-12-31T23:59:59Z']) {
    t.equal((await api.call('GET', `/customers?createdFrom=${time}`)).status, 200, time)
  }
})

t.test('a body that is not UTF-8 is refused, whatever charset it claims', async (t) => {
  const api = await openApi(t)
  const body = Buffer.from('{"email":"jose@example.com","firstName":"Jos\xe9"}', 'latin1')
  for (const type of ['application/json', 'application/json; charset=iso-8859-1']) {
    isProblem(t, await api.call('POST', '/customers', { body, headers: { 'content-type': type } }), 400, 'invalid_json')
  }
  t.same((await api.call('GET', '/customers')).body.data, [])
})

t.test('a locale that Stripe would refuse is refused', async (t) => {
  const api = await openApi(t)
  for (const locale of ['english', 'root', 'x-pirate']) {
    const answer = await api.call('POST', '/customers', { body: { ...ada, locale } })
    isProblem(t, answer, 400, 'validation_failed')
    t.match(answer.body.errors, [{ path: 'locale', code: 'invalid_locale' }], locale)
  }
  t.match((await api.call('POST', '/customers', { body: { ...ada, locale: 'zh-hant-tw' } })).body.locale, 'zh-Hant-TW')
})

t.test('an ETag tells nothing of what is masked', async (t) => {
  const api = await openApi(t)
  const { body } = await api.call('POST', '/customers', { body: ada })
  // The same to whoever may not see personal data.
  const guess = { ...body, firstName: 'Ava', phone: '+14155559900', metadata: { tier: 'lead' }, description: null }
  const other = { ...body, firstName: 'Amy', phone: '+14155551100', metadata: { tier: 'gold' }, description: null }
  t.equal(etagOf(guess), etagOf(other))
  t.not(etagOf(guess), etagOf({ ...guess, sync: { ...body.sync, status: 'in_sync' } }))
})
