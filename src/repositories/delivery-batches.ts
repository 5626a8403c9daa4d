import type { Cipher } from '../lib/cipher.js'
import type { Db, Statements } from './database.js'

/** A delivery of Stripe's that is believed, on its way to the disk. */
export interface NewDelivery {
  tenantId: string
  /** Whether the event is kept for the record only: it is nobody's here, or of the other mode. */
  isQuarantined: boolean
  /** The event as Stripe sent it: JSON, and found to be. */
  text: string
}

/** A delivery as it was stored. */
export interface Delivery {
  tenantId: string
  isQuarantined: boolean
  event: unknown
}

/** Deliveries that came in together. */
export interface DeliveryBatch {
  id: string
  receivedAt: Date
  deliveries: Delivery[]
}

/** A batch that waits. */
export interface WaitingBatch {
  id: string
  /** Deliveries in it. */
  count: number
  /** Bytes, as they are sealed. */
  size: number
  /** How often it could not be filed. */
  attempts: number
}

/** Where what is sealed here belongs. */
export const DELIVERIES_CONTEXT = 'delivery_batches.sealed'

/** Stores deliveries as one batch, sealed as one. */
export async function storeDeliveries(
  db: Statements,
  cipher: Cipher,
  deliveries: readonly NewDelivery[],
): Promise<void> {
  // Put together as text: each is JSON already, and what Stripe signed is kept as it came.
  const parts = deliveries.map(
    ({ tenantId, isQuarantined, text }) =>
      `{"tenantId":"${tenantId}","isQuarantined":${isQuarantined},"event":${text}}`,
  )
  await db.query(
    'insert into delivery_batches (count, sealed) values ($1, $2)',
    [deliveries.length, cipher.seal(`[${parts.join(',')}]`, DELIVERIES_CONTEXT)],
    'store_deliveries',
  )
}

/** The batches that wait, oldest first. */
export async function findBatches(db: Db, limit: number): Promise<WaitingBatch[]> {
  return db.query<WaitingBatch>(
    `select id, count, octet_length(sealed) as size, attempts from delivery_batches where next_attempt_at is null or next_attempt_at <= lockstep_now()
     order by id limit $1`,
    [limit],
    'find_delivery_batches',
  )
}

/**
 * Takes those of these batches that nobody else has, in their order: they are gone once the transaction commits. Throws UnsealError.
 */
export async function takeBatches(tx: Db, cipher: Cipher, ids: readonly string[]): Promise<DeliveryBatch[]> {
  const rows = await tx.query<StoredBatch>(
    `with held as (select id from delivery_batches where id = any($1::bigint[]) order by id for update skip locked)
     delete from delivery_batches b using held where b.id = held.id
     returning b.id, b.received_at as "receivedAt", b.sealed`,
    [ids],
    'take_delivery_batches',
  )
  return rows.sort((a, b) => Number(BigInt(a.id) - BigInt(b.id))).map((row) => openBatch(cipher, row))
}

/** A batch, which stays where it is; null when it is gone. Throws UnsealError. */
export async function readBatch(db: Statements, cipher: Cipher, id: string): Promise<DeliveryBatch | null> {
  const [row] = await db.query<StoredBatch>(
    'select id, received_at as "receivedAt", sealed from delivery_batches where id = $1::bigint',
    [id],
  )
  return row === undefined ? null : openBatch(cipher, row)
}

/** Ends a batch, all of which is filed. */
export async function removeBatch(db: Db, id: string): Promise<void> {
  await db.query('delete from delivery_batches where id = $1::bigint', [id])
}

/** A batch could not be filed: it is tried again after `retryAfterMs`. */
export async function saveBatchFailure(db: Db, id: string, error: string, retryAfterMs: number): Promise<void> {
  await db.query(
    `update delivery_batches set attempts = attempts + 1, error = $2,
       next_attempt_at = lockstep_now() + $3 * interval '1 millisecond' where id = $1::bigint`,
    [id, error, retryAfterMs],
  )
}

/** A batch as it is sealed. */
export interface SealedBatch {
  id: string
  sealed: string
}

/** Up to `limit` batches that another key than this one seals, after the batch `after`. */
export async function findBatchesSealedOtherwise(
  db: Statements,
  keyId: string,
  after: string | null,
  limit: number,
): Promise<SealedBatch[]> {
  return db.query<SealedBatch>(
    `select id, sealed from delivery_batches
     where substr(sealed, 4, 16) <> $1 and ($2::bigint is null or id > $2::bigint) order by id limit $3`,
    [keyId, after, limit],
  )
}

/** Replaces what is sealed if it still is as it was. Answers whether it was. */
export async function replaceSealedBatch(db: Statements, { id, sealed }: SealedBatch, next: string): Promise<boolean> {
  const rows = await db.query(
    'update delivery_batches set sealed = $3 where id = $1::bigint and sealed = $2 returning id',
    [id, sealed, next],
  )
  return rows.length === 1
}

interface StoredBatch extends Omit<DeliveryBatch, 'deliveries'> {
  sealed: string
}

function openBatch(cipher: Cipher, { sealed, ...batch }: StoredBatch): DeliveryBatch {
  return { ...batch, deliveries: JSON.parse(cipher.open(sealed, DELIVERIES_CONTEXT)) as Delivery[] }
}
