import type pg from 'pg'
import t, { type Test } from 'tap'
import { makeDb } from '../../src/repositories/database.js'
import { makeZoneKeeper, type ZoneKeeper } from '../../src/repositories/search-zones.js'
import { openApi } from '../helpers/api.js'
import { loadPeople } from '../helpers/people.js'
import { eventually } from '../helpers/wait.js'

t.setTimeout(580_000)

const USERS = 20_000
const SIZES = { least: 10_000, zone: 300 }

const ORDERS = {
  name: 'l.name, l.user_id',
  '-email': 'l.email desc, l.user_id desc',
}

const SEARCHES: Record<string, string> = {
  'q=john': "s.text like '%john%' and l.state = 'active'",
  'q=maria smith': "s.text like '%maria%' and s.text like '%smith%' and l.state = 'active'",
  'q=z': "s.text like '% z%' and l.state = 'active'",
  'q=yahoo&type=new&state=any': "s.text like '%yahoo%' and l.type = 'new'",
  'q=gold&type=anonymous&state=any': "s.text like '%gold%' and l.type = 'anonymous'",
}

type Api = Awaited<ReturnType<typeof openApi>>

/** The ids of the first pages, as the service and as the database itself has them. */
async function bothWays({ call, pool }: Api, search: string, sort: keyof typeof ORDERS) {
  const seen: string[] = []
  let cursor: string | null = null
  do {
    const at: string = cursor === null ? '' : `&cursor=${cursor}`
    const { status, body } = await call('GET', `/customers?${encodeURI(search)}&sort=${sort}&limit=40${at}`)
    t.equal(status, 200)
    seen.push(...body.data.map(({ id }: { id: string }) => id))
    cursor = body.nextCursor
  } while (cursor !== null && seen.length < 80)
  const { rows } = await pool.query<{ id: string }>(
    `select l.user_id as id from user_list l join user_search s using (user_id)
     where ${SEARCHES[search]} order by ${ORDERS[sort]} limit 80`,
  )
  return { seen, there: rows.map(({ id }) => id) }
}

async function checkAll(t: Test, api: Api, when: string): Promise<void> {
  for (const search of Object.keys(SEARCHES)) {
    for (const sort of Object.keys(ORDERS) as (keyof typeof ORDERS)[]) {
      const { seen, there } = await bothWays(api, search, sort)
      t.strictSame(seen, there, `${when}: ${search} by ${sort}, ${there.length} of them`)
    }
  }
}

/**
 * Keeps the maps until so much came of it, and answers all that did. A transaction of another database of the server holds it up as
 * well, and other tests have some.
 */
async function kept(keeper: ZoneKeeper, { entered = 0, drawn = 0 }) {
  const sum = { entered: 0, drawn: 0 }
  await eventually(
    async () => {
      const did = await keeper.keep()
      sum.entered += did.entered
      sum.drawn += did.drawn
      return sum.entered >= entered && sum.drawn >= drawn
    },
    { timeout: 60_000, what: 'the maps to be kept' },
  )
  return sum
}

async function drawnKeeper(t: Test, pool: pg.Pool): Promise<ZoneKeeper> {
  // As a write does; without a change there is nothing to keep.
  await pool.query(
    'insert into search_zone_changes (tenant_id, user_id) select tenant_id, user_id from user_search limit 1',
  )
  const keeper = makeZoneKeeper(makeDb(pool), SIZES)
  t.strictSame(await keeper.keep(), { entered: 0, drawn: 0 }, 'not at the first look')
  t.strictSame(await kept(keeper, { drawn: 2 }), { entered: 0, drawn: 2 }, 'one by name, one by e-mail')
  return keeper
}

