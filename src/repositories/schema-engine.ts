import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { PrismaPg } from '@prisma/adapter-pg'
import type { SqlMigrationAwareDriverAdapterFactory } from '@prisma/driver-adapter-utils'
import { bindMigrationAwareSqlAdapterFactory } from '@prisma/driver-adapter-utils'
import type { MigrationList, SchemaEngine } from '@prisma/schema-engine-wasm'
import type { Pool } from 'pg'

/** One folder of `prisma/migrations`. */
export interface MigrationFile {
  /** The folder's name, which is the migration's identity: `20261120000000_base`. */
  name: string
  sql: string
}

interface Exports {
  __wbindgen_start(): void
}

/** The part of the global that is used here: TypeScript has it in the browser's library only. */
declare const WebAssembly: {
  instantiate(bytes: Uint8Array, imports: object): Promise<{ instance: { exports: Exports } }>
}

type Wasm = typeof import('@prisma/schema-engine-wasm')

let loading: Promise<Wasm> | undefined

/**
 * Prisma's schema engine as WebAssembly, compiled once per process and only when asked for: compiling costs a few tenths
 * of a second that a start with nothing to migrate need not pay. The package's own entry imports the `.wasm` as a module,
 * which Node cannot; hence the parts are put together here.
 */
async function loadEngine(): Promise<Wasm> {
  const parts = createRequire(import.meta.url).resolve('@prisma/schema-engine-wasm/schema_engine_bg')
  const [glue, bytes] = await Promise.all([
    import('@prisma/schema-engine-wasm/schema_engine_bg') as Promise<Wasm & { __wbg_set_wasm(exports: unknown): void }>,
    readFile(join(dirname(parts), 'schema_engine_bg.wasm')),
  ])
  const { instance } = await WebAssembly.instantiate(bytes, { './schema_engine_bg.js': withoutLingering(glue) })
  glue.__wbg_set_wasm(instance.exports)
  instance.exports.__wbindgen_start()
  return glue
}

/** The engine never clears the timer (10 s) that bounds its wait for a lock, and would keep a finished process alive for it. */
function withoutLingering(glue: object): object {
  const entries = Object.entries(glue).map(([name, value]) => [
    name,
    name.startsWith('__wbg_setTimeout_')
      ? (callback: () => void, ms: number) => setTimeout(callback, ms).unref()
      : value,
  ])
  return Object.fromEntries(entries)
}

/** The stock adapter's connection. */
export type Adapter = Awaited<ReturnType<PrismaPg['connect']>>

/**
 * Sends a script in one message. The stock adapter cuts it at every `;`, also within function bodies and comments. In one
 * message Postgres runs it as one transaction, too: a script that fails leaves nothing behind.
 */
function withWholeScripts(adapter: Adapter, ending: string): Adapter {
  adapter.executeScript = async (script) => {
    await adapter.executeRaw({ sql: `${script}\n${ending}`, args: [], argTypes: [] })
  }
  return adapter
}

export interface SchemaEngineOptions {
  /** SQL that is run in the same transaction as each migration script, at its end. */
  scriptEnding?: string
  /** Changes the connection to the scratch database in which migrations are replayed to compare them with the schema. */
  onScratch?: (adapter: Adapter) => Adapter
}

/** Opens the schema engine on a pool, which stays the caller's. */
export async function openSchemaEngine(
  pool: Pool,
  { scriptEnding = '', onScratch = (adapter) => adapter }: SchemaEngineOptions = {},
): Promise<SchemaEngine> {
  loading ??= loadEngine()
  const { SchemaEngine } = await loading
  const stock = new PrismaPg(pool)
  const factory: SqlMigrationAwareDriverAdapterFactory = {
    provider: stock.provider,
    adapterName: stock.adapterName,
    connect: async () => withWholeScripts(await stock.connect(), scriptEnding),
    connectToShadowDb: async () => onScratch(withWholeScripts(await stock.connectToShadowDb(), '')),
  }
  return SchemaEngine.new({ datamodels: undefined }, () => {}, bindMigrationAwareSqlAdapterFactory(factory))
}

/** The migrations in the form the engine takes; `folder` is absolute, `lockfile` the content of `migration_lock.toml`. */
export function toMigrationList(folder: string, lockfile: string | null, migrations: MigrationFile[]): MigrationList {
  return {
    baseDir: folder,
    lockfile: { path: 'migration_lock.toml', content: lockfile },
    shadowDbInitScript: '',
    migrationDirectories: migrations.map(({ name, sql }) => ({
      path: name,
      migrationFile: { path: 'migration.sql', content: { tag: 'ok', value: sql } },
    })),
  }
}
