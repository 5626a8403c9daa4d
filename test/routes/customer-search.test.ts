import t from 'tap'
import { isProblem, openApi, type TestApi } from '../helpers/api.js'

interface Person {
  first?: string
  last?: string
  email?: string
  phone?: string
  description?: string
  metadata?: Record<string, string>
}

/** Adds people by SQL, the last the newest; each is called by what `firstName` says of it. */
async function add(api: TestApi, people: Person[], tenantId = api.tenantId): Promise<void> {
  for (const [n, person] of people.entries()) {
    await api.pool.query(
      `insert into users (tenant_id, first_name, last_name, email, phone, description, metadata, created_at)
       values ($1, $2, $3, $4, $5, $6, $7, timestamptz '2026-01-01Z' + $8 * interval '1 second')`,
      [
        tenantId,
        person.first ?? null,
        person.last ?? null,
        person.email ?? null,
        person.phone ?? null,
        person.description ?? null,
        person.metadata ?? {},
        n,
      ],
    )
  }
}

const firstNames = (body: { data: { firstName: string }[] }) => body.data.map(({ firstName }) => firstName)

t.test('what a search finds', async (t) => {
  const api = await openApi(t)
  await add(api, [
    { first: 'José', last: 'Núñez', email: 'pepe@example.com', phone: '+14155550100' },
    { first: 'John', last: 'Smith', email: 'j.smith+shop@example.org', description: 'Über 100% happy, says support' },
    { first: 'Anne-Marie', last: 'O’Brien', metadata: { crm: 'ACME-77x', city: 'Malmö' } },
    { first: 'Łukasz', last: 'Straße', phone: '+493012345678' },
    { first: '王', last: '伟', email: 'wang@example.cn' },
    { first: 'Иван', last: 'Петров' },
  ])
  await add(api, [{ first: 'Hidden', last: 'Smith' }], api.otherTenantId)
  const find = async (q: string) =>
    firstNames((await api.call('GET', `/customers?q=${encodeURIComponent(q)}`)).body).join()

  const found: Record<string, string> = {
    'jose nunez': 'José',
    'NÚÑEZ, jose': 'José',
    'Nun\u0303ez': 'José',
    nunez: 'José',
    une: 'José',
    'smith john': 'John',
    'john nunez': '',
    jhon: 'John',
    'jon smiht': 'John',
    johnn: 'John',
    jxhn: 'John',
    jxxn: '',
    'smiht shop': 'John',
    'lukas strasse': 'Łukasz',
    lukasz: 'Łukasz',
    'anne marie': 'Anne-Marie',
    annemarie: 'Anne-Marie',
    marie: 'Anne-Marie',
    "o'brien": 'Anne-Marie',
    obrein: 'Anne-Marie',
    'pepe@example': 'José',
    '.smith+shop@': 'John',
    '555-0100': 'José',
    '(415) 555-0100': 'José',
    '5550100': 'José',
    '0100': 'José',
    '030 12345678': '',
    '+49 30 1234 5678': 'Łukasz',
    '100%': 'John',
    '%': '',
    _: '',
    '\\': '',
    '- & .': '',
    'john & smith': 'John',
    'uber happy': 'John',
    'acme-77x': 'Anne-Marie',
    'acme 77x': 'Anne-Marie',
    malmo: 'Anne-Marie',
    crm: '',
    jo: 'John,José',
    'j s': 'John',
    hn: '',
    王: '王',
    иван: 'Иван',
    ИВАН: 'Иван',
    петоров: 'Иван',
    hidden: '',
  }
  for (const [q, names] of Object.entries(found)) t.equal(await find(q), names, `«${q}»`)
  api.settings.defaultRegion = 'DE'
  t.equal(await find('030 12345678'), 'Łukasz', 'a national number, by the tenant’s region')

  const [john] = (await api.call('GET', '/customers?q=john')).body.data
  await api.pool.query("update users set stripe_customer_id = 'cus_J0hn' where id = $1", [john.id])
  await api.pool.query(`update users set metadata = jsonb_build_object('knows', $1::text) where first_name = 'José'`, [
    john.id,
  ])
  t.equal(await find('cus_J0hn'), 'John')
  t.equal(await find(` ${john.id.toUpperCase()} `), 'John,José', 'an id, and who mentions it')
  t.equal(await find('cus_nobody'), '')

  isProblem(t, await api.call('GET', `/customers?q=${'a+b+c+d+e+f+g+h+i+j+k+l+m'}`), 400, 'validation_failed', 'q')
  isProblem(t, await api.call('GET', '/customers?sort=relevance'), 400, 'validation_failed', 'sort')
})

