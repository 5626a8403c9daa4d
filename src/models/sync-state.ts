import type { FieldValue, RemoteState, SyncedFields } from './synced-fields.js'

export const SYNC_STATUSES = ['pending', 'in_sync', 'conflict', 'failed', 'detached', 'ignored'] as const

/**
 * How a user stands with Stripe. `pending`: waits for a reconcile. `in_sync`: both sides agree. `conflict`: a field is
 * frozen, or it is unclear which Stripe customer is meant. `failed`: given up on until someone or something changes.
 * `detached`: its Stripe customer was deleted in Stripe. `ignored`: Stripe need not know of it.
 */
export type SyncStatus = (typeof SYNC_STATUSES)[number]

/** Why a reconcile did not get through, as operators see it. Holds no personal data. */
export interface SyncError {
  code: string
  message: string
  field: string | null
  retryable: boolean
  at: string
}

/** A local value that Stripe refused: skipped until it changes. */
export interface Rejection {
  value: FieldValue
  code: string
  message: string
}

/** The one create that may be under way for a user: stored before the call, sent again byte for byte. */
export interface CreateIntent {
  key: string
  params: Record<string, unknown>
  startedAt: Date
}

/** One row of `sync_state`. */
export interface SyncState {
  userId: string
  tenantId: string
  status: SyncStatus
  base: SyncedFields | null
  remote: RemoteState | null
  /** When `remote` was observed, by Stripe's clock. */
  remoteAsOf: Date | null
  /** When each field of `remote` last changed at Stripe, as far as known, ISO 8601. */
  remoteTimes: Record<string, string>
  localRevision: number
  syncedRevision: number
  remoteRevision: number
  remoteSyncedRevision: number
  needsFetch: boolean
  dirty: boolean
  userDeleted: boolean
  /** Of a row that is gone: whether it was erased before. */
  userErased: boolean
  attempts: number
  nextAttemptAt: Date | null
  lastError: SyncError | null
  rejected: Record<string, Rejection>
  leaseToken: number
  createIntent: CreateIntent | null
  createGeneration: number
  syncedAt: Date | null
}

/** A write to Stripe that was started and whose answer has not been taken in. */
export interface StripeWrite {
  idempotencyKey: string
  userId: string
  stripeCustomerId: string | null
  kind: 'create' | 'update' | 'delete'
  /** What we held as the remote values of the fields sent. */
  held: Record<string, FieldValue> | null
  sent: Record<string, FieldValue>
  /** Fields that are known to have been set since, by someone else or by a later write. */
  disowned: string[]
  /** Null while unknown. `answered`: its effect is in what we hold. `refused`: it certainly had none. */
  outcome: 'answered' | 'refused' | null
  startedAt: Date
  settledAt: Date | null
}
