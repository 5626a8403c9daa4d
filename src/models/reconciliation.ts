export type ReconciliationKind = 'catch_up' | 'sweep'
export type ReconciliationTrigger = 'api' | 'cli' | 'schedule' | 'start'
export type ReconciliationStatus = 'queued' | 'running' | 'succeeded' | 'failed'

/**
 * What a run came to. `checked`: Stripe customers and users, or events, looked at. `created`: users without a customer, and
 * customers without a user, that get one. `linked`: a customer and a user that belonged together. `fixed`: pairs that
 * differed. `conflicting`: pairs frozen by an open conflict. `duplicate`: customers that look like someone we have, or fit
 * several. `orphaned`: users whose customer Stripe did not list, to be read one by one. `failed`: parts that failed.
 * `missed`: events that the webhook had not brought. `stripeCalls`: calls made.
 */
export interface RunCounts {
  checked: number
  created: number
  linked: number
  fixed: number
  conflicting: number
  duplicate: number
  orphaned: number
  failed: number
  missed: number
  stripeCalls: number
}

export const NO_COUNTS: Readonly<RunCounts> = Object.freeze({
  checked: 0,
  created: 0,
  linked: 0,
  fixed: 0,
  conflicting: 0,
  duplicate: 0,
  orphaned: 0,
  failed: 0,
  missed: 0,
  stripeCalls: 0,
})

/** Where a run stands: enough to go on from after a crash. */
export interface RunProgress {
  /** What it is going through: `stripe`, then `users`; or `events`. */
  phase?: 'stripe' | 'users' | 'events' | 'done'
  /** The last id of the page that is done. */
  cursor?: string | null
  /** Stripe customers made up to this time (seconds) are still to come; newer ones are done. */
  createdBefore?: number | null
  /** The ids of the boundary second that were seen, since a page may end in the middle of a second. */
  boundaryIds?: string[]
  /** How much there is to look at, as far as it is known before. */
  expected?: number
}

/** A row of `reconciliations`: one run of the catch-up or of the sweep. */
export interface Reconciliation {
  id: string
  tenantId: string
  kind: ReconciliationKind
  trigger: ReconciliationTrigger
  dryRun: boolean
  status: ReconciliationStatus
  progress: RunProgress
  counts: RunCounts
  error: { code: string; message: string } | null
  requestedBy: string | null
  createdAt: Date
  startedAt: Date | null
  finishedAt: Date | null
}
