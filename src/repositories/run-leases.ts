import type { Db } from './database.js'
import { LeaseLostError } from './errors.js'

/** The right to work on a run, until someone else is given a higher token. */
export interface RunLease {
  runId: string
  token: number
}

/** Renews a lease by $n milliseconds, as a part of {@link RunLeases.update}. */
export const renewedBy = (n: number) => `lease_expires_at = lockstep_now() + $${n} * interval '1 millisecond'`

export type RunLeases<Row extends object> = ReturnType<typeof makeRunLeases<Row>>

/**
 * The leases on runs that are rows of a table: each is worked on by one worker at a time, and who was taken for dead writes nothing
 * more.
 *
 * @param table has `id`, `status` (`queued`, `running`, …), `started_at`, `created_at`, `lease_token` and `lease_expires_at`
 * @param columns what of a row a worker is given, as SQL
 */
export function makeRunLeases<Row extends object>(table: 'reconciliations' | 'retention_runs', columns: string) {
  const isFree = `status in ('queued', 'running') and (lease_expires_at is null or lease_expires_at <= lockstep_now())`

  async function update(db: Db, lease: RunLease, changes: string, params: readonly unknown[]): Promise<void> {
    const rows = await db.query(
      `update ${table} set ${changes} where id = $1 and lease_token = $2 and status = 'running' returning id`,
      [lease.runId, lease.token, ...params],
    )
    if (rows.length === 0) throw new LeaseLostError(`run ${lease.runId}`)
  }

  return {
    /** Writes to the run while it is this worker's; `params` begin at $3. Throws LeaseLostError. */
    update,

    /** Runs that nobody is at: queued, or left by a worker that died. Oldest first. */
    async findFree(db: Db): Promise<string[]> {
      const rows = await db.query<{ id: string }>(`select id from ${table} where ${isFree} order by created_at`)
      return rows.map(({ id }) => id)
    },

    /** Takes a run up, from where it stands; null when someone has it, or it has ended. */
    async claim(db: Db, id: string, leaseMs: number): Promise<{ row: Row; lease: RunLease } | null> {
      const rows = await db.query<Row & { leaseToken: number }>(
        `update ${table} set status = 'running', started_at = coalesce(started_at, lockstep_now()),
           lease_token = lease_token + 1, ${renewedBy(2)}
         where id = $1 and ${isFree} returning ${columns}, lease_token as "leaseToken"`,
        [id, leaseMs],
      )
      if (rows[0] === undefined) return null
      const { leaseToken, ...row } = rows[0]
      return { row: row as unknown as Row, lease: { runId: id, token: leaseToken } }
    },

    /** Gives the run back unfinished: it goes on from its progress later. Throws LeaseLostError. */
    async release(db: Db, lease: RunLease): Promise<void> {
      await update(db, lease, 'lease_expires_at = null', [])
    },
  }
}
