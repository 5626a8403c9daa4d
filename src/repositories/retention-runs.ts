import type { PolicyResult, RetentionProgress, RetentionRun, RetentionTrigger } from '../models/retention.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import type { Db } from './database.js'
import { makeRunLeases, type RunLease, renewedBy } from './run-leases.js'

/** The order of lists of runs, as their cursors name it. */
export const RETENTION_RUN_ORDER = '-createdAt'

const COLUMNS = `id, tenant_id as "tenantId", trigger, dry_run as "dryRun", status, progress, results, error,
  requested_by as "requestedBy", created_at as "createdAt", started_at as "startedAt", finished_at as "finishedAt"`

const leases = makeRunLeases<RetentionRun>('retention_runs', COLUMNS)

/**
 * Stores a run to be done. While one that removes is unfinished, that one is answered in place of another that would.
 */
export async function insertRetentionRun(
  db: Db,
  run: { tenantId: string; trigger: RetentionTrigger; dryRun: boolean; requestedBy: string | null },
): Promise<RetentionRun> {
  return db.transaction(async (tx) => {
    // Two that ask at once: the second waits here, and finds the first one's run.
    await tx.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [`retention/${run.tenantId}`])
    const unfinished = await tx.query<RetentionRun>(
      `select ${COLUMNS} from retention_runs
       where tenant_id = $1 and status in ('queued', 'running') and not dry_run and not $2 order by created_at limit 1`,
      [run.tenantId, run.dryRun],
    )
    const rows =
      unfinished.length > 0
        ? unfinished
        : await tx.query<RetentionRun>(
            `insert into retention_runs (tenant_id, trigger, dry_run, requested_by) values ($1, $2, $3, $4) returning ${COLUMNS}`,
            [run.tenantId, run.trigger, run.dryRun, run.requestedBy],
          )
    if (rows[0] === undefined) throw new Error('insert into retention_runs returned no row')
    return rows[0]
  })
}

export async function findRetentionRun(db: Db, tenantId: string, id: string): Promise<RetentionRun | null> {
  const rows = await db.query<RetentionRun>(`select ${COLUMNS} from retention_runs where tenant_id = $1 and id = $2`, [
    tenantId,
    id,
  ])
  return rows[0] ?? null
}

/** A page of the tenant's runs, newest first. */
export async function listRetentionRuns(
  db: Db,
  tenantId: string,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<RetentionRun>> {
  const rows = await db.query<RetentionRun & { cursorValue: string }>(
    `select ${COLUMNS}, to_char(created_at at time zone 'UTC', $2) as "cursorValue" from retention_runs
     where tenant_id = $1 and ($3::timestamptz is null or (created_at, id) < ($3, $4::uuid))
     order by created_at desc, id desc limit $5`,
    [tenantId, CURSOR_TIME_FORMAT, after?.value ?? null, after?.id ?? null, limit + 1],
  )
  const page = pageOf(rows, limit, RETENTION_RUN_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => row) }
}

/** Runs that nobody is at: queued, or left by a worker that died. Oldest first. */
export function findOpenRetentionRuns(db: Db): Promise<string[]> {
  return leases.findFree(db)
}

/** Takes a run up, from where it stands; null when someone has it, or it has ended. */
export async function claimRetentionRun(
  db: Db,
  id: string,
  leaseMs: number,
): Promise<{ run: RetentionRun; lease: RunLease } | null> {
  const claimed = await leases.claim(db, id, leaseMs)
  return claimed === null ? null : { run: claimed.row, lease: claimed.lease }
}

/** One more batch is done; the lease lasts `leaseMs` from now. Throws LeaseLostError. */
export async function saveRetentionProgress(
  db: Db,
  lease: RunLease,
  progress: RetentionProgress,
  results: PolicyResult[],
  leaseMs: number,
): Promise<void> {
  await leases.update(db, lease, `progress = $3, results = $4, ${renewedBy(5)}`, [
    JSON.stringify(progress),
    JSON.stringify(results),
    leaseMs,
  ])
}

/** Gives the run back unfinished: it goes on from its progress later. Throws LeaseLostError. */
export async function releaseRetentionRun(db: Db, lease: RunLease): Promise<void> {
  await leases.release(db, lease)
}

/** Ends the run; with an error it has failed, whatever else it got done. Throws LeaseLostError. */
export async function finishRetentionRun(
  db: Db,
  lease: RunLease,
  results: PolicyResult[],
  error: RetentionRun['error'],
): Promise<void> {
  await leases.update(
    db,
    lease,
    'status = $3, results = $4, error = $5, finished_at = lockstep_now(), lease_expires_at = null',
    [error === null ? 'succeeded' : 'failed', JSON.stringify(results), error === null ? null : JSON.stringify(error)],
  )
}
