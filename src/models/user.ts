import type { Address, Billing, Shipping } from './synced-fields.js'

export const USER_TYPES = ['regular', 'unregistered', 'new', 'anonymous'] as const
export type UserType = (typeof USER_TYPES)[number]

/** `archived` is soft-deleted; `erased` has lost its personal data for good. */
export const USER_STATES = ['active', 'archived', 'erased'] as const
export type UserState = (typeof USER_STATES)[number]

/**
 * The metadata key that names who a merged customer lives on in: on the row the other customer, on a losing Stripe customer the
 * other Stripe customer. Lockstep's own: never synced, and no client can set it.
 */
export const MERGED_INTO = 'lockstep_merged_into'

/** A row of `users`: the local record of a person. */
export interface User {
  id: string
  tenantId: string
  type: UserType
  state: UserState
  email: string | null
  phone: string | null
  firstName: string | null
  lastName: string | null
  description: string | null
  locale: string | null
  address: Address | null
  shipping: Shipping | null
  metadata: Record<string, string>
  billing: Billing | null
  stripeCustomerId: string | null
  /** Counts the changes of what Stripe should know. */
  revision: number
  /** When each synced column (SQL name) and each `metadata.<key>` last changed here, ISO 8601. */
  fieldTimes: Record<string, string>
  archivedAt: Date | null
  createdAt: Date
  updatedAt: Date
}
