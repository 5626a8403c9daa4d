import type { Queue } from 'bullmq'
import type { QueueBackend } from './backend.js'
import type { Priority, QueueName, Schedule } from './queues.js'
import { priorities, queueNames, queues, SCHEDULE_PATIENCE } from './queues.js'

/** Jobs of one queue by state, for metrics. */
export interface QueueCounts {
  waiting: number
  active: number
  delayed: number
  failed: number
}

/** The way into the queues. Every call is safe to repeat, and rejects when the queue's server is away. */
export interface Producer {
  /**
   * Asks for a reconcile of each user. A user who waits already is not queued twice; one being worked on gets exactly one
   * more turn afterwards, however often this is called meanwhile. `interactive` (default) goes before `background`.
   */
  enqueueReconcile(userIds: readonly string[], priority?: Priority): Promise<void>
  /** Asks for work on a run, unless it waits or is worked on already. */
  enqueueRun(runId: string): Promise<void>
  /** Asks for a line of the crontab to be done now. While it waits already it is not queued twice. */
  enqueueTask(task: string): Promise<void>
  /**
   * Makes the crontab on the server be `schedules`, and nothing else. Cheap when it is so already, and to be called now
   * and then: an emptied server forgets it.
   */
  ensureSchedules(schedules: readonly Schedule[]): Promise<void>
  counts(): Promise<Record<QueueName, QueueCounts>>
  close(): Promise<void>
}

function repeatOf(schedule: Schedule): { every: number } | { pattern: string; tz: string } {
  return 'every' in schedule ? { every: schedule.every } : { pattern: schedule.pattern, tz: 'UTC' }
}

/** Opens the producer's end of every queue. */
export function makeProducer(backend: QueueBackend): Producer {
  const open = Object.fromEntries(queueNames.map((name) => [name, backend.openQueue(name)])) as Record<QueueName, Queue>

  return {
    async enqueueReconcile(userIds, priority = 'interactive') {
      if (userIds.length === 0) return
      const jobs = userIds.map((userId) => ({
        name: 'reconcile',
        data: { userId },
        opts: {
          ...queues.reconcile.options,
          ...(priorities[priority] > 0 ? { priority: priorities[priority] } : {}),
          deduplication: { id: userId, keepLastIfActive: true },
        },
      }))
      await open.reconcile.addBulk(jobs)
    },

    async enqueueRun(runId) {
      await open.reconciliation.add(
        'run',
        { runId },
        { ...queues.reconciliation.options, deduplication: { id: runId } },
      )
    },

    async enqueueTask(task) {
      const deduplication = { id: task, keepLastIfActive: true }
      await open.schedule.add('tick', { task }, { ...queues.schedule.options, deduplication })
    },

    async ensureSchedules(schedules) {
      const queue = open.schedule
      const found = new Map((await queue.getJobSchedulers(0, -1)).map((scheduler) => [scheduler.key, scheduler]))
      for (const schedule of schedules) {
        const known = found.get(schedule.task)
        found.delete(schedule.task)
        const isSame =
          'every' in schedule ? Number(known?.every) === schedule.every : known?.pattern === schedule.pattern
        const isAlive = known?.next !== undefined && known.next > Date.now() - SCHEDULE_PATIENCE
        if (isSame && isAlive) continue
        await queue.upsertJobScheduler(schedule.task, repeatOf(schedule), {
          name: 'tick',
          data: { task: schedule.task },
          opts: queues.schedule.options,
        })
      }
      for (const task of found.keys()) await queue.removeJobScheduler(task)
    },

    async counts() {
      const entries = queueNames.map(async (name) => {
        const found = await open[name].getJobCounts('waiting', 'prioritized', 'active', 'delayed', 'failed')
        const { waiting = 0, prioritized = 0, active = 0, delayed = 0, failed = 0 } = found
        return [name, { waiting: waiting + prioritized, active, delayed, failed }] as const
      })
      return Object.fromEntries(await Promise.all(entries)) as Record<QueueName, QueueCounts>
    },

    async close() {
      await Promise.all(queueNames.map((name) => open[name].close()))
    },
  }
}
