import type { Logger } from 'pino'
import type { Schedule } from '../queue/queues.js'
import type { Db } from '../repositories/database.js'
import { reviveFailed, reviveFailedEvents } from '../repositories/dirty-users.js'
import { removeExpired } from '../repositories/housekeeping.js'
import { removeUnusedWords } from '../repositories/search-words.js'
import { makeZoneKeeper } from '../repositories/search-zones.js'
import { listConnectedTenants } from '../repositories/tenants.js'
import type { Runs } from '../sync/runs.js'

/** The service's crontab; times are UTC. Each tick runs once, whatever the number of processes. */
export const SCHEDULE = [
  /** Events that the webhook missed: one call an hour while nothing was. */
  { task: 'catch-up', pattern: '7 * * * *' },
  /** Drift of all users and customers. Reads are scarce at Stripe, so once a week. */
  { task: 'sweep', pattern: '23 3 * * 0' },
  /** Work that got stuck: failures that may have passed, runs whose worker died. */
  { task: 'stuck-work', every: 60_000 },
  { task: 'housekeeping', pattern: '41 4 * * *' },
  /** What tenants want removed in the course of time. */
  { task: 'retention', pattern: '17 2 * * *' },
  /** Retention runs that someone asked for, or that a worker left. */
  { task: 'retention-runs', every: 60_000 },
  /** What is left to do in Stripe of merges. */
  { task: 'merges', every: 60_000 },
  /** What changed enters the zone maps of the search. */
  { task: 'search-zones', every: 60_000 },
] as const satisfies Schedule[]

export type Task = (typeof SCHEDULE)[number]['task']
export type Tasks = Record<Task, (signal: AbortSignal) => Promise<void>>

/** What long tasks are done by. */
export interface TaskServices {
  retention: { startDaily(): Promise<void>; workOff(signal: AbortSignal): Promise<void> }
  merges: { workOff(signal: AbortSignal): Promise<void> }
}

/** How long something rests after it was given up for a passing reason, in milliseconds. */
const REVIVE_AFTER_MS = 3_600_000
const REVIVE_BATCH = 1_000

/** What each line of the crontab does. */
export function makeTasks(options: { db: Db; runs: Runs; wake(): void; log: Logger } & TaskServices): Tasks {
  const { db, runs, retention, merges, wake, log } = options
  const zones = makeZoneKeeper(db)

  async function startForAll(kind: 'catch_up' | 'sweep'): Promise<void> {
    for (const tenant of await listConnectedTenants(db)) {
      await runs.start({ tenantId: tenant.id, kind, dryRun: false, trigger: 'schedule', requestedBy: null })
    }
  }

  return {
    'catch-up': () => startForAll('catch_up'),
    sweep: () => startForAll('sweep'),
    async 'stuck-work'() {
      const users = await reviveFailed(db, REVIVE_AFTER_MS, REVIVE_BATCH)
      const events = await reviveFailedEvents(db, REVIVE_AFTER_MS, REVIVE_BATCH)
      const resumed = await runs.resumeAbandoned()
      if (users + events + resumed > 0) log.info({ users, events, runs: resumed }, 'stuck work is taken up again')
      wake()
    },
    async housekeeping() {
      const removed = { ...(await removeExpired(db)), searchWords: await removeUnusedWords(db) }
      log.info(removed, 'housekeeping')
    },
    async retention(signal) {
      await retention.startDaily()
      await retention.workOff(signal)
    },
    'retention-runs': (signal) => retention.workOff(signal),
    merges: (signal) => merges.workOff(signal),
    async 'search-zones'(signal) {
      const { drawn } = await zones.keep(signal)
      if (drawn > 0) log.info({ maps: drawn }, 'zone maps of the search were drawn')
    },
  }
}
