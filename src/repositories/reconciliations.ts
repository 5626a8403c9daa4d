import {
  NO_COUNTS,
  type Reconciliation,
  type ReconciliationKind,
  type ReconciliationTrigger,
  type RunCounts,
  type RunProgress,
} from '../models/reconciliation.js'
import { CURSOR_TIME_FORMAT } from './cursor.js'
import type { Db } from './database.js'
import { LeaseLostError } from './errors.js'

const COLUMNS = `id, tenant_id as "tenantId", kind, trigger, dry_run as "dryRun", status, progress, counts, error,
  requested_by as "requestedBy", created_at as "createdAt", started_at as "startedAt", finished_at as "finishedAt"`

type Row = Omit<Reconciliation, 'counts'> & { counts: Partial<RunCounts> }

function runOf(row: Row): Reconciliation {
  return { ...row, counts: { ...NO_COUNTS, ...row.counts } }
}

export async function insertRun(
  db: Db,
  run: {
    tenantId: string
    kind: ReconciliationKind
    trigger: ReconciliationTrigger
    dryRun: boolean
    requestedBy: string | null
  },
): Promise<Reconciliation> {
  const [row] = await db.query<Row>(
    `insert into reconciliations (tenant_id, kind, trigger, dry_run, requested_by) values ($1, $2, $3, $4, $5) returning ${COLUMNS}`,
    [run.tenantId, run.kind, run.trigger, run.dryRun, run.requestedBy],
  )
  if (row === undefined) throw new Error('insert into reconciliations returned no row')
  return runOf(row)
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
export async function findAbandonedRuns(db: Db): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `select id from reconciliations
     where status in ('queued', 'running') and (lease_expires_at is null or lease_expires_at <= lockstep_now())`,
  )
  return rows.map((row) => row.id)
}

/** The right to work on a run, until someone else is given a higher token. */
export interface RunLease {
  runId: string
  token: number
}

/** Takes a run up, from where it stands; null when someone has it, or it has ended. */
export async function claimRun(
  db: Db,
  id: string,
  leaseMs: number,
): Promise<{ run: Reconciliation; lease: RunLease } | null> {
  const rows = await db.query<Row & { leaseToken: number }>(
    `update reconciliations set status = 'running', started_at = coalesce(started_at, lockstep_now()),
       lease_token = lease_token + 1, lease_expires_at = lockstep_now() + $2 * interval '1 millisecond'
     where id = $1 and status in ('queued', 'running')
       and (lease_expires_at is null or lease_expires_at <= lockstep_now())
     returning ${COLUMNS}, lease_token as "leaseToken"`,
    [id, leaseMs],
  )
  if (rows[0] === undefined) return null
  const { leaseToken, ...row } = rows[0]
  return { run: runOf(row), lease: { runId: id, token: leaseToken } }
}

/** Makes the lease last `leaseMs` from now. Throws LeaseLostError. */
export async function renewRun(db: Db, lease: RunLease, leaseMs: number): Promise<void> {
  await underLease(db, lease, `lease_expires_at = lockstep_now() + $3 * interval '1 millisecond'`, [leaseMs])
}

/** One more page is done. Throws LeaseLostError. */
export async function saveRunProgress(
  db: Db,
  lease: RunLease,
  progress: RunProgress,
  counts: RunCounts,
  leaseMs: number,
): Promise<void> {
  await underLease(
    db,
    lease,
    `progress = $3, counts = $4, lease_expires_at = lockstep_now() + $5 * interval '1 millisecond'`,
    [JSON.stringify(progress), JSON.stringify(counts), leaseMs],
  )
}

/** Gives the run back unfinished: it goes on from its progress later. Throws LeaseLostError. */
export async function releaseRun(db: Db, lease: RunLease): Promise<void> {
  await underLease(db, lease, 'lease_expires_at = null', [])
}

/** Ends the run; with an error it has failed, whatever else it got done. Throws LeaseLostError. */
export async function finishRun(
  db: Db,
  lease: RunLease,
  counts: RunCounts,
  error: { code: string; message: string } | null,
): Promise<void> {
  await underLease(
    db,
    lease,
    `status = $3, counts = $4, error = $5, finished_at = lockstep_now(), lease_expires_at = null,
     progress = progress || '{"phase": "done"}'`,
    [error === null ? 'succeeded' : 'failed', JSON.stringify(counts), error === null ? null : JSON.stringify(error)],
  )
}

async function underLease(db: Db, lease: RunLease, changes: string, params: readonly unknown[]): Promise<void> {
  const rows = await db.query(
    `update reconciliations set ${changes} where id = $1 and lease_token = $2 and status = 'running' returning id`,
    [lease.runId, lease.token, ...params],
  )
  if (rows.length === 0) throw new LeaseLostError(`run ${lease.runId}`)
}
