import type { Timer } from '../lib/clock.js'
import { ConflictError } from '../lib/errors.js'
import type { Db } from '../repositories/database.js'
import { LeaseLostError } from '../repositories/errors.js'
import { acquireLease, type Lease, releaseLease } from '../repositories/sync-states.js'

const LEASE_MS = 10_000
const PATIENCE_MS = 5_000

/**
 * Waits for the lease on a user, so that no reconcile is under way that would write over what follows.
 *
 * @throws {ConflictError} `sync_busy` when somebody had it for five seconds.
 */
export async function waitForLease(db: Db, timer: Timer, userId: string): Promise<Lease> {
  const deadline = timer.now() + PATIENCE_MS
  for (;;) {
    const taken = await acquireLease(db, userId, LEASE_MS)
    if (taken !== null) return taken
    if (timer.now() > deadline)
      throw new ConflictError('The user is being reconciled; try again in a moment.', 'sync_busy')
    await timer.sleep(50)
  }
}

/** Does `work` under the leases of all these users, taken in one order by all, and gives them back. Throws as {@link waitForLease}. */
export async function withLeases<T>(
  db: Db,
  timer: Timer,
  userIds: readonly string[],
  work: () => Promise<T>,
): Promise<T> {
  const held: Lease[] = []
  try {
    for (const userId of [...userIds].sort()) held.push(await waitForLease(db, timer, userId))
    return await work()
  } finally {
    for (const lease of held) {
      await releaseLease(db, lease).catch((error: unknown) => {
        // It ran out meanwhile, and someone else has it.
        if (!(error instanceof LeaseLostError)) throw error
      })
    }
  }
}
