import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { backfillUserList } from '../../src/repositories/backfill.js'
import { migrationsFolder } from '../../src/repositories/migrate.js'
import { cloneDatabase } from '../helpers/database.js'
import { testLog as log } from '../helpers/log.js'
import { eventually } from '../helpers/wait.js'

const CONTENT = `select l.*, to_jsonb(s) as search from user_list l join user_search s using (user_id) order by user_id`

t.test('users that were there before are entered, without touching them', async (t) => {
  const { url, pool } = await cloneDatabase(t)
  await pool.query(
    `insert into users (first_name, last_name, email) select 'Zoë', 'N' || n, n || '@example.com' from generate_series(1, 1200) n`,
  )
  await pool.query("update sync_state set status = 'failed' where user_id in (select id from users limit 5)")
  const before = await pool.query('select u.*, u.xmin::text from users u order by id')
  const states = await pool.query('select s.*, s.xmin::text from sync_state s order by user_id')
  const entered = (await pool.query(CONTENT)).rows
  // As a database is that has just been migrated, with one that a trigger has entered in part.
  await pool.query('delete from user_list')
  await pool.query("delete from user_search where text not like '%n700 %'")
  await pool.query("update lockstep_backfill set finished_at = null, reached = null where name = 'user_list'")

  await Promise.all([backfillUserList(url, log), backfillUserList(url, log)])
  t.strictSame((await pool.query(CONTENT)).rows, entered)
  t.strictSame((await pool.query('select u.*, u.xmin::text from users u order by id')).rows, before.rows)
  t.strictSame((await pool.query('select s.*, s.xmin::text from sync_state s order by user_id')).rows, states.rows)
  t.ok((await pool.query('select finished_at from lockstep_backfill')).rows[0].finished_at)

  await pool.query('delete from user_list')
  await backfillUserList(url, log)
  t.equal((await pool.query(CONTENT)).rowCount, 0, 'once is enough')
})

t.test('goes on where it was interrupted', async (t) => {
  const { url, pool } = await cloneDatabase(t)
  await pool.query(`insert into users (first_name) select 'N' || n from generate_series(1, 1200) n`)
  const ids = (await pool.query('select id from users order by id')).rows.map(({ id }) => id)
  await pool.query('delete from user_list')
  await pool.query('update lockstep_backfill set finished_at = null, reached = $1', [ids[599]])
  await backfillUserList(url, log)
  const { rows } = await pool.query('select user_id from user_list order by user_id')
  t.strictSame(
    rows.map(({ user_id }) => user_id),
    ids.slice(600),
  )
})

/** What a transaction under way has changed of a user, and the entry that it must come to. */
const UNDER_WAY = {
  'a status': ["update sync_state set status = 'failed' where user_id = $1", 'failed 2026'],
  'a time': ["update users set created_at = '2001-01-01Z' where id = $1", 'pending 2001'],
} as const

for (const [what, [sql, expected]] of Object.entries(UNDER_WAY)) {
  for (const patience of ['a moment', 'longer than a batch waits']) {
    t.test(`what is changed meanwhile is not overwritten: ${what}, ${patience}`, async (t) => {
      const { url, pool } = await cloneDatabase(t)
      const id = (
        await pool.query("insert into users (first_name, created_at) values ('Ann', '2026-06-01Z') returning id")
      ).rows[0].id
      await pool.query('delete from user_list; delete from user_search')
      await pool.query('update lockstep_backfill set finished_at = null')
      const holder = await pool.connect()
      await holder.query('begin')
      await holder.query(sql, [id])

      let isDone = false
      const done = backfillUserList(url, log).finally(() => {
        isDone = true
      })
      const activity =
        "select wait_event_type, query from pg_stat_activity where application_name = 'lockstep backfill' and datname = current_database()"
      await eventually(async () => {
        const [session] = (await pool.query(activity)).rows
        return isDone || (patience === 'a moment' ? session?.wait_event_type === 'Lock' : session?.query === 'rollback')
      })
      t.notOk(isDone, 'it waits')
      await holder.query('commit')
      holder.release()
      await done
      const { rows } = await pool.query(
        `select sync_status || ' ' || extract(year from created_at at time zone 'UTC') as entry from user_list`,
      )
      t.strictSame(rows, [{ entry: expected }])
    })
  }
}

t.test('without the right to make extensions the migration says what to do', async (t) => {
  const { pool } = await cloneDatabase(t, { empty: true })
  const script = await readFile(join(migrationsFolder, '20261121030000_search', 'migration.sql'), 'utf8')
  const client = await pool.connect()
  await client
    .query('create role lockstep_poor; grant usage on schema public to lockstep_poor; set role lockstep_poor')
    .catch(() => client.query('set role lockstep_poor'))
  await t.rejects(client.query(script), {
    message: /pg_trgm, unaccent and btree_gin are needed, and could not be created/,
    hint: /administrator.*create extension pg_trgm/,
  })
  client.release(true)
})

t.test('a statement of many rows is entered as one, and rows that it leaves alone are not touched', async (t) => {
  const { pool } = await cloneDatabase(t)
  const entries = async () =>
    (
      await pool.query(
        `select u.first_name as first, l.name, l.state, s.state as searched, s.text, s.xmin::text as version
         from users u left join user_list l on l.user_id = u.id left join user_search s on s.user_id = u.id order by u.first_name`,
      )
    ).rows
  await pool.query("insert into users (first_name) select 'N' || n from generate_series(101, 104) n")
  const before = await entries()
  t.strictSame(
    before.map(({ name, text }) => `${name}${text}`),
    ['n101 n101', 'n102 n102', 'n103 n103', 'n104 n104'],
  )
  await pool.query(
    `update users set last_name = case when first_name = 'N102' then 'Lee' end,
       state = case when first_name = 'N103' then 'archived' else state end`,
  )
  const after = await entries()
  t.strictSame(
    after.map(({ name, state, searched, text }) => `${name} ${state} ${searched}${text}`),
    [
      'n101 active active n101',
      'n102 lee active active n102 lee',
      'n103 archived archived n103',
      'n104 active active n104',
    ],
  )
  t.strictSame(
    after.map(({ version }, n) => version === before[n].version),
    [true, false, false, true],
  )
  await pool.query(
    `insert into users (id, first_name) select id, 'N101b' from users where first_name = 'N101'
     union all select lockstep_uuidv7(), 'N105' on conflict (id) do update set first_name = excluded.first_name`,
  )
  t.strictSame(
    (await entries()).map(({ text }) => text),
    [' n101b', ' n102 lee', ' n103', ' n104', ' n105'],
    'also where one statement adds some and changes others',
  )
  await pool.query("delete from users where first_name <> 'N105'")
  t.equal((await pool.query('select from user_list')).rowCount, 1)
  t.equal((await pool.query('select from user_search')).rowCount, 1)
})
