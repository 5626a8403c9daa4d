import { UnrecoverableError } from 'bullmq'
import type { Metrics } from '../lib/metrics.js'
import type { Handlers } from '../queue/workers.js'
import type { Reconcile } from '../sync/reconcile.js'
import type { Runs } from '../sync/runs.js'
import type { Tasks } from './schedule.js'

/** What the queues' jobs do. Each carries an id and nothing else, and may come twice, late or out of order. */
export function makeHandlers(options: {
  reconcile: Reconcile
  runs: Runs
  tasks: Tasks
  metrics: Metrics
  /** Tells the relay that a user may be dirty still, or again. */
  wakeRelay(): void
}): Handlers {
  const { reconcile, runs, tasks, metrics, wakeRelay } = options

  function counted<P>(queue: string, work: (payload: P, signal: AbortSignal) => Promise<void>) {
    return async (payload: P, signal: AbortSignal): Promise<void> => {
      try {
        await work(payload, signal)
        metrics.jobs.inc({ queue, outcome: 'ok' })
      } catch (error) {
        metrics.jobs.inc({ queue, outcome: 'failed' })
        throw error
      }
    }
  }

  return {
    reconcile: counted('reconcile', async ({ userId }) => {
      const result = await reconcile(userId)
      wakeRelay()
      // When to try again is in Postgres; here only what was given up shows, among the failed jobs.
      if (result.outcome === 'failed') throw new UnrecoverableError(result.error.message)
    }),
    reconciliation: counted('reconciliation', async ({ runId }, signal) => {
      const run = await runs.execute(runId, signal)
      if (run?.status === 'failed') throw new UnrecoverableError(run.error?.message ?? 'The run failed.')
    }),
    schedule: counted('schedule', async ({ task }, signal) => {
      const run = (tasks as Record<string, Tasks[keyof Tasks] | undefined>)[task]
      if (run !== undefined) await run(signal)
    }),
  }
}
