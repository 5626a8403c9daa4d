import { defaultRetryDelays } from './delivery.js'

/** What may be changed while it runs (`PUT /_simulator/settings`). */
export interface Settings {
  /** How long every API call takes. */
  latencyMs: number
  /** Calls per second of one account; undefined is without limit. */
  rateLimit: number | undefined
  /** Calls per second of one operation of one account; undefined is without limit. */
  operationRateLimit: number | undefined
  /** How long a change takes to reach search. */
  searchLagMs: number
  /** How long an event takes to show in `GET /v1/events`. */
  eventVisibilityLagMs: number
  /** Where all events of the platform and its connected accounts go. */
  webhookUrl: string | undefined
  /** Comma-separated while rotating: one signature each. */
  webhookSecret: string
  webhookTimeoutMs: number
  /** The waits before the second, third … attempt of a delivery. */
  retryDelaysMs: number[]
  /** Whether an update that changes nothing makes an event (unverified at Stripe). */
  noopEvents: boolean
  /** Whether blank address parts stay "" (unverified at Stripe). */
  keepBlankAddressParts: boolean
  /** Whether space around an e-mail is trimmed rather than refused (unverified at Stripe). */
  trimEmail: boolean
  /** Whether `customer.deleted` carries the three-key stub rather than the last object (fixtures show both). */
  deletedEventStub: boolean
  /** Whether `customer.updated` lacks `previous_attributes`, which a receiver must never require. */
  omitPreviousAttributes: boolean
}

export const defaultWebhookSecret = 'whsec_simulator'

/** The settings that are given, and defaults for the others. */
export function settingsFrom(given: Partial<Settings>, livemode: boolean): Settings {
  return {
    latencyMs: given.latencyMs ?? 0,
    rateLimit: given.rateLimit,
    operationRateLimit: given.operationRateLimit,
    searchLagMs: given.searchLagMs ?? 0,
    eventVisibilityLagMs: given.eventVisibilityLagMs ?? 0,
    webhookUrl: given.webhookUrl,
    webhookSecret: given.webhookSecret ?? defaultWebhookSecret,
    webhookTimeoutMs: given.webhookTimeoutMs ?? 10_000,
    retryDelaysMs: given.retryDelaysMs ?? defaultRetryDelays(livemode),
    noopEvents: given.noopEvents ?? false,
    keepBlankAddressParts: given.keepBlankAddressParts ?? false,
    trimEmail: given.trimEmail ?? false,
    deletedEventStub: given.deletedEventStub ?? false,
    omitPreviousAttributes: given.omitPreviousAttributes ?? false,
  }
}
