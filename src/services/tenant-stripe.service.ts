import type { Cipher } from '../lib/cipher.js'
import { ConflictError, LockstepError, NotFoundError } from '../lib/errors.js'
import type { StripeConnectionInput, TenantView } from '../models/dtos/tenant.dto.js'
import { isConnected, stripeKeyContext, type Tenant, webhookSecretContext } from '../models/tenant.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { statementsOf } from '../repositories/database.js'
import { DatabaseError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { inTransaction } from '../repositories/prisma.js'
import {
  findTenantRecord,
  lockTenantRecord,
  saveStripeConnection,
  saveWebhookSecrets,
  type TenantRecord,
} from '../repositories/tenant-records.js'
import { isLiveKey, type StripeAccounts } from '../stripe/accounts.js'
import { nothingChanged } from '../stripe/errors.js'
import { type CheckedConnection, checkConnection, fieldOf, refused } from './stripe-key-check.js'
import { toTenant } from './tenant-view.js'

export type TenantStripeService = ReturnType<typeof makeTenantStripeService>

/** What a change comes to. */
interface Plan {
  secretKey: string | null
  connectAccount: string | null
  isNewKey: boolean
  /** Whether another account may be meant now, so that Stripe has to be asked. */
  isNewWay: boolean
}

/**
 * How a tenant's Stripe account is reached. Secrets are sealed before they are stored, and come out nowhere.
 *
 * @param all sees the rows of all tenants, so that no two take one account; `prisma` unless given
 * @param onConnected the tenant's account is to be read from now on, by whichever process
 */
export function makeTenantStripeService(deps: {
  prisma: PrismaClient
  all?: PrismaClient
  cipher: Cipher
  accounts: StripeAccounts
  onConnected(tenant: Tenant): Promise<void>
}) {
  const { prisma, all = prisma, cipher, accounts } = deps

  async function find(tenantId: string): Promise<TenantRecord> {
    const tenant = await findTenantRecord(statementsOf(prisma), tenantId)
    if (tenant === null) throw new NotFoundError('tenant', tenantId)
    return tenant
  }

  function planOf(tenant: TenantRecord, input: StripeConnectionInput): Plan {
    const before = tenant.stripeSecretKey === null ? null : openOr(tenant.stripeSecretKey, tenant.id)
    const { secretKey = before, connectAccount = tenant.stripeAccount } = input
    const isNewKey = input.secretKey !== undefined && secretKey !== before
    return { secretKey, connectAccount, isNewKey, isNewWay: isNewKey || connectAccount !== tenant.stripeAccount }
  }

  function openOr(sealed: string, tenantId: string): string {
    return cipher.open(sealed, stripeKeyContext(tenantId))
  }

  async function save(
    by: Actor,
    seen: TenantRecord,
    input: StripeConnectionInput,
    plan: Plan,
    checked: CheckedConnection,
  ): Promise<TenantRecord> {
    const { secretKey, connectAccount, isNewKey, isNewWay } = plan
    const { id } = seen
    return inTransaction(prisma, async (tx) => {
      const db = statementsOf(tx)
      const held = await lockTenantRecord(db, id)
      if (held === null) throw new NotFoundError('tenant', id)
      if (held.stripeSecretKey !== seen.stripeSecretKey || held.stripeAccount !== seen.stripeAccount) {
        throw new ConflictError(
          'Someone else has changed the Stripe account just now; look, and try again.',
          'write_contention',
        )
      }
      if (isNewWay) {
        const sealedKey =
          secretKey === null ? null : isNewKey ? cipher.seal(secretKey, stripeKeyContext(id)) : held.stripeSecretKey
        await saveStripeConnection(db, id, { ...checked, sealedKey, connectAccount, isNewKey })
      }
      if (input.webhookSecrets !== undefined) {
        const context = webhookSecretContext(id)
        await saveWebhookSecrets(
          db,
          id,
          input.webhookSecrets.map((secret) => cipher.seal(secret, context)),
        )
      }
      await writeAudit(tx, by, {
        action: 'tenant.stripe',
        entity: 'tenant',
        entityId: id,
        changes: {
          ...(isNewKey ? { secretKey: secretKey === null ? 'removed' : 'set' } : {}),
          ...(input.webhookSecrets === undefined ? {} : { webhookSecrets: input.webhookSecrets.length }),
          ...(isNewWay
            ? {
                connectAccount: { from: seen.stripeAccount, to: connectAccount },
                account: connectAccount ?? checked.keyAccount,
                livemode: checked.livemode,
              }
            : {}),
        },
      })
      const saved = await findTenantRecord(db, id)
      if (saved === null) throw new Error('A row is gone within the transaction that wrote it.')
      return saved
    }).catch((error: unknown) => {
      if (!(error instanceof DatabaseError && error.isUniqueViolation)) throw error
      throw refused(fieldOf(plan), 'account_taken', 'opens the Stripe account of another tenant')
    })
  }

  return {
    /** The tenant, with what is set and none of the secrets. Throws {@link NotFoundError}. */
    async get(tenantId: string): Promise<TenantView> {
      return toTenant(cipher, await find(tenantId))
    },

    /**
     * Changes how the tenant's account is reached; what the input does not name stays. A key is tried against Stripe first, and
     * counts in every process from its next call on. Calls that Stripe's refusal had stopped go on.
     *
     * @param mayClaim whether whoever asks may give out the accounts that are connected to the platform's
     * @throws {ValidationError} `stripe_key_refused` for a key or an account that this tenant cannot have
     * @throws {LockstepError} `permission_denied` for a connected account of the platform's, without `mayClaim`
     */
    async set(by: Actor, tenantId: string, input: StripeConnectionInput, mayClaim: boolean): Promise<TenantView> {
      const seen = await find(tenantId)
      const plan = planOf(seen, input)
      const { secretKey, connectAccount, isNewWay } = plan
      const isClaim = secretKey === null && connectAccount !== null
      if (isNewWay && isClaim && !mayClaim) {
        throw new LockstepError(
          'An account that is connected to the platform is given out by an operator: PATCH /tenants/:id. With a secretKey of your own you may name one.',
          { code: 'permission_denied' },
        )
      }
      const livemode = secretKey === null ? accounts.platformLivemode : isLiveKey(secretKey)
      const next = { slug: seen.slug, stripeAccount: connectAccount, stripeSecretKey: secretKey }
      const checked =
        isNewWay && isConnected(next)
          ? await checkConnection(statementsOf(all), accounts, seen, { ...plan, livemode }).catch((error: unknown) => {
              throw nothingChanged(error)
            })
          : { keyAccount: null, livemode }
      const saved = await save(by, seen, input, plan, checked)
      if (isNewWay && isConnected(saved)) await deps.onConnected(saved)
      return toTenant(cipher, saved)
    },
  }
}
