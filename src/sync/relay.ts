import type { Clock } from '../lib/clock.js'
import type { Db } from '../repositories/database.js'
import { claimDirtyUsers } from '../repositories/dirty-users.js'

const BATCH = 200
/**
 * Users in the queue at a time. Many more than the workers get to before the next look, and few beside a backfill of millions, which
 * waits in Postgres: else all of it would be in the memory of the queue, and be claimed again and again.
 */
const MOST_QUEUED = 1_000

/**
 * How long a queue that has all it is to have is left alone, in milliseconds. The workers do not get through it meanwhile, and each
 * look goes through all that is queued: after every job it would cost more than the job.
 */
const FULL_REST_MS = 500

/**
 * How long a claimed user is taken to be in the queue, in milliseconds. Should the queue lose the job (an emptied Redis,
 * a process killed between claim and enqueue) the user is queued again after that; a second job of a user that the queue
 * still has is folded into the first.
 */
export const ENQUEUED_MS = 15_000

/** Carries dirty users to the queue. */
export interface Relay {
  /** Queues one batch; answers how many users it queued. Safe in any number of processes at once. */
  relayBatch(): Promise<number>
}

/**
 * Postgres says what has to be done, the queue only when: every process looks for dirty users that are not queued, claims
 * them with `skip locked` and queues them.
 */
export function makeRelay(options: { db: Db; enqueue(userIds: string[]): Promise<void>; clock: Clock }): Relay {
  const { db, enqueue, clock } = options
  let restsFrom: number | null = null

  /** A clock that was set back ends a rest. */
  function rests(): boolean {
    const since = restsFrom === null ? -1 : clock.now() - restsFrom
    return since >= 0 && since < FULL_REST_MS
  }

  return {
    async relayBatch() {
      if (rests()) return 0
      const claim = { limit: BATCH, mostQueued: MOST_QUEUED, enqueuedMs: ENQUEUED_MS }
      const { userIds, isFull } = await claimDirtyUsers(db, claim)
      if (userIds.length > 0) await enqueue(userIds)
      restsFrom = isFull && userIds.length < BATCH ? clock.now() : null
      return userIds.length
    },
  }
}
