import { type Cipher, sealedWith, UnsealError } from '../lib/cipher.js'
import type { TenantView } from '../models/dtos/tenant.dto.js'
import { isConnected, stripeKeyContext, webhookSecretContext } from '../models/tenant.js'
import type { TenantRecord } from '../repositories/tenant-records.js'

/** Of a shorter secret four characters would be a good part. Stripe's own have 32 and more. */
const LEAST_SHOWN = 16

/** A tenant as the API answers it: of a secret the last four characters at most. */
export function toTenant(cipher: Cipher, tenant: TenantRecord): TenantView {
  const { id, slug, name, stripeSecretKey, stripeWebhookSecrets, stripeAccount, stripeKeyAccount } = tenant
  const hint = (sealed: string, context: string) => ({
    last4: lastFourOf(cipher, sealed, context),
    sealedWith: sealedWith(sealed),
  })
  return {
    id,
    slug,
    name,
    stripe: {
      status: !isConnected(tenant) ? 'not_connected' : tenant.lanePausedAt !== null ? 'refused' : 'connected',
      account: stripeAccount ?? stripeKeyAccount,
      connectAccount: stripeAccount,
      mode: tenant.livemode ? 'live' : 'test',
      key:
        stripeSecretKey === null
          ? null
          : {
              ...hint(stripeSecretKey, stripeKeyContext(id)),
              setAt: tenant.stripeKeySetAt?.toISOString() ?? null,
            },
      webhookSecrets: stripeWebhookSecrets.map((sealed) => hint(sealed, webhookSecretContext(id))),
      refusedSince: isConnected(tenant) ? (tenant.lanePausedAt?.toISOString() ?? null) : null,
      refusal: isConnected(tenant) ? tenant.lanePausedReason : null,
    },
    createdAt: tenant.createdAt.toISOString(),
    updatedAt: tenant.updatedAt.toISOString(),
  }
}

function lastFourOf(cipher: Cipher, sealed: string, context: string): string | null {
  try {
    const secret = cipher.open(sealed, context)
    return secret.length < LEAST_SHOWN ? null : secret.slice(-4)
  } catch (error) {
    if (error instanceof UnsealError) return null
    throw error
  }
}
