import type { Cipher } from '../lib/cipher.js'
import type { Tenant } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import type { PrismaDb } from '../repositories/prisma.js'
import type { StripeAccounts } from '../stripe/accounts.js'
import { makeTenantService, type TenantService } from './tenant.service.js'
import { makeTenantSettingsService, type TenantSettingsService } from './tenant-settings.service.js'
import { makeTenantStripeService, type TenantStripeService } from './tenant-stripe.service.js'

/** What can be done with tenants: with all of them, with the Stripe account of one, with the settings of one. */
export interface TenantServices {
  /** For operators. */
  tenants: TenantService
  /** The Stripe account of any tenant, for operators. */
  tenantStripe: TenantStripeService
  /** The same for the tenant's own people. */
  ownStripe: TenantStripeService
  tenantSettings: TenantSettingsService
}

/** The key that comes with a tenant. */
export const FIRST_KEY = { name: 'admin', role: 'admin' } as const

/**
 * Wires them.
 *
 * @param prisma sees all tenants
 * @param requests what a tenant's own people ask for goes this way, where it can see that tenant only
 * @param onConnected the tenant's account is to be read from now on
 */
export function openTenantServices(deps: {
  prisma: PrismaClient
  requests: PrismaClient
  cipher: Cipher
  accounts: StripeAccounts
  keys: { createWithin(tx: PrismaDb, by: Actor, spec: typeof FIRST_KEY): Promise<string> }
  onConnected(tenant: Tenant): Promise<void>
}): TenantServices {
  const { prisma, requests, cipher, accounts, keys, onConnected } = deps
  const tenants = makeTenantService({
    prisma,
    cipher,
    platformLivemode: accounts.platformLivemode,
    makeFirstKey: (tx, by) => keys.createWithin(tx, by, FIRST_KEY),
  })
  return {
    tenants,
    tenantStripe: makeTenantStripeService({ prisma, cipher, accounts, onConnected }),
    ownStripe: makeTenantStripeService({ prisma: requests, all: prisma, cipher, accounts, onConnected }),
    tenantSettings: makeTenantSettingsService({ prisma: requests }),
  }
}
