import type { RetentionSettings } from './retention.js'

/** Who wins when both sides changed a field differently. `manual` freezes the field until someone decides. */
export type Policy = 'latest' | 'local' | 'stripe' | 'manual'

/** What a tenant may set. Stored in `tenants.settings`; absent keys take the defaults below. */
export interface TenantSettings {
  /** Policy by field path: `email`, `metadata.tier`, `metadata` for all its keys, `default` for the rest. */
  policies: Record<string, Policy>
  /** What becomes of a Stripe customer that matches no user. */
  onRemoteCreate: 'import' | 'link-only' | 'ignore'
  /** What becomes of a user whose Stripe customer was deleted in Stripe. */
  onRemoteDelete: 'detach' | 'archive' | 'recreate'
  /** ISO 3166-1 alpha-2 country by which national phone numbers are read. */
  defaultRegion: string
  /** Metadata keys that begin so belong to another system: never imported, never written. */
  foreignMetadataPrefixes: string[]
  /** What is removed, and after how many days; see {@link RetentionSettings}. */
  retention: RetentionSettings
}

export const DEFAULT_SETTINGS: Readonly<TenantSettings> = Object.freeze({
  policies: {},
  onRemoteCreate: 'import',
  onRemoteDelete: 'detach',
  defaultRegion: 'US',
  foreignMetadataPrefixes: [],
  retention: {},
})

/** A business, with what the sync needs to know of it. */
export interface Tenant {
  id: string
  slug: string
  livemode: boolean
  /** The Connect account that its Stripe objects live in; null is the account of the key. */
  stripeAccount: string | null
  /** The tenant's own secret key, sealed; null: the platform's is used. */
  stripeSecretKey: string | null
  /** What signs deliveries for this tenant alone; each sealed by itself. */
  stripeWebhookSecrets: string[]
  /** The account of the tenant's own key; null without one, or where the key may not read it. */
  stripeKeyAccount: string | null
  settings: TenantSettings
  /** Catch-up has stored every event that Stripe created before this time. */
  eventsReadThrough: Date | null
  /** When a sweep last saw every Stripe customer. */
  sweptAt: Date | null
  lanePausedAt: Date | null
  lanePausedReason: string | null
  laneRetryAt: Date | null
}

/** The slug of the tenant that is there from the start: the only one that the platform's own account belongs to. */
export const DEFAULT_TENANT = 'default'

/** Whether the tenant has a Stripe account: its own, one that is connected to the platform's, or (the default one) the platform's. */
export function isConnected(tenant: Pick<Tenant, 'slug' | 'stripeAccount' | 'stripeSecretKey'>): boolean {
  return tenant.slug === DEFAULT_TENANT || tenant.stripeAccount !== null || tenant.stripeSecretKey !== null
}

/** Where the tenant's secret key belongs: sealed for one tenant it opens for no other. */
export function stripeKeyContext(tenantId: string): string {
  return `tenants.stripe_secret_key/${tenantId}`
}

/** The same for its webhook secrets. */
export function webhookSecretContext(tenantId: string): string {
  return `tenants.stripe_webhook_secrets/${tenantId}`
}