t.test('a search follows every change, whoever makes it', async (t) => {
  const api = await openApi(t)
  const { body: ada } = await api.call('POST', '/customers', {
    body: { firstName: 'Ada', lastName: 'Byron', email: 'ada@example.com' },
  })
  const count = async (query: string) => (await api.call('GET', `/customers?${query}`)).body.data.length
  t.equal(await count('q=byron'), 1)
  await api.call('PATCH', `/customers/${ada.id}`, { body: { lastName: 'Lovelace', metadata: { tier: 'platinum' } } })
  t.equal(await count('q=byron'), 0)
  t.equal(await count('q=lovelace+platinum'), 1)
  await api.pool.query("update users set description = 'countess' where id = $1", [ada.id])
  t.equal(await count('q=countess'), 1)
  t.equal(await count('syncStatus=pending&sort=name'), 1)
  await api.settle(ada.id)
  t.equal(await count('syncStatus=pending&sort=name'), 0)
  t.equal(await count('syncStatus=in_sync&sort=name'), 1)
  await api.call('DELETE', `/customers/${ada.id}?erase=true`)
  t.equal(await count('q=lovelace&state=any'), 0)
  const { rows } = await api.pool.query(
    'select l.name, l.email, s.text, s.words from user_list l join user_search s using (user_id)',
  )
  t.strictSame(rows, [{ name: '', email: '', text: ' ', words: [] }], 'an erased person is not kept here')
  await api.pool.query('delete from users')
  t.strictSame((await api.pool.query('select from user_list')).rowCount, 0)
  t.strictSame((await api.pool.query('select from user_search')).rowCount, 0)
})

t.test('relevance', async (t) => {
  const api = await openApi(t)
  await add(api, [
    { first: 'Ann', last: 'Lee' },
    { first: 'Hannah', last: 'Lee' },
    { first: 'Ann', last: 'Leeson' },
    { first: 'Lee', last: 'Ann' },
    { first: 'Joanna', last: 'Kleeman' },
    { first: 'Bob', last: 'Ross', email: 'ann.lee@example.com' },
    { first: 'Ann', last: 'Other' },
  ])
  const everyone: string[] = []
  let cursor: string | null = null
  do {
    const at: string = cursor === null ? '' : `&cursor=${cursor}`
    const { body } = await api.call('GET', `/customers?q=ann+lee&sort=relevance&limit=2&count=true${at}`)
    everyone.push(
      ...body.data.map((one: { firstName: string; lastName: string }) => `${one.firstName} ${one.lastName}`),
    )
    t.strictSame(body.total, { value: 6, relation: 'exact' })
    cursor = body.nextCursor
  } while (cursor !== null)
  t.strictSame(everyone, ['Ann Lee', 'Bob Ross', 'Lee Ann', 'Ann Leeson', 'Joanna Kleeman', 'Hannah Lee'])
  t.strictSame(firstNames((await api.call('GET', '/customers?q=ann.lee@example.com&sort=relevance')).body), ['Bob'])
  t.equal((await api.call('GET', '/customers?q=hanah+lee&sort=relevance')).body.data.length, 1, 'slips are forgiven')
})

