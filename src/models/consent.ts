export const CONSENT_STATUSES = ['granted', 'withdrawn'] as const
export type ConsentStatus = (typeof CONSENT_STATUSES)[number]

/** A row of `consent_changes`: what a person said of one purpose. */
export interface ConsentChange {
  id: string
  customerId: string
  purpose: string
  status: ConsentStatus
  /** Where the person said so, such as `web.checkout`. */
  source: string
  /** The version, and the words, of what the person was shown. */
  version: string | null
  text: string | null
  /** What proves it, such as an address or a form's id. After an erasure the keys are left, without values. */
  evidence: Record<string, string | null>
  /** Who recorded it. */
  actor: string
  /** When the person said so. */
  at: Date
  recordedAt: Date
  /** The customer that it was recorded for, where that one was merged into this. */
  mergedFrom: string | null
}

/** A consent as it is recorded. */
export type NewConsentChange = Pick<
  ConsentChange,
  'customerId' | 'purpose' | 'status' | 'source' | 'version' | 'text' | 'evidence' | 'actor'
> & {
  /** Null: now. */
  at: Date | null
}
