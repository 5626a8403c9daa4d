import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import { migrate, migrationsFolder, readMigrations } from '../../src/repositories/migrate.js'
import { cloneDatabase } from '../helpers/database.js'
import { testLog as log } from '../helpers/log.js'

/** A migrations folder of the test's own; each value is a script. */
async function folderOf(t: Test, scripts: Record<string, string>): Promise<string> {
  const folder = t.testdir()
  await copyFile(join(migrationsFolder, 'migration_lock.toml'), join(folder, 'migration_lock.toml'))
  for (const [name, sql] of Object.entries(scripts)) {
    await mkdir(join(folder, name), { recursive: true })
    await writeFile(join(folder, name, 'migration.sql'), sql)
  }
  return folder
}

t.test('brings an empty database up to date, and then finds nothing to do', async (t) => {
  const { url, pool } = await cloneDatabase(t, { empty: true })
  const names = (await readMigrations(migrationsFolder)).map(({ name }) => name)

  t.same(await migrate(url, { log }), { applied: names })
  t.same(await migrate(url, { log }), { applied: [] })

  const { rows } = await pool.query(
    'select migration_name, applied_steps_count, finished_at is not null as finished from _prisma_migrations order by 1',
  )
  t.same(
    rows,
    names.map((name) => ({ migration_name: name, applied_steps_count: 1, finished: true })),
  )
  t.ok((await pool.query(`select to_regclass('users') as users`)).rows[0].users)
})

t.test('applies each migration once when several start at the same time', async (t) => {
  const { url, pool } = await cloneDatabase(t, { empty: true })
  const results = await Promise.all([1, 2, 3].map(() => migrate(url, { log })))

  t.equal(results.filter(({ applied }) => applied.length > 0).length, 1, 'one of them did the work')
  const { rows } = await pool.query('select migration_name from _prisma_migrations')
  t.equal(rows.length, (await readMigrations(migrationsFolder)).length)
})

t.test('runs a script whole: semicolons in functions and comments do not cut it', async (t) => {
  const { url, pool } = await cloneDatabase(t, { empty: true })
  const folder = await folderOf(t, {
    '1_one': `-- a comment; with a semicolon
      create function twice(n int) returns int language plpgsql as $$ begin n := n * 2; return n; end $$;
      create table things (id int) -- ends without one`,
  })
  t.same(await migrate(url, { log, folder }), { applied: ['1_one'] })
  t.equal((await pool.query('select twice(21) as n')).rows[0].n, 42)
})

t.test('a failed migration leaves nothing behind, says why, and is tried again once mended', async (t) => {
  const { url, pool } = await cloneDatabase(t, { empty: true })
  const good = 'create table first (id int);'
  const folder = await folderOf(t, { '1_good': good, '2_bad': 'create table second (id int); select nonsense;' })

  await t.rejects(migrate(url, { log, folder }), {
    code: 'migration_failed',
    message: /nonsense[\s\S]*lockstep migrate/,
  })
  const tables = await pool.query(`select to_regclass('first') as first, to_regclass('second') as second`)
  t.same(tables.rows, [{ first: 'first', second: null }])

  await writeFile(join(folder, '2_bad', 'migration.sql'), 'create table second (id int);')
  t.same(await migrate(url, { log, folder }), { applied: ['2_bad'] })
})

t.test('a migration that a kill cut off is run again', async (t) => {
  const { url, pool } = await cloneDatabase(t, { empty: true })
  const folder = await folderOf(t, { '1_one': 'create table first (id int);' })
  await migrate(url, { log, folder })
  await pool.query(
    `insert into _prisma_migrations (id, checksum, migration_name, started_at) values ('cut-off', 'x', '2_two', now())`,
  )
  await mkdir(join(folder, '2_two'))
  await writeFile(join(folder, '2_two', 'migration.sql'), 'create table second (id int);')
  t.same(await migrate(url, { log, folder }), { applied: ['2_two'] })
})

t.test('refuses a migration that was edited after it was applied', async (t) => {
  const { url } = await cloneDatabase(t, { empty: true })
  const folder = await folderOf(t, { '1_one': 'create table first (id int);' })
  await migrate(url, { log, folder })
  await writeFile(join(folder, '1_one', 'migration.sql'), 'create table first (id bigint);')
  await t.rejects(migrate(url, { log, folder }), { code: 'migration_edited', message: /1_one.*new migration/ })
})

t.test('leaves a database that is newer than this release alone', async (t) => {
  const { url } = await cloneDatabase(t, { empty: true })
  const folder = await folderOf(t, { '1_one': 'select 1;', '2_two': 'select 2;' })
  await migrate(url, { log, folder })
  const older = await folderOf(t, { '1_one': 'select 1;' })
  t.same(await migrate(url, { log, folder: older }), { applied: [] })
})