t.test('orders, filters, and pages that stay right', async (t) => {
  const api = await openApi(t)
  await api.pool.query(
    `insert into users (first_name, email, type, state, description, created_at, updated_at)
     select case when n % 11 = 0 then null else (array['Ängström', 'zoe', 'Bob', 'ÉMILE'])[1 + n % 4] end, 'U' || n % 7 || '@example.com',
       case when n % 3 = 0 then 'new' else 'regular' end, case when n % 5 = 0 then 'archived' else 'active' end,
       case when n % 2 = 0 then 'gold digger' end, timestamptz '2026-01-01Z' + n / 3 * interval '1 second',
       timestamptz '2026-02-01Z' + (60 - n) * interval '1 second'
     from generate_series(1, 60) n`,
  )
  await api.pool.query(
    "update sync_state set status = 'in_sync' where user_id in (select id from users where revision = 1 and type = 'new')",
  )
  const filters = [
    '',
    'q=gold',
    'q=godl',
    'state=any',
    'state=archived',
    'type=new',
    'syncStatus=in_sync',
    'email=u3@example.com',
    'createdFrom=2026-01-01T00:00:10Z',
    'updatedFrom=2026-02-01T00:00:20Z&updatedTo=2026-02-01T00:00:40Z',
    'q=gold&state=any&type=regular&syncStatus=pending',
  ]
  const columns = { createdAt: 'l.created_at', updatedAt: 'l.updated_at', name: 'l.name', email: 'l.email' }
  const wheres = [
    "l.state = 'active'",
    "l.state = 'active' and description is not null",
    "l.state = 'active' and description is not null",
    'true',
    "l.state = 'archived'",
    "l.state = 'active' and l.type = 'new'",
    "l.state = 'active' and l.type = 'new'",
    "l.state = 'active' and l.email = 'u3@example.com'",
    "l.state = 'active' and l.created_at >= '2026-01-01 00:00:10Z'",
    "l.state = 'active' and l.updated_at >= '2026-02-01 00:00:20Z' and l.updated_at < '2026-02-01 00:00:40Z'",
    "description is not null and l.type = 'regular'",
  ]
  for (const [n, filter] of filters.entries()) {
    for (const [sort, column] of Object.entries(columns)) {
      for (const direction of ['', '-']) {
        const { rows } = await api.pool.query(
          `select u.id from users u join user_list l on l.user_id = u.id where ${wheres[n]}
           order by ${column} ${direction === '' ? 'asc' : 'desc'}, u.id ${direction === '' ? 'asc' : 'desc'}`,
        )
        const seen: string[] = []
        let cursor: string | null = null
        do {
          const at: string = cursor === null ? '' : `&cursor=${cursor}`
          const { body } = await api.call('GET', `/customers?${filter}&sort=${direction}${sort}&limit=7${at}`)
          seen.push(...body.data.map(({ id }: { id: string }) => id))
          cursor = body.nextCursor
        } while (cursor !== null)
        t.strictSame(
          seen,
          rows.map(({ id }) => id),
          `${filter} ${direction}${sort}`,
        )
      }
    }
  }
  const names = firstNames((await api.call('GET', '/customers?sort=name&limit=100')).body)
  t.strictSame(
    [...new Set(names)],
    [null, 'Ängström', 'Bob', 'ÉMILE', 'zoe'],
    'none first; accents and case do not matter',
  )

  const first = (await api.call('GET', '/customers?sort=createdAt&limit=10')).body
  const ids = first.data.map(({ id }: { id: string }) => id)
  await api.pool.query('delete from users where id = any($1)', [[ids[0], ids[9]]])
  await api.pool.query("insert into users (first_name, created_at) values ('Early', '2025-01-01')")
  await api.pool.query("update users set first_name = 'Moved' where id = $1", [ids[1]])
  const rest: string[] = (
    await api.call('GET', `/customers?sort=createdAt&limit=100&cursor=${first.nextCursor}`)
  ).body.data.map(({ id }: { id: string }) => id)
  t.equal(rest.length, 38, 'what others did around the place changes nothing after it')
  t.notOk(rest.some((id) => ids.includes(id)))
})

