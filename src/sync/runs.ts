import type { Logger } from 'pino'
import type { Timer } from '../lib/clock.js'
import { LockstepError, messageOf } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import type { Metrics } from '../lib/metrics.js'
import { backoffDelay } from '../lib/retry.js'
import type {
  Reconciliation,
  ReconciliationKind,
  ReconciliationTrigger,
  RunCounts,
  RunProgress,
} from '../models/reconciliation.js'
import type { Tenant } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import { decodeCursor, type Page, pageOf } from '../repositories/cursor.js'
import type { Db } from '../repositories/database.js'
import { LeaseLostError } from '../repositories/errors.js'
import {
  claimRun,
  findAbandonedRuns,
  findRun,
  findUnfinishedRun,
  finishRun,
  insertRun,
  listRuns,
  releaseRun,
  renewRun,
  saveRunProgress,
} from '../repositories/reconciliations.js'
import type { RunLease } from '../repositories/run-leases.js'
import { findTenant } from '../repositories/tenants.js'
import type { Vault } from '../repositories/vault.js'
import type { StripeAccount } from '../stripe/account.js'
import { StripeAuthError } from '../stripe/errors.js'
import { catchUp } from './catch-up.js'
import type { Filing } from './filing.js'
import { sweep } from './sweep.js'

/**
 * How long a run without a sign of life is its worker's, in milliseconds; every page and every try renews it. One that takes
 * longer is not harmed by whoever goes on with the run meanwhile: it stops at its next page.
 */
const LEASE_MS = 45_000
/** Tries of a page that Stripe refuses for a passing reason, before the run is a failed one. */
const MAX_TRIES = 6
const BACKOFF = { first: 1_000, max: 30_000 }

/**
 * Enough for the highest limit that Stripe has by default, 100 calls/s, at 0.4 seconds per call; memory is bounded by it too. How
 * many are under way is for the rate limiter to say.
 */
const SWEEP_LANES = 40

/** How lists of runs are ordered, as their cursors say. */
const LIST_ORDER = '-createdAt'

/** What is asked of a run. */
export interface RunRequest {
  tenantId: string
  kind: ReconciliationKind
  dryRun: boolean
  trigger: ReconciliationTrigger
  requestedBy: string | null
  /** The person who asked, for the audit log. */
  by?: Actor
}

/** What people ask of runs: starting one, and watching it. */
export interface RunRequests {
  /** Stores a run and queues it. While one of the kind is unfinished, that one is answered instead. */
  start(request: RunRequest): Promise<Reconciliation>
  get(tenantId: string, runId: string): Promise<Reconciliation | null>
  /** A page of runs, newest first. Throws ValidationError for a cursor that it did not make. */
  list(tenantId: string, page: { limit: number; cursor: string | undefined }): Promise<Page<Reconciliation>>
}

/** Catch-ups and sweeps as runs: stored, resumable, honest about what failed. */
export interface Runs extends RunRequests {
  /** Works on a run from where it stands. Null when someone else has it, or it has ended. */
  execute(
    runId: string,
    signal: AbortSignal,
    onProgress?: (run: Reconciliation) => void,
  ): Promise<Reconciliation | null>
  /** Queues runs that nobody is at: the queue lost them, or their worker died. */
  resumeAbandoned(): Promise<number>
}

interface RunRequestOptions {
  db: Db
  enqueueRun(runId: string): Promise<void>
  metrics: Metrics
  log: Logger
}

/** Makes what people ask of runs, on any pool; {@link makeRuns} carries them out. */
export function makeRunRequests({ db, enqueueRun, metrics, log }: RunRequestOptions): RunRequests {
  return {
    async start(request) {
      const unfinished = request.dryRun ? null : await findUnfinishedRun(db, request.tenantId, request.kind)
      const run = unfinished ?? (await insertRun(db, request))
      // A queue that is away costs only time: whoever looks for abandoned runs next queues this one.
      await enqueueRun(run.id).catch((error: unknown) => {
        metrics.errors.inc({ part: 'queue' })
        log.warn({ runId: run.id, err: messageOf(error) }, 'the run could not be queued yet')
      })
      return run
    },

    async get(tenantId, runId) {
      return isId(runId) ? findRun(db, tenantId, runId) : null
    },

    async list(tenantId, { limit, cursor }) {
      const after = cursor === undefined ? null : decodeCursor(cursor, LIST_ORDER, isId)
      return pageOf(await listRuns(db, tenantId, limit + 1, after), limit, LIST_ORDER, (run) => ({
        value: run.createdAtMicros,
        id: run.id,
      }))
    },
  }
}

interface RunOptions extends RunRequestOptions {
  vault: Vault
  accountOf(tenant: Tenant): StripeAccount
  filing: Filing
  /** Tells drain and relay that there is work. */
  wake(): void
  random: () => number
  timer: Timer
  /** Pages of Stripe's list that a sweep may have under way at once. */
  sweepLanes?: number
}

