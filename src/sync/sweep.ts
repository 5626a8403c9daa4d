import type { LockstepError } from '../lib/errors.js'
import { makeTurns } from '../lib/turns.js'
import type { RunProgress } from '../models/reconciliation.js'
import { findWindowStart } from '../repositories/stripe-links.js'
import { markSwept } from '../repositories/tenants.js'
import { sweepUsersPage } from '../repositories/users-sweep.js'
import type { StripeAccount } from '../stripe/account.js'
import { startPlan, WINDOW_PAGES } from './list-plan.js'
import { PAGE, readList } from './read-list.js'
import { type SweepPageOptions, sweepPage } from './sweep-page.js'

const USERS_PAGE = 2_000

/** Pages whose newcomers are imported at once: two keep Postgres at it while the process prepares the next ones. */
const IMPORT_LANES = 2

/** What a sweep works with. */
export interface SweepOptions extends SweepPageOptions {
  account: StripeAccount
  /** Pages of Stripe's list that may be under way at once. */
  lanes: number
  /** When the run began; customers made later are the webhook's. */
  startedAt: Date
  progress: RunProgress
  /** After each page; from `progress` a later run goes on. */
  onProgress(progress: RunProgress): Promise<void>
  signal: AbortSignal
}

/**
 * Goes through all Stripe customers, by windows of the time they were made, and all users, page by page, and finds what the two
 * sides don't agree on. It changes nothing itself: it marks users dirty, links or imports strangers, and counts. A dry run
 * only counts. A user whose customer was not listed is not taken for detached: absence from a list proves nothing, so it is read.
 *
 * Answers why a customer could not be imported, where a rule of the application's refused one; the others are none the worse for it.
 */
export async function sweep(options: SweepOptions): Promise<LockstepError | null> {
  const { db, tenant, dryRun, startedAt, progress } = options
  let refusal: LockstepError | null = null
  if (progress.phase !== 'users') {
    await sweepCustomers(options, (error) => {
      refusal = error
    })
    // Whom nobody here knows has to be looked for in Stripe as long as there is one.
    if (!dryRun && refusal === null) await markSwept(db, tenant.id, startedAt)
  }
  await sweepUsers(options)
  return refusal
}

async function sweepCustomers(options: SweepOptions, onRefused: (error: LockstepError) => void): Promise<void> {
  const { db, tenant, account, lanes, counts, progress, startedAt, signal } = options
  const inTurn = makeTurns(IMPORT_LANES)
  await readList({
    account,
    lanes,
    signal,
    plan: progress.list ?? startPlan(Math.floor(startedAt.getTime() / 1000)),
    knownFrom: (frontier) => findWindowStart(db, tenant.id, frontier, WINDOW_PAGES * PAGE),
    onCall() {
      counts.stripeCalls += 1
    },
    onPage: (page) => sweepPage(options, page, inTurn, onRefused),
    save: (list) => options.onProgress({ phase: 'stripe', list }),
  })
}

async function sweepUsers(options: SweepOptions): Promise<void> {
  const { db, tenant, dryRun, counts, progress, signal } = options
  let after = progress.phase === 'users' ? (progress.cursor ?? null) : null
  for (;;) {
    const page = await sweepUsersPage(db, tenant.id, after, USERS_PAGE, { addsStates: !dryRun })
    if (page.last === null) return
    counts.checked += page.users
    counts.created += page.withoutCustomer
    counts.failed += page.failed
    after = page.last
    await options.onProgress({ phase: 'users', cursor: after })
    signal.throwIfAborted()
  }
}
