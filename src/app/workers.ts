import { makeHandlers } from '../jobs/handlers.js'
import { makeTasks, SCHEDULE } from '../jobs/schedule.js'
import { systemClock } from '../lib/clock.js'
import { messageOf } from '../lib/errors.js'
import { startLoop } from '../lib/loop.js'
import { makeWorkers } from '../queue/workers.js'
import { chainEntries } from '../repositories/audit-chain.js'
import { findWaitingImport } from '../repositories/waiting-imports.js'
import { makeRetentionService, type RetentionService } from '../services/retention.service.js'
import type { Services, Wiring } from './services.js'

/** How often a process looks for work that nobody told it of (a write by psql, another process), in milliseconds. */
const POLL_MS = 200
/** How often a process looks for audit entries to be chained, in milliseconds: what is not yet chained can still be changed unseen. */
const CHAIN_MS = 500
/** How often a process sees to the crontab and to abandoned runs, in milliseconds: a flushed Redis forgets both. */
const UPKEEP_MS = 15_000
/** How often a worker looks for imports that another process took in, in milliseconds. */
const IMPORT_POLL_MS = 1_000

/** The retention policies: runs are asked for by the API, and done by workers, which open services only to erase somebody. */
export function makeRetention({ core, log }: Wiring, services: () => Promise<Services>): RetentionService {
  return makeRetentionService({
    db: core.db,
    customers: { erase: async (...customer) => (await services()).customers.erase(...customer) },
    clock: systemClock,
    log,
    enqueue: () => core.producer.enqueueTask('retention-runs'),
  })
}

/** Takes jobs from the queues. */
export function startWorkers(
  { core, config, log, lifecycle, wake }: Wiring,
  { retention, wakeRelay }: { retention: RetentionService; wakeRelay(): void },
): void {
  const { db, reconcile, runs, merges, metrics } = core
  const tasks = makeTasks({ db, runs, retention, merges, wake, log })
  const handlers = makeHandlers({ reconcile, runs, tasks, metrics, wakeRelay })
  const workers = makeWorkers({ backend: core.queue, handlers, concurrency: config.concurrency, log })
  lifecycle.onClose('workers', () => workers.close())
}

/** What runs by itself, and can be told that there is work. */
export interface Loops {
  /** There are events in the inbox. */
  wakeDrain(): void
  /** A user is dirty. */
  wakeRelay(): void
  /** There may be work of any kind. */
  wakeAll(): void
}

/**
 * The relay runs in every process, so that a write goes to the queue at once. The inbox is drained by workers, so that an API of
 * its own does nothing beside taking deliveries in. Both also look by themselves: no signal between processes is needed, and none
 * can be lost.
 */
export function startLoops({ core, log, lifecycle }: Wiring, { isWorker }: { isWorker: boolean }): Loops {
  const { db, drain, relay, producer, runs, metrics } = core
  const start = (name: string, idleMs: number, work: () => Promise<{ more: boolean }>) => {
    const loop = startLoop({
      work,
      idleMs,
      onError(error) {
        metrics.errors.inc({ part: name })
        log.warn({ err: messageOf(error) }, `${name}: will be tried again`)
      },
    })
    lifecycle.onClose(name, () => loop.stop())
    return loop
  }
  const drains = isWorker
    ? start('drain', POLL_MS, async () => ({ more: (await drain.drainBatch()) > 0 }))
    : { wake() {} }
  const relays = start('relay', POLL_MS, async () => ({ more: (await relay.relayBatch()) > 0 }))
  start('audit', CHAIN_MS, async () => ({ more: (await chainEntries(db)).more }))
  start('upkeep', UPKEEP_MS, async () => {
    await producer.ensureSchedules(SCHEDULE)
    await runs.resumeAbandoned()
    return { more: false }
  })
  return {
    wakeDrain: drains.wake,
    wakeRelay: relays.wake,
    wakeAll() {
      drains.wake()
      relays.wake()
    },
  }
}

/** Goes through uploaded files, one at a time; each process that is a worker does. What it takes for that is loaded with the first. */
export function startImporting(
  { core, log, lifecycle, wake }: Wiring,
  services: () => Promise<Services>,
): { wake(): void } {
  const stop = new AbortController()
  const report = (error: unknown, about: object) => {
    core.metrics.errors.inc({ part: 'import' })
    log.error({ ...about, err: messageOf(error) }, 'import')
  }
  const loop = startLoop({
    idleMs: IMPORT_POLL_MS,
    async work() {
      if ((await findWaitingImport(core.db)) === null) return { more: false }
      const { makeImportWorker } = await import('../services/import-worker.js')
      const { prisma, settingsOf } = await services()
      const importer = makeImportWorker({ prisma, vault: core.vault, settingsOf, wake })
      return { more: await importer.executeNext(stop.signal, (error, importId) => report(error, { importId })) }
    },
    onError: (error) => report(error, {}),
  })
  lifecycle.onClose('imports', () => {
    stop.abort()
    return loop.stop()
  })
  return loop
}
