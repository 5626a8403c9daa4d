import type { Logger } from 'pino'
import type { Config } from '../config.js'
import { openDatabase, openVault } from '../core.js'
import { systemClock } from '../lib/clock.js'
import { LockstepError } from '../lib/errors.js'
import type { Lifecycle } from '../lib/lifecycle.js'
import { FILE_FORMATS, type FileFormat } from '../models/import.js'
import type { TenantSettings } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import { makeDb, openPool } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { openPrisma } from '../repositories/prisma.js'
import { findTenant, findTenantId } from '../repositories/tenants.js'
import { makeCustomerService } from '../services/customer.service.js'
import { makeExportService } from '../services/export.service.js'
import { makeImportService } from '../services/import.service.js'
import { makeImportWorker } from '../services/import-worker.js'

/** What a command runs with. */
export interface Context {
  config: Config
  log: Logger
  lifecycle: Lifecycle
}

/** What the commands about files work with: the database itself, for one tenant. */
export interface Files {
  imports: ReturnType<typeof makeImportService>
  importWorker: ReturnType<typeof makeImportWorker>
  exports: ReturnType<typeof makeExportService>
  by: Actor
}

/**
 * Opens the database for a tenant.
 *
 * @param tenant its id or slug
 * @throws {LockstepError} `unknown_tenant`
 */
export async function openFiles(context: Context, tenant: string): Promise<Files> {
  const pool = openPool(await openDatabase(context), { max: 3 })
  context.lifecycle.onClose('database pool', () => pool.end())
  const prisma: PrismaClient = openPrisma(pool)
  context.lifecycle.onClose('prisma', () => prisma.$disconnect())
  const db = makeDb(pool)
  const vault = await openVault(context.config)
  const tenantId = await findTenantId(db, tenant)
  if (tenantId === null) throw new LockstepError(`There is no tenant '${tenant}'.`, { code: 'unknown_tenant' })
  const settingsOf = async (id: string): Promise<TenantSettings> => {
    const found = await findTenant(db, id)
    if (found === null) throw new LockstepError(`There is no tenant '${id}'.`, { code: 'unknown_tenant' })
    return found.settings
  }
  // A running Lockstep finds what is written here by itself.
  const sync = { wake() {}, async reattach() {} }
  return {
    imports: makeImportService({ prisma }),
    importWorker: makeImportWorker({ prisma, vault, settingsOf, wake: sync.wake }),
    exports: makeExportService({
      prisma,
      customers: makeCustomerService({ prisma, db, vault, sync, settingsOf, clock: systemClock }),
    }),
    by: { tenantId, actor: 'cli', requestId: null, ip: null },
  }
}

/** The format that a file's name tells; null when it tells none. */
export function formatOfName(name: string): FileFormat | null {
  const ending = /\.(\w+)$/.exec(name)?.[1]?.toLowerCase() ?? ''
  if (ending === 'jsonl') return 'ndjson'
  return FILE_FORMATS.find((format) => format === ending) ?? null
}

/** A signal that aborts at Ctrl-C or SIGTERM. */
export function abortOnSignal(): AbortSignal {
  const stop = new AbortController()
  const onSignal = () => stop.abort(new Error('interrupted'))
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  return stop.signal
}
