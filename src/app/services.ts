import type { Logger } from 'pino'
import type { Config } from '../config.js'
import type { Core } from '../core.js'
import { systemClock } from '../lib/clock.js'
import { LockstepError } from '../lib/errors.js'
import type { Lifecycle } from '../lib/lifecycle.js'
import type { TenantSettings } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { openPrisma } from '../repositories/prisma.js'
import { findTenant } from '../repositories/tenants.js'
import { type CustomerService, makeCustomerService } from '../services/customer.service.js'
import { makeSyncControl } from '../sync/control.js'

/** How long settings that were read are taken for current, in milliseconds. */
const SETTINGS_MS = 1_000

/** What the parts of this process are wired from. */
export interface Wiring {
  core: Core
  config: Config
  log: Logger
  lifecycle: Lifecycle
  /** Comes before names in a Redis, if there is one that is shared. */
  prefix?: string
  /** There is work for drain and relay. */
  wake(): void
}

/** What stands on Prisma and is for all tenants: of workers, and of what in the API comes before a tenant is known. */
export interface Services {
  prisma: PrismaClient
  settingsOf(tenantId: string): Promise<TenantSettings>
  customers: CustomerService
}

/** Opens them; `prisma` is the caller's to disconnect. */
export function openServices({ core, wake }: Wiring): Services {
  const { db, pool, vault } = core
  const clock = systemClock
  const prisma = openPrisma(pool)
  const sync = makeSyncControl({ db, vault, timer: clock, wake, reconcileNow: core.reconcileNow })
  const settingsOf = makeSettingsCache(db)
  const customers = makeCustomerService({ prisma, db, vault, sync, settingsOf, clock })
  return {
    prisma,
    settingsOf,
    customers,
  }
}

/** Settings are read for every write; a second of age is nothing to them. */
export function makeSettingsCache(db: Db): (tenantId: string) => Promise<TenantSettings> {
  const cached = new Map<string, { settings: TenantSettings; until: number }>()
  return async (tenantId) => {
    const known = cached.get(tenantId)
    if (known !== undefined && known.until > Date.now()) return known.settings
    const tenant = await findTenant(db, tenantId)
    if (tenant === null) throw new LockstepError(`No tenant with id '${tenantId}'.`, { code: 'unknown_tenant' })
    cached.set(tenantId, { settings: tenant.settings, until: Date.now() + SETTINGS_MS })
    return tenant.settings
  }
}