t.test('searches by name and e-mail are the same with zone maps, whatever changes', async (t) => {
  const api = await openApi(t)
  const { pool } = api
  await loadPeople(pool, USERS)
  await pool.query('vacuum analyze')
  const keeper = await drawnKeeper(t, pool)
  await checkAll(t, api, 'drawn')

  const { rows: maps } = await pool.query<{ sort: string; zones: number }>(
    'select sort, cardinality(bounds) + 1 as zones from search_zone_maps order by sort',
  )
  for (const { sort, zones } of maps) t.ok(zones > 20 && zones < 150, `${zones} zones by ${sort}`)
  const { rows: told } = await pool.query(`
    select bound from search_zone_maps m, unnest(m.bounds) as bound
    where (select count(*) from user_list l where left(l.name, length(bound) - 1) = left(bound, -1)
      or left(l.email, length(bound) - 1) = left(bound, -1)) < 100`)
  t.strictSame(told, [], 'what a bound begins with many have')

  await pool.query(
    "update users set description = 'john' where id in (select user_id from user_list order by name limit 3)",
  )
  await pool.query(
    "update users set description = 'john' where id in (select user_id from user_list order by email desc limit 3)",
  )
  await pool.query(
    "update users set first_name = 'Aaron', last_name = 'Zweig' where id in (select user_id from user_search where text like '%zlatan%' order by user_id limit 5)",
  )
  await pool.query(
    "update users set first_name = 'Zyx' where id in (select user_id from user_list where name like 'john%' order by name limit 5)",
  )
  await pool.query(
    "delete from users where id in (select user_id from user_list where name like 'maria%' order by name limit 5)",
  )
  await pool.query("insert into users (first_name, email) values ('Äaron José', 'aaa.maria.smith@yahoo.example')")
  await checkAll(t, api, 'changed')
  t.ok((await kept(keeper, { entered: 12 })).entered >= 12, 'the changes are entered')
  t.strictSame(await keeper.keep(), { entered: 0, drawn: 0 }, 'once')
  await checkAll(t, api, 'entered')

  await pool.query("update users set description = 'sold gold' where id in (select user_id from user_list limit 1500)")
  await checkAll(t, api, 'so much changed that the map is of no use')
  t.equal((await kept(keeper, { entered: 1500 })).entered, 1500)
  await pool.query('update search_zone_maps set changes = users')
  await pool.query("update users set description = 'once more' where id in (select user_id from user_list limit 1)")
  t.equal((await kept(keeper, { drawn: 2 })).drawn, 2, 'drawn anew after very many changes')
  await checkAll(t, api, 'drawn anew')
})

t.test('where a match cannot be is not looked at', async (t) => {
  const api = await openApi(t)
  const { pool } = api
  await loadPeople(pool, USERS)
  await pool.query('vacuum analyze')
  await drawnKeeper(t, pool)
  // Behind the back of the map: it says that nothing begins with a "j" among the first.
  await pool.query(`begin; set local session_replication_role = replica;
    update user_search set text = text || ' john' where user_id in (select user_id from user_list order by name limit 1);
    commit`)
  const first = async (sort: string) => (await api.call('GET', `/customers?q=john&sort=${sort}&limit=1`)).body.data[0]
  t.match((await first('name')).firstName, /^John/)
  t.notMatch((await first('createdAt')).firstName, /^Aisha/)
})

t.test('who commits while a map is drawn, or writes under way, is found', async (t) => {
  const api = await openApi(t)
  const { pool } = api
  await loadPeople(pool, USERS)
  await pool.query('vacuum analyze')
  const first = async () => (await api.call('GET', '/customers?q=john&sort=name&limit=1')).body.data[0].firstName
  const open = async (name: string) => {
    const client = await pool.connect()
    await client.query('begin')
    await client.query('insert into users (first_name, description) values ($1, $2)', [name, 'a friend of John'])
    return async () => {
      await client.query('commit')
      client.release()
    }
  }

  await pool.query(
    'insert into search_zone_changes (tenant_id, user_id) select tenant_id, user_id from user_search limit 1',
  )
  const keeper = makeZoneKeeper(makeDb(pool), SIZES)
  const commitEarly = await open('Aaab')
  t.equal((await keeper.keep()).drawn, 0)
  t.equal((await keeper.keep()).drawn, 0, 'not while a transaction is under way from before the first look')
  await commitEarly()
  const commitLate = await open('Aaaa')
  t.equal((await kept(keeper, { drawn: 2 })).drawn, 2)
  t.equal(await first(), 'Aaab')
  await commitLate()
  t.equal(await first(), 'Aaaa', 'noted')
  t.equal((await kept(keeper, { entered: 1 })).entered, 1)
  t.equal(await first(), 'Aaaa', 'and entered')
})

t.test('small tenants have no map, and their changes do not pile up', async (t) => {
  const { pool } = await openApi(t)
  await loadPeople(pool, 200)
  await pool.query("update users set description = 'changed'")
  const keeper = makeZoneKeeper(makeDb(pool), SIZES)
  const held = 'select from search_zone_maps union all select from search_zone_changes'
  await eventually(async () => {
    await keeper.keep()
    return (await pool.query(held)).rowCount === 0
  })
  t.pass('nothing is left')
})
