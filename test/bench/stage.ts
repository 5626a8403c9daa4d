import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { pino } from 'pino'
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { makeDatabase } from '../helpers/postgres-server.js'
import { WEBHOOK_SECRET } from './events.js'

/** What the rows share: a durable Postgres, a folder, and what has to be undone at the end. */
export interface Stage {
  folder: string
  /** A new migrated database, with a pool to look into it. */
  database(name: string): Promise<{ url: string; pool: pg.Pool }>
  /** Settings of a Lockstep process that measures itself and not its logs or limits. */
  env(databaseUrl: string, more?: Record<string, string>): Record<string, string>
  /** Undone at the end, last first. */
  later(undo: () => Promise<unknown>): void
  close(): Promise<void>
}

export const ADMIN_KEY = 'lsk_bench_0123456789abcdef0123456789abcdef'

/** Opens it: an embedded Postgres as users have it (durable), or `DATABASE_URL`. */
export async function openStage(): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'lockstep-bench-'))
  const undos: (() => Promise<unknown>)[] = [() => rm(folder, { recursive: true, force: true })]
  let server = process.env.DATABASE_URL
  if (server === undefined) {
    const postgres = await startEmbeddedPostgres({ dataDir: folder, log: pino({ level: 'silent' }) })
    undos.push(() => postgres.close())
    server = postgres.url
  }
  const serverUrl = server
  let closing: Promise<void> | undefined
  const undoAll = async () => {
    for (const undo of undos.reverse())
      await undo().catch((error: unknown) => process.stderr.write(`${String(error)}\n`))
  }
  return {
    folder,
    async database(name) {
      const database = await makeDatabase(serverUrl, name)
      undos.push(() => database.drop())
      const pool = new pg.Pool({ connectionString: database.url, max: 4 })
      pool.on('error', () => {})
      undos.push(() => pool.end())
      return { url: database.url, pool }
    },
    env: (databaseUrl, more = {}) => ({
      DATABASE_URL: databaseUrl,
      STRIPE_SECRET_KEY: 'sk_test_bench',
      STRIPE_WEBHOOK_SECRET: WEBHOOK_SECRET,
      LOCKSTEP_ADMIN_KEY: ADMIN_KEY,
      LOCKSTEP_API_RATE: '10000000',
      LOCKSTEP_ENCRYPTION_KEY: 'A'.repeat(43),
      ...more,
    }),
    later: (undo) => undos.push(undo),
    close() {
      closing ??= undoAll()
      return closing
    },
  }
}
