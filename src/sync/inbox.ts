import type { Logger } from 'pino'
import type Stripe from 'stripe'
import type { Clock } from '../lib/clock.js'
import { messageOf } from '../lib/errors.js'
import type { Metrics } from '../lib/metrics.js'
import { DEFAULT_TENANT, isConnected, type Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { findDefaultTenant, findTenantByStripeAccount } from '../repositories/tenants.js'
import { SDK_API_VERSION, type SignatureRefusal, type Verified, verifyDelivery } from '../stripe/webhook-signature.js'
import type { FindAddressee, StoreDelivery } from './delivery-store.js'
import { textOf } from './stored-event.js'

/** What became of a delivery. Only a rejected one is to be refused; all others are safe in the inbox. */
export type Acceptance =
  | { outcome: 'stored' | 'quarantined'; eventId: string }
  | { outcome: 'rejected'; reason: SignatureRefusal | 'wrong_mode' | 'unknown_tenant'; message: string }

/** A delivery as it came in. */
export interface Delivery {
  /** The tenant that the URL names; null for the default tenant, or the tenant of the event's Connect account. */
  tenantId: string | null
  signature: string | undefined
  rawBody: Buffer
}

/** The way in for Stripe's events. */
export interface Inbox {
  /** Checks a delivery and stores it. Throws only when Postgres fails: Stripe then delivers again. */
  accept(delivery: Delivery): Promise<Acceptance>
  /** Notes a delivery that was refused unread. Catch-up finds its event in Stripe's list. */
  refuseUnread(reason: 'body_too_large'): void
}

const REFUSALS: Record<SignatureRefusal | 'wrong_mode' | 'unknown_tenant', string> = {
  bad_signature: 'The Stripe-Signature header does not match the raw body under any configured secret.',
  timestamp_out_of_tolerance: "The signature's timestamp is too far from this server's clock; check the clock.",
  unparsable_body: 'The body is not a Stripe event.',
  wrong_mode: 'The event is of the other mode (test or live) than this tenant.',
  unknown_tenant: 'No tenant has this id.',
}

/**
 * Accepts deliveries: signature over the raw body, then a durable insert, then the answer. Whether the event is new and what it means
 * is found out later ({@link makeFiling}), so that an acknowledged event is never lost and a slow database never makes Stripe wait for
 * more than one insert.
 */
export function makeInbox(options: {
  db: Db
  /** The tenant with this id; null for the default one. */
  addressee: FindAddressee
  storeDelivery: StoreDelivery
  /** What signs deliveries for the platform: its own account's, and those of accounts that are connected to it. */
  platformSecrets: readonly string[]
  /** What signs deliveries for this tenant alone. */
  ownSecretsOf(tenant: Tenant): readonly string[]
  /** Seconds. */
  tolerance: number
  clock: Clock
  metrics: Metrics
  log: Logger
  /** Tells the drain that there is work. */
  wake(): void
}): Inbox {
  const { db, clock, metrics, log } = options
  const strangeVersions = new Set<string>()

  /** What is known of the tenant may be a moment old: nothing is refused by that, such as what a new secret signed. */
  async function accept(delivery: Delivery): Promise<Acceptance> {
    const acceptance = await acceptFor(await options.addressee(delivery.tenantId), delivery)
    if (acceptance.outcome !== 'rejected') return acceptance
    return acceptFor(await options.addressee(delivery.tenantId, { isFresh: true }), delivery)
  }

  async function acceptFor(tenant: Tenant | null, delivery: Delivery): Promise<Acceptance> {
    if (tenant === null) return reject('unknown_tenant')
    const { verified, signer } = verify(delivery, tenant)
    if (verified.skew !== null) metrics.webhookSkew.set(verified.skew)
    if (!verified.ok) return reject(verified.reason)
    const { event, text } = verified
    const owner = signer === 'tenant' ? ownEventOf(tenant, event) : await ownerOf(db, tenant, event)
    const isOtherMode = (owner ?? tenant).livemode !== event.livemode
    // A live Connect endpoint gets its accounts' test events as well; refused, they would come again for days.
    const isConnectTest = !event.livemode && (event.account ?? null) !== null
    if (isOtherMode && !isConnectTest) return reject('wrong_mode')
    const isQuarantined = owner === null || isOtherMode
    await options.storeDelivery({ tenantId: (owner ?? tenant).id, isQuarantined, text })
    noteVersion(event)
    if (owner === null)
      log.warn({ eventId: event.id, account: event.account }, 'event of an account that no tenant has: quarantined')
    options.wake()
    return { outcome: isQuarantined ? 'quarantined' : 'stored', eventId: event.id }
  }

  /**
   * Who signed it counts for more than where it came in: a tenant that knows its own secret must not be able to write another
   * tenant's inbox, so what its secret signed is its own, or nobody's. The platform signs for all that are connected to it.
   */
  function verify(delivery: Delivery, tenant: Tenant): { verified: Verified; signer: 'platform' | 'tenant' } {
    const signedBy = (secrets: readonly string[]) =>
      verifyDelivery({
        rawBody: delivery.rawBody,
        header: delivery.signature,
        secrets,
        tolerance: options.tolerance,
        now: clock.now(),
      })
    const isPlatforms = delivery.tenantId === null || (tenant.stripeSecretKey === null && isConnected(tenant))
    const own = options.ownSecretsOf(tenant)
    const platform = signedBy(isPlatforms ? options.platformSecrets : [])
    // Only a signature that no secret of the platform's made leaves the question open.
    if (platform.ok || platform.reason !== 'bad_signature' || own.length === 0)
      return { verified: platform, signer: 'platform' }
    return { verified: signedBy(own), signer: 'tenant' }
  }

  /** Such an event may lack what we read, or call it something else: then the customer is read, which someone should know. */
  function noteVersion(event: Stripe.Event): void {
    const version = textOf(event.api_version)
    if (version === null || version === SDK_API_VERSION) return
    metrics.webhookVersions.inc({ api_version: version })
    if (strangeVersions.has(version)) return
    strangeVersions.add(version)
    log.warn(
      { eventId: event.id, apiVersion: version, expected: SDK_API_VERSION },
      'events come in another API version than the SDK speaks; set that of the webhook endpoint',
    )
  }

  function reject(reason: keyof typeof REFUSALS): Acceptance {
    return { outcome: 'rejected', reason, message: REFUSALS[reason] }
  }

  return {
    async accept(delivery) {
      try {
        const acceptance = await accept(delivery)
        metrics.webhooks.inc({ outcome: acceptance.outcome === 'rejected' ? acceptance.reason : acceptance.outcome })
        return acceptance
      } catch (error) {
        metrics.webhooks.inc({ outcome: 'error' })
        log.error({ err: messageOf(error) }, 'webhook: the event could not be stored; Stripe will deliver it again')
        throw error
      }
    },
    refuseUnread(reason) {
      metrics.webhooks.inc({ outcome: reason })
      log.warn({ reason }, 'webhook: a delivery was refused unread')
    },
  }
}

/** Whose event it is that the platform's secret signed: of its own account, or of the named one's tenant. Null: nobody's here. */
async function ownerOf(db: Db, addressee: Tenant, event: Stripe.Event): Promise<Tenant | null> {
  const account = event.account ?? null
  // Sent to a connected account's tenant by mistake, it still is of the platform's own account.
  const tenant = account === null && addressee.slug !== DEFAULT_TENANT ? await findDefaultTenant(db) : addressee
  if (account === null && tenant.stripeSecretKey !== null) return null
  if (account === null || account === tenant.stripeAccount) return tenant
  return typeof account === 'string' ? findTenantByStripeAccount(db, account) : null
}

/** An event that the tenant's own secret signed: of its account, however it is reached, or nobody's. */
function ownEventOf(tenant: Tenant, event: Stripe.Event): Tenant | null {
  const account = event.account ?? null
  return account === null || account === tenant.stripeAccount || account === tenant.stripeKeyAccount ? tenant : null
}
