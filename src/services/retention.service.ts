import type { Logger } from 'pino'
import type { Clock } from '../lib/clock.js'
import { ConflictError, LockstepError, messageOf, NotFoundError, RevisionMismatchError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import {
  CUSTOMER_POLICIES,
  type CustomerPolicy,
  type PolicyResult,
  RECORD_POLICIES,
  RETENTION_POLICIES,
  type RetentionRun,
  type RetentionTrigger,
  readRetention,
} from '../models/retention.js'
import { recordAudit } from '../repositories/audit-log.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import type { Db } from '../repositories/database.js'
import { DatabaseError, LeaseLostError } from '../repositories/errors.js'
import {
  type Cutoffs,
  countOldRecords,
  deleteOldRecords,
  type Expired,
  findExpiredCustomers,
} from '../repositories/retention.js'
import {
  claimRetentionRun,
  findOpenRetentionRuns,
  findRetentionRun,
  finishRetentionRun,
  insertRetentionRun,
  listRetentionRuns,
  RETENTION_RUN_ORDER,
  releaseRetentionRun,
  saveRetentionProgress,
} from '../repositories/retention-runs.js'
import type { RunLease } from '../repositories/run-leases.js'
import { findTenant, listTenants } from '../repositories/tenants.js'
import type { CustomerService } from './customer.service.js'

/** How long a run without a sign of life is its worker's, in milliseconds; every batch renews it. */
const LEASE_MS = 60_000
/** Customers looked at, of which few are due as a rule, by one statement. */
const CUSTOMERS_BATCH = 500
/** Customers erased at once. */
const AT_ONCE = 4
/** Customers that are named for each policy. */
const MOST_IDS = 1_000
const DAY_MS = 86_400_000

export type RetentionService = ReturnType<typeof makeRetentionService>

/**
 * The tenants' retention policies, as runs: stored, resumable, batch by batch. Customers are erased as DELETE ?erase=true does it, so
 * that Stripe follows; one with open orders stays. Where the settings cannot be read nothing is removed.
 */
export function makeRetentionService(options: {
  db: Db
  customers: Pick<CustomerService, 'erase'>
  clock: Clock
  log: Logger
  /** Tells a worker that there is a run to do. */
  enqueue(): Promise<void>
}) {
  const { db, customers, clock, log } = options

  const service = {
    /** Stores a run for a worker to do. While one that removes is unfinished, that one is answered in place of another. */
    async start(request: {
      tenantId: string
      trigger: RetentionTrigger
      dryRun: boolean
      requestedBy: string | null
    }): Promise<RetentionRun> {
      const run = await insertRetentionRun(db, request)
      // A queue that is away costs only time: whoever looks for open runs next does this one.
      await options.enqueue().catch((error: unknown) => {
        log.warn({ runId: run.id, err: messageOf(error) }, 'the retention run could not be queued yet')
      })
      return run
    },

    /** Stores the daily run of each tenant that has a policy. */
    async startDaily(): Promise<void> {
      for (const { id: tenantId, settings } of await listTenants(db)) {
        const { days, errors } = readRetention(settings.retention)
        if (Object.keys(days).length + errors.length === 0) continue
        await service.start({ tenantId, trigger: 'schedule', dryRun: false, requestedBy: null })
      }
    },

    /** Throws NotFoundError. */
    async get(tenantId: string, id: string): Promise<RetentionRun> {
      const run = isId(id) ? await findRetentionRun(db, tenantId, id) : null
      if (run === null) throw new NotFoundError('retention run', id)
      return run
    },

    /** A page of runs, newest first. Throws ValidationError for a cursor that it did not make. */
    async list(
      tenantId: string,
      { limit = DEFAULT_LIMIT, cursor }: { limit?: number | undefined; cursor?: string | undefined },
    ): Promise<Page<RetentionRun>> {
      const after = cursor === undefined ? null : decodeCursor(cursor, RETENTION_RUN_ORDER, isId)
      return listRetentionRuns(db, tenantId, { limit, after })
    },

    /** Does all runs that wait, or that a worker left. */
    async workOff(signal: AbortSignal): Promise<void> {
      for (const id of await findOpenRetentionRuns(db)) {
        if (signal.aborted) return
        await service.execute(id, signal)
      }
    },

    /**
     * Works on a run from where it stands. Null when someone else has it, it has ended, or the signal ended it early. After a crash
     * in the midst of a batch the counts lack what that batch had removed; the audit log has it.
     */
    async execute(id: string, signal: AbortSignal): Promise<RetentionRun | null> {
      const claimed = await claimRetentionRun(db, id, LEASE_MS)
      if (claimed === null) return null
      const { run, lease } = claimed
      try {
        const error = await work(run, lease, signal)
        if (error === 'stopped') {
          await releaseRetentionRun(db, lease)
          return null
        }
        await finish(run, lease, error)
        return findRetentionRun(db, run.tenantId, run.id)
      } catch (cause) {
        if (cause instanceof LeaseLostError) return null
        await releaseRetentionRun(db, lease).catch(() => {})
        throw cause
      }
    },
  }

  async function work(run: RetentionRun, lease: RunLease, signal: AbortSignal) {
    if (run.results.length === 0) {
      const tenant = await findTenant(db, run.tenantId)
      const { days, errors } = readRetention(tenant?.settings.retention)
      if (errors.length > 0) {
        const message = errors.map((one) => `${one.path}: ${one.message}`).join('; ')
        return { code: 'invalid_settings', message: `Nothing was removed. ${message}` }
      }
      run.results = RETENTION_POLICIES.flatMap((policy) => newResult(policy, days[policy], clock.now()))
    }
    if (run.progress.isPastCustomers !== true) {
      const isDone = await goThroughCustomers(run, lease, signal)
      if (!isDone) return 'stopped' as const
    }
    for (const kind of RECORD_POLICIES) {
      const result = run.results.find(({ policy }) => policy === kind)
      if (result === undefined) continue
      const cutoff = new Date(result.cutoff)
      if (run.dryRun) {
        result.found = await countOldRecords(db, run.tenantId, kind, cutoff)
        continue
      }
      for (;;) {
        if (signal.aborted) return 'stopped' as const
        const { deleted, hasMore } = await deleteOldRecords(db, run.tenantId, kind, cutoff)
        result.found += deleted
        result.removed += deleted
        await saveRetentionProgress(db, lease, run.progress, run.results, LEASE_MS)
        if (!hasMore) break
      }
    }
    return null
  }

  /** Answers false when the signal ended it. */
  async function goThroughCustomers(run: RetentionRun, lease: RunLease, signal: AbortSignal): Promise<boolean> {
    const cutoffs = cutoffsOf(run.results)
    const isAny = CUSTOMER_POLICIES.some((policy) => cutoffs[policy] !== null)
    let after: string | null = run.progress.after ?? null
    while (isAny) {
      if (signal.aborted) return false
      const { expired, through } = await findExpiredCustomers(db, run.tenantId, cutoffs, after, CUSTOMERS_BATCH)
      for (let next = 0; next < expired.length; next += AT_ONCE) {
        await Promise.all(expired.slice(next, next + AT_ONCE).map((customer) => takeOne(run, customer)))
      }
      after = through
      run.progress = { after, isPastCustomers: through === null }
      await saveRetentionProgress(db, lease, run.progress, run.results, LEASE_MS)
      if (through === null) break
    }
    run.progress = { isPastCustomers: true }
    return true
  }

  async function takeOne(run: RetentionRun, { id, revision, policy, isInUse }: Expired): Promise<void> {
    const result = run.results.find((one) => one.policy === policy)
    if (result === undefined) return
    result.found += 1
    if (result.customerIds.length < MOST_IDS) result.customerIds.push(id)
    if (isInUse) result.kept += 1
    else if (!run.dryRun) result[await erase(run, id, revision, result)] += 1
  }

  async function erase(
    run: RetentionRun,
    id: string,
    revision: number,
    { policy, days }: PolicyResult,
  ): Promise<'removed' | 'kept' | 'failed'> {
    const by = { tenantId: run.tenantId, actor: run.requestedBy ?? 'system', requestId: null, ip: null }
    const reason = `retention: ${policy} for ${days} ${days === 1 ? 'day' : 'days'}`
    try {
      await customers.erase(by, id, (present) => present === revision, reason)
      return 'removed'
    } catch (error) {
      if (error instanceof RevisionMismatchError || error instanceof ConflictError || error instanceof NotFoundError) {
        return 'kept'
      }
      // Nothing else will get through either.
      if (!(error instanceof LockstepError) || (error instanceof DatabaseError && error.retryable)) throw error
      log.error({ runId: run.id, customerId: id, code: error.code }, 'retention: a customer could not be erased')
      return 'failed'
    }
  }

  async function finish(run: RetentionRun, lease: RunLease, error: RetentionRun['error']): Promise<void> {
    const by = { tenantId: run.tenantId, actor: run.requestedBy ?? 'system', requestId: null, ip: null }
    const policies = run.results.map(({ policy, days, found, removed, kept, failed }) => ({
      policy,
      days,
      found,
      removed,
      kept,
      failed,
    }))
    await db.transaction(async (tx) => {
      await finishRetentionRun(tx, lease, run.results, error)
      await recordAudit(tx, by, {
        action: 'retention.run',
        entity: 'retention_run',
        entityId: run.id,
        changes: { dryRun: run.dryRun, policies, error: error?.code ?? null },
      })
    })
    const line = { runId: run.id, tenantId: run.tenantId, dryRun: run.dryRun, policies, error }
    if (error === null) log.info(line, 'retention')
    else log.error(line, 'retention failed')
  }

  return service
}

function newResult(policy: PolicyResult['policy'], days: number | undefined, now: number): PolicyResult[] {
  if (days === undefined) return []
  const cutoff = new Date(now - days * DAY_MS).toISOString()
  return [{ policy, days, cutoff, found: 0, removed: 0, kept: 0, failed: 0, customerIds: [] }]
}

function cutoffsOf(results: readonly PolicyResult[]): Cutoffs {
  const cutoffOf = (policy: CustomerPolicy) => {
    const result = results.find((one) => one.policy === policy)
    return result === undefined ? null : new Date(result.cutoff)
  }
  return { anonymous: cutoffOf('anonymous'), archived: cutoffOf('archived'), inactive: cutoffOf('inactive') }
}
