import { createHash } from 'node:crypto'
import { ConflictError } from '../lib/errors.js'
import type { Db, Statements } from './database.js'

/** The end of a chain: the number of an entry, and its hash. */
export interface ChainHead {
  seq: number
  hash: Buffer
}

/** An entry in its place in the chain. */
export interface ChainedEntry extends ChainHead {
  id: string
  at: Date
  /** All of the entry but its place: what {@link hashEntry} hashes. */
  body: string
}

/** Entries that one transaction chains, at the most. */
const BATCH = 500
/** The one chaining at a time, whichever process does it. Any number that no other lock has. */
export const CHAIN_LOCK = 4_710_020_261_121
/** What stands before the first entry of a chain. */
export const GENESIS: ChainHead = { seq: 0, hash: Buffer.alloc(32) }

/**
 * The entry as text, always the same for the same row: a JSON array of tenant, id, time (UTC, microseconds), actor, action, entity, entity id,
 * changes (as Postgres writes the `jsonb`, sealed values as they are), cause, request id and address. Null where a column is.
 */
const BODY = `jsonb_build_array(tenant_id::text, id::text, to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), actor,
  action, entity, entity_id, changes::text, cause, request_id, ip)::text`

/** The hash of an entry: SHA-256 of the hash before it, the entry's number in decimal, a line feed, and its body. */
export function hashEntry(previous: Uint8Array, seq: number, body: string): Buffer {
  return createHash('sha256').update(previous).update(`${seq}\n`).update(body).digest()
}

/**
 * Gives up to some hundreds of entries that have no place in their tenant's chain yet one, in the order of their times; one that is
 * committed late gets its number when it is seen. Safe in any number of processes: one at a time does it, the others pass.
 * Answers how many it chained and whether there may be more.
 */
export async function chainEntries(db: Db, limit = BATCH): Promise<{ chained: number; more: boolean }> {
  // Most of the time there is nothing to do, and finding that out is one look at a small index.
  const waiting = await db.query('select from audit_log where seq is null order by at, id limit 1')
  if (waiting.length === 0) return { chained: 0, more: false }
  return db.transaction(async (tx) => {
    const [lock] = await tx.query<{ taken: boolean }>('select pg_try_advisory_xact_lock($1) as taken', [CHAIN_LOCK])
    if (lock?.taken !== true) return { chained: 0, more: false }
    const rows = await tx.query<{ id: string; tenantId: string; body: string }>(
      `select id, tenant_id as "tenantId", ${BODY} as body from audit_log where seq is null order by at, id limit $1`,
      [limit],
    )
    const heads = await lockHeads(tx, [...new Set(rows.map(({ tenantId }) => tenantId))])
    const places = rows.map(({ id, tenantId, body }) => {
      const previous = heads.get(tenantId) ?? GENESIS
      const seq = previous.seq + 1
      const head = { seq, hash: hashEntry(previous.hash, seq, body) }
      heads.set(tenantId, head)
      return { id, ...head }
    })
    await tx.query(
      `update audit_log a set seq = p.seq, hash = p.hash
       from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as p (id, seq, hash) where a.id = p.id`,
      [places.map(({ id }) => id), places.map(({ seq }) => seq), places.map(({ hash }) => hash)],
    )
    await saveHeads(tx, heads)
    return { chained: rows.length, more: rows.length === limit }
  })
}

async function lockHeads(tx: Db, tenantIds: string[]): Promise<Map<string, ChainHead>> {
  const rows = await tx.query<{ tenantId: string; seq: string; hash: Buffer }>(
    `select tenant_id as "tenantId", seq, hash from audit_heads where tenant_id = any($1::uuid[]) order by tenant_id for update`,
    [tenantIds],
  )
  return new Map(rows.map(({ tenantId, seq, hash }) => [tenantId, { seq: Number(seq), hash }]))
}

async function saveHeads(tx: Db, heads: ReadonlyMap<string, ChainHead>): Promise<void> {
  const entries = [...heads]
  await tx.query(
    `insert into audit_heads (tenant_id, seq, hash, checkpoint_hash)
     select h.tenant_id, h.seq, h.hash, $4 from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as h (tenant_id, seq, hash)
     on conflict (tenant_id) do update set seq = excluded.seq, hash = excluded.hash, updated_at = lockstep_now()`,
    [entries.map(([id]) => id), entries.map(([, { seq }]) => seq), entries.map(([, { hash }]) => hash), GENESIS.hash],
  )
}

/** Where a tenant's chain begins and ends. */
export interface ChainEnds {
  head: ChainHead
  /** The last entry that retention removed, or {@link GENESIS}: the chain goes on from there. */
  checkpoint: ChainHead
}

