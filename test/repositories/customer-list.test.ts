import pg from 'pg'
import t from 'tap'
import { openApi } from '../helpers/api.js'
import { loadPeople } from '../helpers/people.js'

t.setTimeout(580_000)

const USERS = 30_000

interface Plan {
  'Node Type': string
  'Relation Name'?: string
  Plans?: Plan[]
}

/** The tables that grow with the users and of which the plan reads every row. */
function readWhole(plan: Plan): string[] {
  const table = plan['Relation Name'] ?? ''
  const isWhole =
    plan['Node Type'] === 'Seq Scan' && ['users', 'user_list', 'user_search', 'sync_state'].includes(table)
  return [...(isWhole ? [table] : []), ...(plan.Plans ?? []).flatMap(readWhole)]
}

/** Every kind of query that the documentation offers. */
const QUERIES = [
  '',
  'limit=100',
  'sort=createdAt',
  'sort=-updatedAt',
  'sort=updatedAt',
  'sort=name',
  'sort=-name',
  'sort=email',
  'sort=-email',
  'state=any',
  'state=any&sort=name',
  'state=archived&sort=-email',
  'type=anonymous',
  'type=anonymous&sort=name',
  'type=regular&state=any',
  'syncStatus=in_sync',
  'syncStatus=in_sync&sort=email',
  'syncStatus=failed',
  'syncStatus=failed&sort=-updatedAt',
  'syncStatus=ignored&sort=name',
  'syncStatus=conflict&type=new&sort=name',
  'email=nobody@example.com',
  'email=nobody@example.com&syncStatus=in_sync&sort=name&q=nobody',
  'phone=%2B14155550100',
  'stripeCustomerId=cus_1',
  'createdFrom=2020-01-01T00:00:00Z&createdTo=2020-02-01T00:00:00Z',
  'createdTo=2020-02-01T00:00:00Z&sort=name',
  'updatedFrom=2035-01-01T00:00:00Z',
  'updatedFrom=2035-01-01T00:00:00Z&sort=-updatedAt',
  'q=john',
  'q=gmail&sort=name',
  'q=zlatan+kowalskamann',
  'q=zlatan&type=anonymous&syncStatus=failed&sort=-updatedAt',
  'q=kowalskamann&type=anonymous&syncStatus=failed&sort=-updatedAt',
  'q=jhon+smiht',
  'q=jo',
  'q=w+k',
  'q=qqq',
  'q=5550100',
  'q=zlatan&sort=relevance',
  'q=qqxyz&sort=relevance',
  'q=cus_1',
  'q=019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c',
  'count=true',
  'count=estimate&state=any',
  'syncStatus=failed&count=true',
  'q=kowalskamann&count=true',
  'q=kowalskamann&syncStatus=in_sync&sort=-updatedAt&count=true',
  'q=jhon+smiht&sort=name&count=true',
  'q=crm&count=true',
  'q=crm&sort=-email&count=estimate',
]

t.test('no query reads a whole table', async (t) => {
  const api = await openApi(t)
  await loadPeople(api.pool, USERS)
  await api.pool.query('vacuum analyze')

  // At the connections, so that what runs in a transaction is seen too, with the setting that it runs under.
  const statements: { text: string; values: unknown[]; isIndexOnly: boolean }[] = []
  const withoutSeqScan = new WeakSet<object>()
  let isRecording = false
  const { query } = pg.Client.prototype
  t.teardown(() => {
    pg.Client.prototype.query = query
  })
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]) {
    const [first, values] = args as [string | { text: string; values?: unknown[] }, unknown]
    const text = typeof first === 'string' ? first : first.text
    const given = typeof first === 'string' ? values : (first.values ?? values)
    if (text.startsWith('set local enable_seqscan = off')) withoutSeqScan.add(this)
    else if (/^(set local enable_seqscan|commit|rollback)/i.test(text)) withoutSeqScan.delete(this)
    if (isRecording && /user_list|user_search|from users/.test(text)) {
      statements.push({ text, values: Array.isArray(given) ? given : [], isIndexOnly: withoutSeqScan.has(this) })
    }
    return Reflect.apply(query, this, args)
  } as typeof query

  const explain = async ({ text, values, isIndexOnly }: (typeof statements)[number]): Promise<Plan | undefined> => {
    const client = await api.pool.connect()
    try {
      await client.query('begin')
      if (isIndexOnly) await client.query('set local enable_seqscan to off')
      return (await client.query(`explain (format json) ${text}`, values)).rows[0]?.['QUERY PLAN'][0]?.Plan
    } finally {
      await client.query('rollback')
      client.release()
    }
  }

  for (const path of QUERIES) {
    let cursor: string | null = null
    for (const page of [1, 2]) {
      statements.length = 0
      isRecording = true
      const at: string = cursor === null ? '' : `&cursor=${cursor}`
      const answer = await api.call('GET', `/customers?${path}${at}`)
      isRecording = false
      t.equal(answer.status, 200, JSON.stringify(answer.body).slice(0, 300))
      t.ok(statements.length > 0, 'statements were seen')
      for (const statement of [...statements]) {
        if (statement.text.trimStart().startsWith('explain')) continue
        const plan = await explain(statement)
        t.strictSame(plan === undefined ? ['no plan'] : readWhole(plan), [], `${path}, page ${page}: ${statement.text}`)
      }
      cursor = answer.body.nextCursor
      if (cursor === null) break
    }
  }

  const whole = { text: "select from users where description = 'x'", values: [] }
  for (const isIndexOnly of [false, true]) {
    const plan = await explain({ ...whole, isIndexOnly })
    t.strictSame(plan === undefined ? [] : readWhole(plan), ['users'], 'one that does would show')
  }
})

