import { randomBytes } from 'node:crypto'
import pg from 'pg'
import type { Test } from 'tap'

/** A database of a test's own. */
export interface TestDatabase {
  name: string
  url: string
  pool: pg.Pool
}

function setting(name: string): string {
  const value = process.env[name]
  if (!value)
    throw new Error(
      `${name} is not set: run tests by \`npm test [-- test/some.test.ts]\`, which starts what they need.`,
    )
  return value
}

/** The test server's connection string, for another of its databases. */
export function urlOf(database: string): string {
  const url = new URL(setting('TEST_DATABASE_URL'))
  url.pathname = `/${database}`
  return url.href
}

async function administer(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: setting('TEST_DATABASE_URL') })
  await client.connect()
  await client.query(sql).finally(() => client.end())
}

/**
 * Makes a database for this test: a copy of the migrated template, or an empty one. It is dropped when the test ends, unless the
 * test failed; then its name is printed (`TEST_KEEP=1 npm test` also keeps the server it is on).
 */
export async function cloneDatabase(t: Test, { empty = false } = {}): Promise<TestDatabase> {
  const name = `lockstep_test_${randomBytes(6).toString('hex')}`
  const template = empty ? 'template0' : `"${setting('TEST_TEMPLATE')}"`
  // By file copy: with fsync off, as in tests, cheaper than through the log.
  await administer(`create database "${name}" template ${template} strategy file_copy`)
  const url = urlOf(name)
  const pool = new pg.Pool({ connectionString: url, max: 10 })
  // A forced drop ends idle connections; that is no failure of the test.
  pool.on('error', () => {})
  t.teardown(async () => {
    await pool.end()
    if (t.passing()) await administer(`drop database if exists "${name}" with (force)`)
    else t.comment(`the test failed; its database is kept: ${name}`)
  })
  return { name, url, pool }
}
