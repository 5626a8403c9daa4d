import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { migrate } from '../../src/repositories/migrate.js'
import { testLog as log } from './log.js'

/** A Postgres for tests: the one that TEST_DATABASE_URL names, else a throw-away one, which is quicker for not being durable. */
export async function startTestPostgres({ keep = false } = {}): Promise<{ url: string; close(): Promise<void> }> {
  const given = process.env.TEST_DATABASE_URL
  if (given) return { url: given, close: async () => {} }
  const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-test-'))
  const postgres = await startEmbeddedPostgres({ dataDir, durable: false, log })
  return {
    url: postgres.url,
    async close() {
      if (keep) return
      await postgres.close()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

/** A new, migrated database on the server. `drop` also ends the connections to it. */
export async function makeDatabase(
  serverUrl: string,
  prefix: string,
): Promise<{ name: string; url: string; drop(): Promise<void> }> {
  const name = `${prefix}_${randomBytes(6).toString('hex')}`
  await administer(serverUrl, `create database "${name}" template template0`)
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  await migrate(url.href, { log })
  return { name, url: url.href, drop: () => administer(serverUrl, `drop database if exists "${name}" with (force)`) }
}

async function administer(serverUrl: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl })
  await client.connect()
  await client.query(sql).finally(() => client.end())
}
