import type Stripe from 'stripe'
import { type Cipher, UnsealError } from '../lib/cipher.js'
import type { Metrics } from '../lib/metrics.js'
import { isConnected, stripeKeyContext, type Tenant, webhookSecretContext } from '../models/tenant.js'
import { makeStripe, makeStripeAccount, type StripeAccount } from './account.js'
import { StripeNotConnectedError } from './errors.js'
import type { Urgency } from './pace.js'
import type { RateLimiter } from './rate-limiter.js'

/** SDK clients that a process keeps at hand; each holds its own connections. */
const CACHED_CLIENTS = 200

/** The SDK with one key. */
interface Client {
  stripe: Stripe
  livemode: boolean
}

/** The Stripe accounts of all tenants. */
export interface StripeAccounts {
  /**
   * The tenant's account, reached by the key that its row holds now, for calls of this urgency. One that has none throws
   * {@link StripeNotConnectedError} at each call.
   */
  of(tenant: Tenant, urgency: Urgency): StripeAccount
  /** The account that a key opens, before the key is anybody's. Somebody waits for its calls. */
  behind(key: { secretKey: string; connectAccount: string | null; name: string }): StripeAccount
  /** What signs deliveries for this tenant alone; what cannot be opened is left out. */
  webhookSecretsOf(tenant: Tenant): string[]
  /** The account of the platform's key (`STRIPE_SECRET_KEY`, or the simulator). Somebody waits for its calls. */
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
  const platform: Client = { stripe: makeStripe({ secretKey: platformKey, apiBase }), livemode: isLiveKey(platformKey) }
  const clients = new Map<string, Client>()

  /** By the sealed text, so that a key in memory is no key of a map. */
  function clientOf(tenantId: string, sealedKey: string): Client {
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

  function bind(
    { stripe, livemode }: Client,
    { connectAccount, name, urgency }: { connectAccount: string | null; name: string; urgency: Urgency },
  ): StripeAccount {
    const mode = livemode ? 'live' : 'test'
    return makeStripeAccount({
      stripe,
      connectAccount,
      name: `${name}:${mode}`,
      urgency,
      limiter: limiters[mode],
      metrics,
    })
  }

  return {
    of(tenant, urgency) {
      const { id, stripeAccount, stripeSecretKey, stripeKeyAccount } = tenant
      if (!isConnected(tenant)) {
        return unusable(
          new StripeNotConnectedError('The tenant has no Stripe account yet: PUT /tenant/stripe gives it one.'),
        )
      }
      if (stripeSecretKey === null) {
        return bind(platform, { connectAccount: stripeAccount, name: stripeAccount ?? 'platform', urgency })
      }
      try {
        const name = stripeAccount ?? stripeKeyAccount ?? `tenant-${id}`
        return bind(clientOf(id, stripeSecretKey), { connectAccount: stripeAccount, name, urgency })
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
      bind(
        { stripe: makeStripe({ secretKey, apiBase }), livemode: isLiveKey(secretKey) },
        { connectAccount, name, urgency: 'interactive' },
      ),
    webhookSecretsOf: ({ id, stripeWebhookSecrets }) =>
      stripeWebhookSecrets.flatMap((sealed) => {
        try {
          return [cipher.open(sealed, webhookSecretContext(id))]
        } catch (error) {
          if (error instanceof UnsealError) return []
          throw error
        }
      }),
    platform: bind(platform, { connectAccount: null, name: 'platform', urgency: 'interactive' }),
    isPlatformKey: (secretKey) => secretKey === platformKey,
    platformLivemode: platform.livemode,
  }
}

function unusable(error: StripeNotConnectedError): StripeAccount {
  return {
    async call() {
      throw error
    },
  }
}
