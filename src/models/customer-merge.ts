/** A value that both had, and not the same. The survivor's stays. */
export interface MergeConflict {
  /** A field as in `base` and `remote`: `email`, `name`, `metadata.tier`. */
  field: string
  survivor: unknown
  loser: unknown
}

/** What stays with the loser, since it cannot go over or is not ours to touch. */
export interface NotMoved {
  what: string
  why: string
}

/**
 * What became of the losing Stripe customer. `marked`: its metadata names the survivor. `deleted`: it was to be, and nothing stood
 * against it. `gone`: it was not there any more. `unmarked`: Stripe refused the mark; only Lockstep remembers.
 */
export const MERGE_FATES = ['marked', 'deleted', 'gone', 'unmarked'] as const
export type MergeFate = (typeof MERGE_FATES)[number]

/** A row of `customer_merges`: two of whom someone said that they are one. */
export interface CustomerMerge {
  id: string
  tenantId: string
  survivorId: string
  /** Null where the loser was a Stripe customer that no one here had. */
  loserId: string | null
  /** The survivor's Stripe customer since. */
  survivorStripeCustomerId: string | null
  /** Null where there was but one. */
  loserStripeCustomerId: string | null
  duplicateId: string | null
  deleteLoser: boolean
  /** `pending`: what is to be done in Stripe is not done yet. */
  status: 'pending' | 'done'
  fate: MergeFate | null
  /** The fields that the survivor had from the loser. */
  filled: string[]
  conflicts: MergeConflict[]
  notMoved: NotMoved[]
  moved: { orders: number; consents: number }
  actor: string
  attempts: number
  error: { code: string; message: string } | null
  createdAt: Date
  finishedAt: Date | null
}
