import type { JobsOptions } from 'bullmq'

/** What a job of each queue carries: ids, never state, so that a job that runs late or twice acts on what is true then. */
export interface Payloads {
  /** Bring one user into agreement. */
  reconcile: { userId: string }
  /** Work on one run: catch-up, sweep. */
  reconciliation: { runId: string }
  /** A tick of the service's crontab. */
  schedule: { task: string }
}

export type QueueName = keyof Payloads

interface QueueRules {
  /** Jobs of this queue at once in one process; `configured` is LOCKSTEP_CONCURRENCY. */
  concurrency: number | 'configured'
  options: JobsOptions
}

const MINUTE = 60_000
const DAY_IN_SECONDS = 86_400

/**
 * The queues. A lost job is no lost work: what is dirty or unfinished is found in Postgres and enqueued again. Hence few
 * attempts here, and finished jobs are not kept; failed ones for a day, to look at.
 */
export const queues = {
  reconcile: {
    concurrency: 'configured',
    // One attempt: when to try again is `sync_state.next_attempt_at`. A retry waiting here would hold its user's key, and
    // an edit that mends the cause would have to wait with it.
    options: { attempts: 1, removeOnComplete: true, removeOnFail: { count: 1_000, age: DAY_IN_SECONDS } },
  },
  reconciliation: {
    concurrency: 1,
    // A run keeps its place, so another attempt goes on where the last one stopped.
    options: {
      attempts: 5,
      backoff: { type: 'exponential', delay: 5_000, jitter: 0.5 },
      removeOnComplete: true,
      removeOnFail: { count: 100, age: DAY_IN_SECONDS },
    },
  },
  schedule: {
    concurrency: 4,
    // The next tick comes anyway.
    options: { attempts: 1, removeOnComplete: true, removeOnFail: { count: 100, age: DAY_IN_SECONDS } },
  },
} as const satisfies Record<QueueName, QueueRules>

export const queueNames = Object.keys(queues) as QueueName[]

/** BullMQ runs lower numbers first, and 0, its default, before all others. */
export const priorities = { interactive: 0, background: 10 } as const
export type Priority = keyof typeof priorities

/** One line of the crontab: a tick of `task` every so many milliseconds, or by a cron pattern (UTC). */
export type Schedule = { task: string } & ({ every: number } | { pattern: string })

/** How late a schedule's next tick may be before it counts as lost, in milliseconds. */
export const SCHEDULE_PATIENCE = MINUTE

/**
 * Times of BullMQ's locks, in milliseconds. A job of a killed process keeps its user's key until its lock has run out and two
 * checks have passed; the defaults (30 s each) would make that user wait a minute and more.
 */
export const locks = { lockDuration: 15_000, stalledInterval: 5_000, maxStalledCount: 100 } as const

/** The queue's name on the server. `prefix` sets apart installations, and tests, that share one. */
export function nameOnServer(name: QueueName, prefix: string): string {
  return `${prefix}-${name}`
}