t.test('a cursor is good for its own list only', async (t) => {
  const api = await openApi(t)
  await api.pool.query(
    "insert into users (first_name, email) select 'Ann', n || '@example.com' from generate_series(1, 5) n",
  )
  const { nextCursor } = (await api.call('GET', '/customers?q=ann&sort=name&limit=2')).body
  const next = (query: string, cursor = nextCursor) => api.call('GET', `/customers?${query}&cursor=${cursor}`)
  t.equal((await next('q=ann&sort=name&limit=100')).body.data.length, 3, 'the page size may change')
  t.equal((await next('sort=name&q=ann&limit=1&count=true')).status, 200)
  for (const [query, why] of [
    ['q=ann', /another order/],
    ['q=ann&sort=-name', /another order/],
    ['q=anna&sort=name', /other filters/],
    ['sort=name', /other filters/],
    ['q=ann&sort=name&state=any', /other filters/],
    ['q=ann&sort=name&createdTo=2030-01-01T00:00:00Z', /other filters/],
  ] as const) {
    const answer = await next(query)
    isProblem(t, answer, 400, 'invalid_cursor', 'cursor')
    t.match(answer.body.detail, why, query)
  }
  const forge = (...parts: unknown[]) => Buffer.from(JSON.stringify(parts)).toString('base64url')
  const [sort, fingerprint, tier, value, id] = JSON.parse(Buffer.from(nextCursor, 'base64url').toString())
  for (const cursor of [
    'x',
    forge(),
    forge(sort, fingerprint, tier, value, 'id'),
    forge(sort, fingerprint, -1, value, id),
    forge(sort, fingerprint, tier, 'a\0', id),
    forge(sort, fingerprint, tier, '\ud800', id),
    forge(sort, fingerprint, tier, 7, id),
    `${nextCursor}=`,
  ]) {
    isProblem(t, await next('q=ann&sort=name', cursor), 400, 'invalid_cursor', 'cursor')
  }
  const byTime = (await api.call('GET', '/customers?limit=2')).body.nextCursor
  const [, print, , , last] = JSON.parse(Buffer.from(byTime, 'base64url').toString())
  isProblem(
    t,
    await next('', forge('-createdAt', print, 0, '2026-02-30T00:00:00.000000Z', last)),
    400,
    'invalid_cursor',
  )
  t.equal((await next('limit=2', byTime)).status, 200)
})

t.test('totals', async (t) => {
  const api = await openApi(t)
  await api.pool.query(
    "insert into users (first_name) select case when n <= 10020 then 'Ann' else 'Bob' end from generate_series(1, 10040) n",
  )
  await api.pool.query('analyze')
  const total = async (query: string) => (await api.call('GET', `/customers?limit=1&${query}`)).body.total
  t.equal(await total(''), undefined, 'only when asked')
  t.strictSame(await total('count=true'), { value: 10_000, relation: 'at_least' })
  t.strictSame(await total('count=true&q=bob'), { value: 20, relation: 'exact' })
  t.strictSame(await total('count=true&q=bobb'), { value: 0, relation: 'exact' })
  t.strictSame(await total('count=true&q=%25'), { value: 0, relation: 'exact' })
  t.strictSame(await total('count=true&syncStatus=failed&type=new&sort=name'), { value: 0, relation: 'exact' })
  t.strictSame(await total('count=estimate&q=bob'), { value: 20, relation: 'exact' })
  for (const query of ['count=estimate', 'count=estimate&q=ann', 'count=estimate&state=any']) {
    const { value, relation } = await total(query)
    t.equal(relation, 'estimate')
    t.ok(value > 10_000 && value < 12_000, `${query}: ${value}`)
  }
})

t.test('who may not see personal data cannot guess it by searching', async (t) => {
  const api = await openApi(t)
  const { body: ada } = await api.call('POST', '/customers', { body: { firstName: 'Ada', email: 'ada@example.com' } })
  await api.call('POST', '/customers', {
    body: { firstName: 'Bob', email: 'b@example.com', metadata: { knows: ada.id } },
  })
  const asViewer = (path: string) => api.call('GET', path, { key: api.keys.viewer })
  for (const query of [
    'q=ada',
    'email=ada@example.com',
    'phone=1',
    'sort=name',
    'sort=-email',
    'q=ada&sort=relevance',
    `q=${ada.id}x`,
  ]) {
    isProblem(t, await asViewer(`/customers?${query}`), 403, 'permission_denied')
  }
  isProblem(
    t,
    await api.call('POST', '/customers/match', { key: api.keys.viewer, body: { email: 'ada@example.com' } }),
    403,
    'permission_denied',
  )
  t.strictSame(
    firstNames((await asViewer(`/customers?q=${ada.id}`)).body),
    ['A***'],
    'an exact id, and nothing that mentions it',
  )
  t.strictSame((await asViewer('/customers?q=cus_nobody')).body.data, [])
  t.equal((await asViewer('/customers?sort=-updatedAt&syncStatus=pending&count=true')).body.total.value, 2)
})
