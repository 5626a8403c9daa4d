/**
 * Writes the SQL that leads from the migrations to `schema.prisma`, for a person to complete by what Prisma cannot express.
 *
 *   tsx prisma/create-migration.ts                 prints it; exit code 2 if there is a difference, so that CI can ask
 *   tsx prisma/create-migration.ts add-orders      writes prisma/migrations/<time>_add_orders/migration.sql
 *   … --from-empty                                 the whole schema, from nothing
 *
 * It needs a scratch database to replay the migrations in: DATABASE_URL's server, else a throw-away embedded one.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { ColumnTypeEnum } from '@prisma/driver-adapter-utils'
import pg from 'pg'
import { pino } from 'pino'
import { startEmbeddedPostgres } from '../src/embedded/postgres.js'
import { migrationsFolder, readMigrations } from '../src/repositories/migrate.js'
import { type Adapter, openSchemaEngine, toMigrationList } from '../src/repositories/schema-engine.js'

const schemaPath = fileURLToPath(new URL('schema.prisma', import.meta.url))

/** Postgres' type "char" (OID 18), which its catalogue uses for flags, and TEXT; the adapter knows only the latter. */
const CHAR_OID = 18
const TEXT_OID = 25

/** Lets the engine read the catalogue of its scratch database, by which it learns what the migrations come to. */
function withReadableCatalogue(adapter: Adapter): Adapter {
  const driver = adapter.underlyingDriver()
  const query = driver.query.bind(driver) as (...args: unknown[]) => Promise<pg.QueryResult>
  const flags = new WeakMap<object, number[]>()
  const patched = async (...args: unknown[]) => {
    const result = await query(...args)
    for (const [column, field] of (result.fields ?? []).entries()) {
      if (field.dataTypeID !== CHAR_OID) continue
      field.dataTypeID = TEXT_OID
      flags.set(result.rows, [...(flags.get(result.rows) ?? []), column])
    }
    return result
  }
  driver.query = patched as typeof driver.query
  const queryRaw = adapter.queryRaw.bind(adapter)
  adapter.queryRaw = async (sql) => {
    const result = await queryRaw(sql)
    for (const column of flags.get(result.rows) ?? []) {
      result.columnTypes[column] = ColumnTypeEnum.Character
      // The engine wants one character; Postgres keeps a flag that is not set as NUL, and sends it as nothing.
      for (const row of result.rows) if (row[column] === '') row[column] = '\0'
    }
    return result
  }
  return adapter
}

async function diff(databaseUrl: string, fromEmpty: boolean): Promise<string> {
  const lockfile = await readFile(join(migrationsFolder, 'migration_lock.toml'), 'utf8')
  const migrations = toMigrationList(migrationsFolder, lockfile, await readMigrations(migrationsFolder))
  const pool = new pg.Pool({ connectionString: databaseUrl })
  const engine = await openSchemaEngine(pool, { onScratch: withReadableCatalogue })
  try {
    const { stdout } = await engine.diff({
      from: fromEmpty ? { tag: 'empty' } : { tag: 'migrations', ...migrations },
      to: { tag: 'schemaDatamodel', files: [{ path: schemaPath, content: await readFile(schemaPath, 'utf8') }] },
      script: true,
      exitCode: null,
      filters: { externalTables: [], externalEnums: [] },
    })
    return stdout ?? ''
  } finally {
    engine.free()
    await pool.end()
  }
}

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { 'from-empty': { type: 'boolean', default: false } },
  })
  const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-diff-'))
  const given = process.env.DATABASE_URL
  const scratch = given
    ? undefined
    : await startEmbeddedPostgres({ dataDir, durable: false, log: pino({ level: 'silent' }) })
  let sql: string
  try {
    sql = await diff(given ?? scratch?.url ?? '', values['from-empty'])
  } finally {
    await scratch?.close()
    await rm(dataDir, { recursive: true, force: true })
  }

  const [name] = positionals
  const isEmpty = sql.replace(/^--.*$/gm, '').trim() === ''
  if (name === undefined || isEmpty) {
    process.stdout.write(isEmpty ? 'The migrations and schema.prisma agree.\n' : sql)
    return isEmpty ? 0 : 2
  }
  const time = new Date().toISOString().replace(/\D/g, '').slice(0, 14)
  const folder = join(migrationsFolder, `${time}_${name.replace(/\W+/g, '_')}`)
  await mkdir(folder)
  await writeFile(join(folder, 'migration.sql'), sql)
  process.stdout.write(`${folder}/migration.sql\n`)
  return 0
}

process.exitCode = await main()
