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

/** A stretch of time in a list of Stripe's, both ends inclusive, and how far it is read; newest first. Times are Unix seconds. */
export interface ListWindow {
  from: number
  /** Everything of the window that was made after this second is read; at first the window's end. */
  until: number
  /** The last id that was read, null before the first page, or when that one is gone. */
  cursor: string | null
  /** What was read of the second `until` itself, since a page may end within one. */
  boundaryIds: string[]
  /** Pages that were read of it. */
  pages: number
  /** Of the last one, the second of its first item, and how many there were: from that to `until` it is so dense. */
  start: number
  items: number
}

/** What is left to read of a list. Plain data: stored after every page, it is where a broken-off run goes on. */
export interface ListPlan {
  /** Windows that are begun, or were split off and wait. */
  windows: ListWindow[]
  /** All up to this second is not given out yet; null: all is. */
  frontier: number | null
}

/** Where a run stands: enough to go on from after a crash. */
export interface RunProgress {
  /** What it is going through: `stripe`, then `users`; or `events`. */
  phase?: 'stripe' | 'users' | 'events' | 'done'
  /** What is left of the list of Stripe's customers. */
  list?: ListPlan
  /** The last user of the page that is done. */
  cursor?: string | null
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
