import type Stripe from 'stripe'
import { type Cipher, UnsealError } from '../lib/cipher.js'
import type { Metrics } from '../lib/metrics.js'
import { isConnected, stripeKeyContext, type Tenant, webhookSecretContext } from '../models/tenant.js'
import { makeStripe, makeStripeAccount, type StripeAccount } from './account.js'
import { StripeNotConnectedError } from './errors.js'
import type { RateLimiter } from './rate-limiter.js'

/** SDK clients that a process keeps at hand; each holds its own connections. */
const CACHED_CLIENTS = 200

/** The Stripe accounts of all tenants. */
export interface StripeAccounts {
  /**
   * The tenant's account, reached by the key that its row holds now. One that has none throws {@link StripeNotConnectedError}
   * at each call.
   */
  of(tenant: Tenant): StripeAccount
  /** The account that a key opens, before the key is anybody's. */
  behind(key: { secretKey: string; connectAccount: string | null; name: string }): StripeAccount
  /** What signs deliveries for this tenant alone; what cannot be opened is left out. */
  webhookSecretsOf(tenant: Tenant): string[]
  /** The account of the platform's key (`STRIPE_SECRET_KEY`, or the simulator). */
  platform: StripeAccount
  /** The platform's key itself, to tell whether a tenant brings the same. */
  isPlatformKey(secretKey: string): boolean
  /** Whether the platform's key is of live mode. */
  platformLivemode: boolean
}

/** The mode that a key works in; it is part of the key. */
export function isLiveKey(secretKey: string): boolean {
  return /^[sr]k_live_/.test(secretKey)
}

/**
 * Binds tenants to their accounts. A tenant's row carries its sealed key, so a key that changes is used from the next reading
 * of the row on, in every process, without anything being told.
 */
export function makeStripeAccounts(options: {
  platformKey: string
  apiBase: string | undefined
  cipher: Cipher
  /** By mode: Stripe's limits differ. */
  limiters: { live: RateLimiter; test: RateLimiter }
  metrics: Metrics
}): StripeAccounts {
  const { platformKey, apiBase, cipher, limiters, metrics } = options
  const platformClient = makeStripe({ secretKey: platformKey, apiBase })
  const clients = new Map<string, { stripe: Stripe; livemode: boolean }>()

  /** By the sealed text, so that a key in memory is no key of a map. */
  function clientOf(tenantId: string, sealedKey: string): { stripe: Stripe; livemode: boolean } {
    const known = clients.get(sealedKey)
    if (known !== undefined) {
      clients.delete(sealedKey)
      clients.set(sealedKey, known)
      return known
    }
    const secretKey = cipher.open(sealedKey, stripeKeyContext(tenantId))
    const client = { stripe: makeStripe({ secretKey, apiBase }), livemode: isLiveKey(secretKey) }
    clients.set(sealedKey, client)
    if (clients.size > CACHED_CLIENTS) {
      for (const oldest of clients.keys()) {
        clients.delete(oldest)
        break
      }
    }
    return client
  }

  function bind(stripe: Stripe, livemode: boolean, connectAccount: string | null, name: string): StripeAccount {
    const mode = livemode ? 'live' : 'test'
    return makeStripeAccount({
      stripe,
      connectAccount,
      name: `${name}:${mode}`,
      limiter: limiters[mode],
      metrics,
    })
  }

  const platformLivemode = isLiveKey(platformKey)
  return {
    of(tenant) {
      const { id, stripeAccount, stripeSecretKey, stripeKeyAccount } = tenant
      if (!isConnected(tenant)) {
        return unusable(
          new StripeNotConnectedError('The tenant has no Stripe account yet: PUT /tenant/stripe gives it one.'),
        )
      }
      if (stripeSecretKey === null) {
        return bind(platformClient, platformLivemode, stripeAccount, stripeAccount ?? 'platform')
      }
      try {
        const { stripe, livemode } = clientOf(id, stripeSecretKey)
        return bind(stripe, livemode, stripeAccount, stripeAccount ?? stripeKeyAccount ?? `tenant-${id}`)
      } catch (cause) {
        return unusable(
          new StripeNotConnectedError(
            "The tenant's Stripe key cannot be opened; check LOCKSTEP_ENCRYPTION_KEY.",
            cause,
          ),
        )
      }
    },
    behind: ({ secretKey, connectAccount, name }) =>
      bind(makeStripe({ secretKey, apiBase }), isLiveKey(secretKey), connectAccount, name),
    webhookSecretsOf: ({ id, stripeWebhookSecrets }) =>
      stripeWebhookSecrets.flatMap((sealed) => {
        try {
          return [cipher.open(sealed, webhookSecretContext(id))]
        } catch (error) {
          if (error instanceof UnsealError) return []
          throw error
        }
      }),
    platform: bind(platformClient, platformLivemode, null, 'platform'),
    isPlatformKey: (secretKey) => secretKey === platformKey,
    platformLivemode,
  }
}

function unusable(error: StripeNotConnectedError): StripeAccount {
  return {
    async call() {
      throw error
    },
  }
}