/** Makes the runs of all tenants. */
export function makeRuns(options: RunOptions): Runs {
  const { db, vault, metrics, log, random, timer, sweepLanes = SWEEP_LANES } = options

  const runs: Runs = {
    ...makeRunRequests(options),

    async execute(runId, signal, onProgress) {
      const claimed = await claimRun(db, runId, LEASE_MS)
      if (claimed === null) return null
      const { run, lease } = claimed
      const tenant = await findTenant(db, run.tenantId)
      if (tenant === null) return null
      let error: Reconciliation['error'] | 'stopped'
      try {
        error = await withPatience(run, lease, tenant, signal, onProgress)
        if (error === 'stopped') await releaseRun(db, lease)
        else await finishRun(db, lease, run.counts, error)
      } catch (cause) {
        if (cause instanceof LeaseLostError) return null
        // Whoever takes the run up next need not wait for a lease that nobody uses.
        await releaseRun(db, lease).catch(() => {})
        throw cause
      }
      if (error === 'stopped') return null
      if (error !== null) {
        metrics.errors.inc({ part: run.kind })
        log.error({ runId, kind: run.kind, error }, 'run failed')
      }
      options.wake()
      return findRun(db, run.tenantId, run.id)
    },

    async resumeAbandoned() {
      const ids = await findAbandonedRuns(db)
      for (const id of ids) await options.enqueueRun(id)
      return ids.length
    },
  }

  /** Goes on after failures that pass by themselves, each time from the last page that was done. */
  async function withPatience(
    run: Reconciliation,
    lease: RunLease,
    tenant: Tenant,
    signal: AbortSignal,
    onProgress?: (run: Reconciliation) => void,
  ): Promise<Reconciliation['error'] | 'stopped'> {
    let tries = 0
    let current = tenant
    for (;;) {
      try {
        if (tries > 0) await renewRun(db, lease, LEASE_MS)
        return await work(run, current, signal, async (progress) => {
          tries = 0
          run.progress = progress
          await saveRunProgress(db, lease, progress, run.counts, LEASE_MS)
          onProgress?.(run)
        })
      } catch (error) {
        if (signal.aborted) return 'stopped'
        if (!(error instanceof LockstepError) || error instanceof LeaseLostError) throw error
        tries += 1
        const latest = error instanceof StripeAuthError ? await findTenant(db, tenant.id) : null
        const isRotated = latest !== null && latest.stripeSecretKey !== current.stripeSecretKey
        if (isRotated) current = latest
        const isPassing = error.retryable && (isRotated || !(error instanceof StripeAuthError))
        if (!isPassing || tries >= MAX_TRIES) {
          run.counts.failed += 1
          return { code: error.code, message: messageOf(error) }
        }
        log.warn({ runId: run.id, code: error.code, tries }, `run: ${error.message}`)
        await timer.sleep(backoffDelay(BACKOFF, tries, random), signal)
      }
    }
  }

  async function work(
    run: Reconciliation,
    tenant: Tenant,
    signal: AbortSignal,
    onProgress: (progress: RunProgress) => Promise<void>,
  ): Promise<Reconciliation['error']> {
    const account = options.accountOf(tenant)
    const startedAt = run.startedAt ?? new Date(timer.now())
    const common = { db, vault, tenant, account, dryRun: run.dryRun, counts: run.counts, signal }
    if (run.kind === 'sweep') {
      const cause = `run:${run.id}`
      const lanes = sweepLanes
      const refusal = await sweep({ ...common, log, cause, startedAt, lanes, progress: run.progress, onProgress })
      return refusal === null ? null : { code: refusal.code, message: refusal.message }
    }
    const missedBefore = run.counts.missed
    const { isGapTooOld } = await catchUp({
      ...common,
      filing: options.filing,
      now: timer.now(),
      onProgress: async () => {
        options.wake()
        await onProgress({ phase: 'events' })
      },
    })
    if (!run.dryRun) metrics.eventsMissed.inc(run.counts.missed - missedBefore)
    if (isGapTooOld && !run.dryRun) {
      await runs.start({
        tenantId: tenant.id,
        kind: 'sweep',
        dryRun: false,
        trigger: run.trigger,
        requestedBy: run.requestedBy,
      })
    }
    return null
  }

  return runs
}

/** The totals of a run as one line for people. */
export function describeCounts(counts: RunCounts): string {
  const { created, linked, fixed, conflicting, duplicate, orphaned, failed } = counts
  return Object.entries({ created, linked, fixed, conflicting, duplicate, orphaned, failed })
    .map(([name, count]) => `${count} ${name}`)
    .join(', ')
}