t.test('the same answers whether matches are common, rare, or far away in the order', async (t) => {
  const api = await openApi(t)
  await loadPeople(api.pool, USERS)
  await api.pool.query(
    "update users set description = 'needle' where id in (select user_id from user_list order by created_at limit 150)",
  )
  await api.pool.query(
    "update sync_state set status = 'detached' where user_id in (select user_id from user_list order by created_at desc offset 10000 limit 130)",
  )
  await api.pool.query('analyze')
  const conditions: Record<string, string> = {
    'q=needle': "u.description = 'needle'",
    'q=neelde': "u.description = 'needle'",
    'q=needle&syncStatus=pending&type=regular':
      "u.description = 'needle' and l.sync_status = 'pending' and l.type = 'regular'",
    'q=kowalskamann': "s.text like '%kowalskamann%'",
    'q=gmail&type=anonymous': "s.text like '%gmail%' and l.type = 'anonymous'",
    'syncStatus=detached': "l.sync_status = 'detached'",
    'syncStatus=detached&type=regular': "l.sync_status = 'detached' and l.type = 'regular'",
    'state=any&type=anonymous&updatedFrom=2020-01-01T00:00:00Z': "l.type = 'anonymous'",
  }
  const orders = {
    '-createdAt': 'l.created_at desc, l.user_id desc',
    name: 'l.name, l.user_id',
    '-updatedAt': 'l.updated_at desc, l.user_id desc',
  }
  for (const [query, condition] of Object.entries(conditions)) {
    for (const [sort, order] of Object.entries(orders)) {
      const state = query.includes('state=any') ? 'true' : "l.state = 'active'"
      const { rows } = await api.pool.query(
        `select l.user_id as id from user_list l join user_search s using (user_id) join users u on u.id = user_id
         where ${condition} and ${state} order by ${order} limit 160`,
      )
      const seen: string[] = []
      let cursor: string | null = null
      const counted = await api.pool.query<{ value: number }>(
        `select count(*)::int as value from user_list l join user_search s using (user_id) join users u on u.id = user_id
         where ${condition} and ${state}`,
      )
      do {
        const at: string = cursor === null ? '' : `&cursor=${cursor}`
        const { body } = await api.call('GET', `/customers?${query}&sort=${sort}&limit=40&count=true${at}`)
        const uncounted = await api.call('GET', `/customers?${query}&sort=${sort}&limit=40${at}`)
        t.strictSame({ ...uncounted.body, total: body.total }, body, 'counting changes nothing else')
        t.strictSame(body.total, { ...counted.rows[0], relation: 'exact' }, `${query} ${sort}: the total on each page`)
        seen.push(...body.data.map(({ id }: { id: string }) => id))
        cursor = body.nextCursor
      } while (cursor !== null && seen.length < 160)
      t.strictSame(
        seen,
        rows.map(({ id }) => id),
        `${query} ${sort}: ${rows.length}`,
      )
      t.ok(seen.length > 0)
    }
  }
})

t.test('a count of very many stops early, and is right when there are fewer than expected', async (t) => {
  const api = await openApi(t)
  await loadPeople(api.pool, USERS)
  // More than are counted with the page, fewer than are counted as they lie in the table.
  await api.pool.query(
    `update users set description = 'quokka' where id in (select user_id from user_list order by user_id desc limit 22000)`,
  )
  await api.pool.query('vacuum analyze')
  const total = async (query: string) => (await api.call('GET', `/customers?limit=1&${query}`)).body.total
  t.strictSame(await total('q=crm&count=true'), { value: 10_000, relation: 'at_least' })
  t.strictSame(await total('q=crm&state=archived&count=true'), { value: USERS / 50, relation: 'exact' })
  const active = async (text: string) => {
    const where = "state = 'active' and text like $1"
    const found = await api.pool.query(`select count(*)::int as value from user_search where ${where}`, [`%${text}%`])
    return { value: found.rows[0].value, relation: 'exact' }
  }
  t.strictSame(await total('q=quokka&count=true'), { value: 10_000, relation: 'at_least' })
  const { relation, value } = await total('q=crm&count=estimate')
  t.equal(relation, 'estimate')
  t.ok(value > USERS * 0.9 && value < USERS * 1.1, `about ${USERS}: ${value}`)

  // The statistics do not know.
  await api.pool.query(`begin; set local session_replication_role = replica;
    create temp table gone on commit drop as select user_id from user_list order by user_id limit ${USERS - 8_000};
    delete from user_list where user_id in (select user_id from gone);
    delete from user_search where user_id in (select user_id from gone);
    commit`)
  t.strictSame(await total('q=crm&count=true'), await active('crm'))
  t.strictSame(await total('q=quokka&count=true'), await active('quokka'))
  t.match(
    await total('q=crm&count=estimate'),
    { relation: 'estimate' },
    'where more than 20,000 are expected nothing is counted',
  )
})