/** The ends of the tenant's chain; null while nothing was chained. */
export async function findChainEnds(db: Statements, tenantId: string): Promise<ChainEnds | null> {
  const [row] = await db.query<{ seq: string; hash: Buffer; checkpointSeq: string; checkpointHash: Buffer }>(
    `select seq, hash, checkpoint_seq as "checkpointSeq", checkpoint_hash as "checkpointHash"
     from audit_heads where tenant_id = $1`,
    [tenantId],
  )
  if (row === undefined) return null
  return {
    head: { seq: Number(row.seq), hash: row.hash },
    checkpoint: { seq: Number(row.checkpointSeq), hash: row.checkpointHash },
  }
}

/** Up to `limit` chained entries of the tenant after number `after`, in their order. */
export async function findChained(
  db: Statements,
  tenantId: string,
  after: number,
  limit: number,
): Promise<ChainedEntry[]> {
  const rows = await db.query<Omit<ChainedEntry, 'seq'> & { seq: string }>(
    `select seq, hash, id, at, ${BODY} as body from audit_log
     where tenant_id = $1 and seq > $2 order by seq limit $3`,
    [tenantId, after, limit],
  )
  return rows.map((row) => ({ ...row, seq: Number(row.seq) }))
}

/** How many entries of the tenant wait for their place, and the number of one that stands beyond the end of the chain, if one does. */
export async function findLoose(
  db: Statements,
  tenantId: string,
): Promise<{ unchained: number; beyond: { seq: number; id: string } | null }> {
  const [row] = await db.query<{ unchained: number; seq: string | null; id: string | null }>(
    `select (select count(*)::int from audit_log where tenant_id = $1 and seq is null) as unchained, b.seq, b.id
     from (select 1) as one left join lateral (
       select seq, id from audit_log
       where tenant_id = $1 and seq > coalesce((select seq from audit_heads where tenant_id = $1), 0) order by seq limit 1
     ) b on true`,
    [tenantId],
  )
  const beyond = row?.seq == null || row.id === null ? null : { seq: Number(row.seq), id: row.id }
  return { unchained: row?.unchained ?? 0, beyond }
}

/**
 * Removes up to `limit` of the tenant's oldest entries, as far as they are from before `before` and chained, and moves the beginning of
 * the chain behind them. Must run in a transaction; the caller records it. Answers how many went.
 *
 * @throws {ConflictError} `audit_chain_broken` when they are not what was chained: evidence is not removed.
 */
export async function removeOldEntries(
  tx: Db,
  tenantId: string,
  before: Date,
  limit: number,
): Promise<{ removed: number; checkpoint: ChainHead | null }> {
  await lockHeads(tx, [tenantId])
  const ends = await findChainEnds(tx, tenantId)
  if (ends === null) return { removed: 0, checkpoint: null }
  const oldest = await findChained(tx, tenantId, ends.checkpoint.seq, limit)
  // The chain stays in one piece: the first entry that is to be kept keeps all behind it.
  const kept = oldest.findIndex(({ at }) => at >= before)
  const going = kept < 0 ? oldest : oldest.slice(0, kept)
  mustBeWhole(ends.checkpoint, going)
  const last = going.at(-1)
  if (last === undefined) return { removed: 0, checkpoint: ends.checkpoint }
  await tx.query(`select set_config('lockstep.audit_retention', 'on', true)`)
  const removed = await tx.query('delete from audit_log where tenant_id = $1 and seq > $2 and seq <= $3 returning id', [
    tenantId,
    ends.checkpoint.seq,
    last.seq,
  ])
  await tx.query(`select set_config('lockstep.audit_retention', 'off', true)`)
  await tx.query(
    'update audit_heads set checkpoint_seq = $2, checkpoint_hash = $3, updated_at = lockstep_now() where tenant_id = $1',
    [tenantId, last.seq, last.hash],
  )
  return { removed: removed.length, checkpoint: { seq: last.seq, hash: last.hash } }
}

function mustBeWhole(checkpoint: ChainHead, entries: readonly ChainedEntry[]): void {
  let previous = checkpoint
  for (const entry of entries) {
    const isNext = entry.seq === previous.seq + 1
    if (!isNext || !hashEntry(previous.hash, entry.seq, entry.body).equals(entry.hash)) {
      throw new ConflictError(
        `The audit log is not what it was at entry ${previous.seq + 1}; see: npx lockstep audit verify. Nothing was removed.`,
        'audit_chain_broken',
      )
    }
    previous = entry
  }
}
