import {
  NO_COUNTS,
  type Reconciliation,
  type ReconciliationKind,
  type ReconciliationTrigger,
  type RunCounts,
  type RunProgress,
} from '../models/reconciliation.js'
import { type Actor, recordAudit } from './audit-log.js'
import { CURSOR_TIME_FORMAT } from './cursor.js'
import type { Db } from './database.js'
import { makeRunLeases, type RunLease, renewedBy } from './run-leases.js'

const COLUMNS = `id, tenant_id as "tenantId", kind, trigger, dry_run as "dryRun", status, progress, counts, error,
  requested_by as "requestedBy", created_at as "createdAt", started_at as "startedAt", finished_at as "finishedAt"`

type Row = Omit<Reconciliation, 'counts'> & { counts: Partial<RunCounts> }

const leases = makeRunLeases<Row>('reconciliations', COLUMNS)

function runOf(row: Row): Reconciliation {
  return { ...row, counts: { ...NO_COUNTS, ...row.counts } }
}

/**
 * Stores a run to be done.
 *
 * @param by who asked for it, when it was a person: then it is recorded, with the run or not at all
 */
export async function insertRun(
  db: Db,
  run: {
    tenantId: string
    kind: ReconciliationKind
    trigger: ReconciliationTrigger
    dryRun: boolean
    requestedBy: string | null
    by?: Actor
  },
): Promise<Reconciliation> {
  return db.transaction(async (tx) => {
    const { tenantId, kind, trigger, dryRun, requestedBy, by } = run
    const [row] = await tx.query<Row>(
      `insert into reconciliations (tenant_id, kind, trigger, dry_run, requested_by) values ($1, $2, $3, $4, $5) returning ${COLUMNS}`,
      [tenantId, kind, trigger, dryRun, requestedBy],
    )
    if (row === undefined) throw new Error('insert into reconciliations returned no row')
    if (by !== undefined) {
      const changes = { kind, dryRun }
      await recordAudit(tx, by, { action: 'reconciliation.start', entity: 'reconciliation', entityId: row.id, changes })
    }
    return runOf(row)
  })
}

export async function findRun(db: Db, tenantId: string, id: string): Promise<Reconciliation | null> {
  const rows = await db.query<Row>(`select ${COLUMNS} from reconciliations where tenant_id = $1 and id = $2`, [
    tenantId,
    id,
  ])
  return rows[0] === undefined ? null : runOf(rows[0])
}

/** Up to `limit` runs, newest first, behind `after`. Their times are given to the microsecond too, for a cursor. */
export async function listRuns(
  db: Db,
  tenantId: string,
  limit: number,
  after: { value: string; id: string } | null,
): Promise<(Reconciliation & { createdAtMicros: string })[]> {
  const rows = await db.query<Row & { createdAtMicros: string }>(
    `select ${COLUMNS}, to_char(created_at at time zone 'UTC', '${CURSOR_TIME_FORMAT}') as "createdAtMicros"
     from reconciliations
     where tenant_id = $1 and ($2::timestamptz is null or (created_at, id) < ($2, $3::uuid))
     order by created_at desc, id desc limit $4`,
    [tenantId, after?.value ?? null, after?.id ?? null, limit],
  )
  return rows.map((row) => ({ ...runOf(row), createdAtMicros: row.createdAtMicros }))
}

/** A run of this kind that waits or is under way for real, if there is one: two at once would do the same twice. */
export async function findUnfinishedRun(
  db: Db,
  tenantId: string,
  kind: ReconciliationKind,
): Promise<Reconciliation | null> {
  const rows = await db.query<Row>(
    `select ${COLUMNS} from reconciliations
     where tenant_id = $1 and kind = $2 and status in ('queued', 'running') and not dry_run order by created_at limit 1`,
    [tenantId, kind],
  )
  return rows[0] === undefined ? null : runOf(rows[0])
}

/** Runs that nobody is at: queued, or left by a worker that died. */
export function findAbandonedRuns(db: Db): Promise<string[]> {
  return leases.findFree(db)
}

/** Takes a run up, from where it stands; null when someone has it, or it has ended. */
export async function claimRun(
  db: Db,
  id: string,
  leaseMs: number,
): Promise<{ run: Reconciliation; lease: RunLease } | null> {
  const claimed = await leases.claim(db, id, leaseMs)
  return claimed === null ? null : { run: runOf(claimed.row), lease: claimed.lease }
}

/** Makes the lease last `leaseMs` from now. Throws LeaseLostError. */
export async function renewRun(db: Db, lease: RunLease, leaseMs: number): Promise<void> {
  await leases.update(db, lease, renewedBy(3), [leaseMs])
}

/** One more page is done. Throws LeaseLostError. */
export async function saveRunProgress(
  db: Db,
  lease: RunLease,
  progress: RunProgress,
  counts: RunCounts,
  leaseMs: number,
): Promise<void> {
  await leases.update(db, lease, `progress = $3, counts = $4, ${renewedBy(5)}`, [
    JSON.stringify(progress),
    JSON.stringify(counts),
    leaseMs,
  ])
}

/** Gives the run back unfinished: it goes on from its progress later. Throws LeaseLostError. */
export async function releaseRun(db: Db, lease: RunLease): Promise<void> {
  await leases.release(db, lease)
}

/** Ends the run; with an error it has failed, whatever else it got done. Throws LeaseLostError. */
export async function finishRun(
  db: Db,
  lease: RunLease,
  counts: RunCounts,
  error: { code: string; message: string } | null,
): Promise<void> {
  await leases.update(
    db,
    lease,
    `status = $3, counts = $4, error = $5, finished_at = lockstep_now(), lease_expires_at = null,
     progress = progress || '{"phase": "done"}'`,
    [error === null ? 'succeeded' : 'failed', JSON.stringify(counts), error === null ? null : JSON.stringify(error)],
  )
}
