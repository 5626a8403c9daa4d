import { inTime } from '../lib/in-time.js'
import type { Db } from './database.js'
import { DatabaseError, isOutage } from './errors.js'
import type { PrismaClient } from './generated/client.js'

/** Where lists and searches are read from. */
export interface ListReads {
  /**
   * Runs a read of this tenant's lists. It has in it whatever was written before the last {@link ListReads.noteWrite}, and what others
   * wrote some time ago.
   *
   * @param options.isLatest it must have in it all that was written before
   * @param work may run twice: what it reads from must be its `prisma`
   */
  read<T>(tenantId: string, options: { isLatest: boolean }, work: (prisma: PrismaClient) => Promise<T>): Promise<T>
  /** Somebody's write for this tenant is done; what is read from now on has it in it. */
  noteWrite(tenantId: string): void
}

/** Lists of a service that has the primary only. */
export function primaryReads(prisma: PrismaClient): ListReads {
  return { read: (_tenantId, _options, work) => work(prisma), noteWrite() {} }
}

/** Why a replica is not read from. */
export type ReplicaTrouble = 'replica_unreachable' | 'not_a_replica' | 'another_cluster' | 'replica_behind'

/** Lists that are read from a replica while it has what they must have. */
export interface ReplicaReads extends ListReads {
  /** Sees how far the replica is. Throws {@link DatabaseError} where the primary cannot be asked. */
  look(): Promise<void>
  /** How old what the replica has is at the most, in milliseconds (null: not known), and why it is not read from. */
  state(): { lagMs: number | null; trouble: ReplicaTrouble | null }
}

/** How long a read may take on the replica before the primary is asked, in milliseconds. */
const PATIENCE_MS = 5_000

/**
 * How far the primary has written, as bytes of its log, and which cluster it is. Not how far it has flushed: with
 * `synchronous_commit = off` that is less than what was acknowledged. Where the next record begins a page, the position is behind
 * the header of that page, which a replica that has all before does not reach.
 */
const WRITTEN = `
  with log as (
    select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as position,
      current_setting('wal_block_size')::bigint as page, pg_size_bytes(current_setting('wal_segment_size')) as segment
  )
  select system_identifier::text as cluster,
    (position - case when position % page = 24 or position % segment = 40 then position % page else 0 end)::text as position
  from pg_control_system(), log`

/** How far a replica has carried that out. */
const REPLAYED = `
  select pg_is_in_recovery() as "isReplica", system_identifier::text as cluster,
    pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::text as position
  from pg_control_system()`

/**
 * Reads lists from a streaming replica of `primary`, and from the primary where the replica is too far behind, cannot be reached or
 * fails. How far it is is told by positions in the log and this process's clock, not by the clocks of the servers, nor by what
 * the replica believes, which one that is cut off takes for everything (postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-MONITORING).
 *
 * @param options.now milliseconds that never go back
 * @param options.onRead counts where a read went
 * @param options.onFailure what a read failed with on the replica; the primary was asked instead
 */
export function makeReplicaReads(options: {
  primary: { db: Pick<Db, 'query'>; prisma: PrismaClient }
  replica: { db: Pick<Db, 'query'>; prisma: PrismaClient }
  mostLagMs: number
  now(): number
  onRead(from: 'primary' | 'replica'): void
  onFailure(error: DatabaseError): void
}): ReplicaReads {
  const { primary, replica, mostLagMs, now, onRead, onFailure } = options
  const freshness = makeFreshness()
  /** When the last write of each tenant was done; only of those that the replica may lack. */
  const writes = new Map<string, number>()
  let obstacle: Exclude<ReplicaTrouble, 'replica_behind'> | null = 'replica_unreachable'

  function trouble(): ReplicaTrouble | null {
    return obstacle ?? (now() - freshness.asOf() > mostLagMs ? 'replica_behind' : null)
  }

  return {
    async read(tenantId, { isLatest }, work) {
      const hasWrites = (writes.get(tenantId) ?? Number.NEGATIVE_INFINITY) < freshness.asOf()
      if (!isLatest && hasWrites && trouble() === null) {
        try {
          const late = () => DatabaseError.from({ cause: 'no answer in time' })
          const result = await inTime(work(replica.prisma), PATIENCE_MS, late)
          onRead('replica')
          return result
        } catch (error) {
          // Such as a row that the primary has removed meanwhile, which the replica cannot keep for long.
          if (!(error instanceof DatabaseError)) throw error
          // Until it has answered again.
          if (isOutage(error)) obstacle = 'replica_unreachable'
          onFailure(error)
        }
      }
      onRead('primary')
      return work(primary.prisma)
    },

    noteWrite(tenantId) {
      writes.set(tenantId, now())
    },

    async look() {
      // The moment before, so that whatever was done by then is in the position.
      const at = now()
      const [written] = await primary.db.query<{ position: string; cluster: string }>(WRITTEN)
      // What it fails with is in the state, for as long as it lasts.
      const [replayed] = await replica.db
        .query<{ isReplica: boolean; position: string | null; cluster: string }>(REPLAYED)
        .catch(() => [])
      if (written === undefined) return
      freshness.written(at, BigInt(written.position))
      if (replayed === undefined) obstacle = 'replica_unreachable'
      else if (replayed.cluster !== written.cluster) obstacle = 'another_cluster'
      else if (!replayed.isReplica || replayed.position === null) obstacle = 'not_a_replica'
      else {
        obstacle = null
        freshness.replayed(BigInt(replayed.position))
      }
      for (const [tenantId, doneAt] of writes) if (doneAt < freshness.asOf()) writes.delete(tenantId)
    },

    state() {
      const lagMs = now() - freshness.asOf()
      return { lagMs: Number.isFinite(lagMs) ? lagMs : null, trouble: trouble() }
    },
  }
}

/** Positions of the primary that are remembered, each with its time. */
const MOST_MARKS = 256

/**
 * Up to which moment a replica has everything: the latest at which the primary's position was one that the replica has reached.
 * Of a replica that is far behind fewer positions are remembered; then it is taken for a little older than it is.
 */
export function makeFreshness() {
  let marks: { at: number; position: bigint }[] = []
  let asOf = Number.NEGATIVE_INFINITY
  let last = 0n
  return {
    /** All that was done before this moment is at or before this position. */
    written(at: number, position: bigint): void {
      // The primary is another one, after a failover: its positions are others.
      if (position < (marks.at(-1)?.position ?? 0n)) marks = []
      marks.push({ at, position })
      if (marks.length > MOST_MARKS)
        marks = marks.filter((_mark, index) => index % 2 === 0 || index === marks.length - 1)
    },
    replayed(position: bigint): void {
      // It was restarted, and carries out anew what it had before; or it is another one.
      if (position < last) asOf = Number.NEGATIVE_INFINITY
      last = position
      const reached = marks.findLastIndex((mark) => mark.position <= position)
      const mark = marks[reached]
      if (mark === undefined) return
      asOf = Math.max(asOf, mark.at)
      marks = marks.slice(reached)
    },
    asOf: (): number => asOf,
  }
}
