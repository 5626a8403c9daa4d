import type { Logger } from 'pino'
import { makeApiKeys } from '../access/keys.js'
import type { Config } from '../config.js'
import { openDatabase } from '../core.js'
import { systemClock } from '../lib/clock.js'
import { LockstepError } from '../lib/errors.js'
import type { Lifecycle } from '../lib/lifecycle.js'
import { DEFAULT_TENANT } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import { type Db, makeDb, openPool } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { openPrisma } from '../repositories/prisma.js'
import { findTenantId } from '../repositories/tenants.js'

/** What a command runs with. */
export interface Context {
  config: Config
  log: Logger
  lifecycle: Lifecycle
}

/** What a command needs that works on the database alone. */
export interface OpenDatabase {
  db: Db
  prisma: PrismaClient
  keys: ReturnType<typeof makeApiKeys>
}

/** Opens the database, migrated; closed by the lifecycle. */
export async function openForCommand(context: Context): Promise<OpenDatabase> {
  const pool = openPool(await openDatabase(context), { max: 2 })
  context.lifecycle.onClose('database pool', () => pool.end())
  const prisma = openPrisma(pool)
  context.lifecycle.onClose('prisma', () => prisma.$disconnect())
  return { db: makeDb(pool), prisma, keys: makeApiKeys({ prisma, clock: systemClock }) }
}

/**
 * The command line as the audit log names it, for the tenant with this slug or id; without one, the default tenant.
 *
 * @throws {LockstepError} `unknown_tenant`
 */
export async function actorFor(db: Db, tenant: string = DEFAULT_TENANT): Promise<Actor> {
  const tenantId = await findTenantId(db, tenant)
  if (tenantId === null) {
    throw new LockstepError(`There is no tenant '${tenant}'; see: lockstep tenants list`, { code: 'unknown_tenant' })
  }
  return { tenantId, actor: 'cli', requestId: null, ip: null }
}
