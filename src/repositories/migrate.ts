import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import type { BaseLogger } from 'pino'
import { LockstepError, messageOf } from '../lib/errors.js'
import type { MigrationFile } from './schema-engine.js'

/** The schema could not be brought up to date; the message says which migration and what to do. */
export class MigrationError extends LockstepError {}

/** `code` of an error that Postgres sends when a table does not exist. */
const UNDEFINED_TABLE = '42P01'

/** Any number that nothing else in this database locks; spells `LOCK`. */
const LOCK_KEY = 0x4c4f434b

/** How long to wait for another process that is migrating. */
const LOCK_TIMEOUT = '120s'

/**
 * Ends every migration's transaction, so that the script and the record of it are kept together or not at all: an
 * unfinished row then proves that nothing of its script is in the database, and it can be run again after a kill.
 */
const RECORD_FINISH = `; update "_prisma_migrations" set finished_at = now() where finished_at is null and rolled_back_at is null;`

interface HistoryRow {
  migration_name: string
  checksum: string
  finished_at: Date | null
  logs: string | null
}

/** `prisma/migrations` of this package: as far from `src/repositories` as from `dist/repositories`. */
export const migrationsFolder = fileURLToPath(new URL('../../prisma/migrations', import.meta.url))

/** The migrations of a folder, oldest first. */
export async function readMigrations(folder: string): Promise<MigrationFile[]> {
  const entries = await readdir(folder, { withFileTypes: true })
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name)
  return Promise.all(
    names.sort().map(async (name) => ({ name, sql: await readFile(join(folder, name, 'migration.sql'), 'utf8') })),
  )
}

async function readHistory(client: pg.Client): Promise<HistoryRow[]> {
  try {
    const { rows } = await client.query<HistoryRow>(
      'select migration_name, checksum, finished_at, logs from _prisma_migrations where rolled_back_at is null',
    )
    return rows
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === UNDEFINED_TABLE) return []
    throw error
  }
}

/** The migrations still to apply. Throws `migration_edited` if one that was applied has changed since. */
function pendingOf(migrations: MigrationFile[], history: HistoryRow[]): MigrationFile[] {
  const applied = new Map(history.filter((row) => row.finished_at).map((row) => [row.migration_name, row.checksum]))
  const edited = migrations.filter(({ name, sql }) => {
    const checksum = applied.get(name)
    return checksum !== undefined && checksum !== createHash('sha256').update(sql).digest('hex')
  })
  if (edited.length > 0) {
    throw new MigrationError(
      `${edited.map((migration) => migration.name).join(', ')} changed after it was applied to this database. ` +
        'Restore the file from version control and put the change into a new migration; ' +
        'or, if the data is not needed, drop the database (embedded: delete the data directory) and start again.',
      { code: 'migration_edited' },
    )
  }
  return migrations.filter(({ name }) => !applied.has(name))
}

/** The text of what the engine throws: an error, or a JSON string with the message inside. */
function engineMessage(error: unknown): string {
  const text = messageOf(error)
  return /"message"\s*:\s*"((?:[^"\\]|\\.)*)"/.exec(text)?.[1]?.replaceAll('\\n', '\n').replaceAll('\\"', '"') ?? text
}

async function apply(databaseUrl: string, folder: string, migrations: MigrationFile[]): Promise<string[]> {
  // Prisma's part of it is loaded only where there is something to apply.
  const { openSchemaEngine, toMigrationList } = await import('./schema-engine.js')
  const lockfile = await readFile(join(folder, 'migration_lock.toml'), 'utf8').catch(() => null)
  // One connection: the engine takes a session lock of its own, and a pool could return it on another session.
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 1 })
  const engine = await openSchemaEngine(pool, { scriptEnding: RECORD_FINISH })
  try {
    const { appliedMigrationNames } = await engine.applyMigrations({
      migrationsList: toMigrationList(folder, lockfile, migrations),
      filters: { externalTables: [], externalEnums: [] },
    })
    return appliedMigrationNames
  } catch (error) {
    throw new MigrationError(
      `A migration failed: ${engineMessage(error)}\nNothing of it was kept. Mend the cause and run \`npx lockstep migrate\` again.`,
      { code: 'migration_failed', cause: error },
    )
  } finally {
    engine.free()
    await pool.end()
  }
}

/**
 * Applies what `prisma/migrations` has and the database lacks, as `prisma migrate deploy` does and into the same
 * `_prisma_migrations`, in this process and without Prisma's native engine. Any number of processes may call it at once:
 * one works, the others wait for it and find nothing left. With nothing to do it costs one connection and one query.
 *
 * A migration that failed or was cut off is tried again, because none of its script was kept. Migrations that only the
 * database knows are left alone: during a rolling deployment the older release meets a newer schema.
 *
 * @throws {MigrationError} `migration_edited`, `migration_failed` or `migration_locked`.
 */
export async function migrate(
  databaseUrl: string,
  { log, folder = migrationsFolder }: { log: BaseLogger; folder?: string },
): Promise<{ applied: string[] }> {
  const migrations = await readMigrations(folder)
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'lockstep migrate' })
  await client.connect()
  try {
    const history = await readHistory(client)
    const unknown = history.filter((row) => !migrations.some(({ name }) => name === row.migration_name))
    if (unknown.length > 0) {
      log.warn({ migrations: unknown.map((row) => row.migration_name) }, 'the database is newer than this release')
    }
    if (pendingOf(migrations, history).length === 0) return { applied: [] }

    await client.query(`set lock_timeout = '${LOCK_TIMEOUT}'`)
    await client.query('select pg_advisory_lock($1)', [LOCK_KEY]).catch((error: unknown) => {
      throw new MigrationError(
        `Another process has been migrating this database for ${LOCK_TIMEOUT}. Wait for it, or end it, and start again.`,
        { code: 'migration_locked', retryable: true, cause: error },
      )
    })
    const current = await readHistory(client)
    if (pendingOf(migrations, current).length === 0) return { applied: [] }
    const unfinished = current.filter((row) => !row.finished_at)
    if (unfinished.length > 0) {
      log.warn(
        { migrations: unfinished.map((row) => row.migration_name), logs: unfinished.map((row) => row.logs) },
        'a migration was cut off or failed before; trying it again',
      )
      await client.query(
        'update _prisma_migrations set rolled_back_at = now() where finished_at is null and rolled_back_at is null',
      )
    }
    const applied = await apply(databaseUrl, folder, migrations)
    log.info({ migrations: applied }, 'database migrated')
    return { applied }
  } finally {
    // Ends the session, and with it the lock.
    await client.end()
  }
}
