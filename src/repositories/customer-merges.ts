import type { CustomerMerge, MergeFate, NotMoved } from '../models/customer-merge.js'
import { MERGED_INTO } from '../models/user.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import type { Db } from './database.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** The order of lists of merges, as their cursors name it. */
export const MERGE_ORDER = '-createdAt'

const COLUMNS = `id, tenant_id as "tenantId", survivor_id as "survivorId", loser_id as "loserId",
  survivor_stripe_customer_id as "survivorStripeCustomerId", loser_stripe_customer_id as "loserStripeCustomerId",
  duplicate_id as "duplicateId", delete_loser as "deleteLoser", status, fate, filled, conflicts, not_moved as "notMoved", moved,
  actor, attempts, error, created_at as "createdAt", finished_at as "finishedAt"`

/** Stores a merge, in the transaction of its local part. One without a losing Stripe customer is done with that. */
export async function insertMerge(
  db: Db,
  merge: Omit<CustomerMerge, 'status' | 'fate' | 'attempts' | 'error' | 'createdAt' | 'finishedAt'>,
): Promise<CustomerMerge> {
  const rows = await db.query<CustomerMerge>(
    `insert into customer_merges (id, tenant_id, survivor_id, loser_id, survivor_stripe_customer_id, loser_stripe_customer_id,
       duplicate_id, delete_loser, filled, conflicts, not_moved, moved, actor, status, finished_at)
     values ($1, $2, $3, $4, $5, $6::varchar, $7, $8, $9, $10, $11, $12, $13,
             case when $6::varchar is null then 'done' else 'pending' end,
             case when $6::varchar is null then lockstep_now() end)
     returning ${COLUMNS}`,
    [
      merge.id,
      merge.tenantId,
      merge.survivorId,
      merge.loserId,
      merge.survivorStripeCustomerId,
      merge.loserStripeCustomerId,
      merge.duplicateId,
      merge.deleteLoser,
      JSON.stringify(merge.filled),
      JSON.stringify(merge.conflicts),
      JSON.stringify(merge.notMoved),
      JSON.stringify(merge.moved),
      merge.actor,
    ],
  )
  if (rows[0] === undefined) throw new Error('insert into customer_merges returned no row')
  return rows[0]
}

export async function findMerge(db: Db, tenantId: string, id: string): Promise<CustomerMerge | null> {
  const rows = await db.query<CustomerMerge>(
    `select ${COLUMNS} from customer_merges where tenant_id = $1 and id = $2`,
    [tenantId, id],
  )
  return rows[0] ?? null
}

/** The merge that this customer was lost in, or null. */
export async function findMergeOfLoser(db: Db, tenantId: string, loserId: string): Promise<CustomerMerge | null> {
  const rows = await db.query<CustomerMerge>(
    `select ${COLUMNS} from customer_merges where tenant_id = $1 and loser_id = $2`,
    [tenantId, loserId],
  )
  return rows[0] ?? null
}

/** The merge that decided about this duplicate, or null. */
export async function findMergeOfDuplicate(
  db: Db,
  tenantId: string,
  duplicateId: string,
): Promise<CustomerMerge | null> {
  const rows = await db.query<CustomerMerge>(
    `select ${COLUMNS} from customer_merges where tenant_id = $1 and duplicate_id = $2`,
    [tenantId, duplicateId],
  )
  return rows[0] ?? null
}

/** A page of the merges that the customer came out of, or was lost in, newest first. */
export async function listMerges(
  db: Db,
  tenantId: string,
  customerId: string,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<CustomerMerge>> {
  const rows = await db.query<CustomerMerge & { cursorValue: string }>(
    `select ${COLUMNS}, to_char(created_at at time zone 'UTC', $3) as "cursorValue" from customer_merges
     where tenant_id = $1 and (survivor_id = $2 or loser_id = $2)
       and ($4::timestamptz is null or (created_at, id) < ($4, $5::uuid))
     order by created_at desc, id desc limit $6`,
    [tenantId, customerId, CURSOR_TIME_FORMAT, after?.value ?? null, after?.id ?? null, limit + 1],
  )
  const page = pageOf(rows, limit, MERGE_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => row) }
}

/** Merges of which the part in Stripe is due, oldest first. */
export async function findPendingMerges(db: Db, limit: number): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `select id from customer_merges
     where status = 'pending' and (next_attempt_at is null or next_attempt_at <= lockstep_now())
     order by created_at limit $1`,
    [limit],
  )
  return rows.map(({ id }) => id)
}

/** Takes up what is left of a merge; nobody else does for `leaseMs`. Null when it is not due, or done. */
export async function claimMerge(db: Db, id: string, leaseMs: number): Promise<CustomerMerge | null> {
  const rows = await db.query<CustomerMerge>(
    `update customer_merges set attempts = attempts + 1, next_attempt_at = lockstep_now() + $2 * interval '1 millisecond'
     where id = $1 and status = 'pending' and (next_attempt_at is null or next_attempt_at <= lockstep_now())
     returning ${COLUMNS}`,
    [id, leaseMs],
  )
  return rows[0] ?? null
}

/** The part in Stripe is done. */
export async function finishMerge(db: Db, id: string, fate: MergeFate, notMoved: NotMoved[]): Promise<void> {
  await db.query(
    `update customer_merges set status = 'done', fate = $2, not_moved = $3, error = null, next_attempt_at = null,
       finished_at = lockstep_now()
     where id = $1`,
    [id, fate, JSON.stringify(notMoved)],
  )
}

/** The part in Stripe did not get through; it is tried again after `retryAfterMs`. */
export async function postponeMerge(
  db: Db,
  id: string,
  error: { code: string; message: string },
  retryAfterMs: number,
): Promise<void> {
  await db.query(
    `update customer_merges set error = $2, next_attempt_at = lockstep_now() + $3 * interval '1 millisecond'
     where id = $1 and status = 'pending'`,
    [id, JSON.stringify(error), retryAfterMs],
  )
}

/** The customers that were merged into this one, and those that had been merged into them. */
export async function findLosers(db: PrismaDb, tenantId: string, survivorId: string): Promise<string[]> {
  const rows = await db.$queryRaw<{ id: string }[]>`
    with recursive lost as (
      select loser_id as id from customer_merges
      where tenant_id = ${tenantId}::uuid and survivor_id = ${survivorId}::uuid and loser_id is not null
      union
      select m.loser_id from customer_merges m join lost on m.survivor_id = lost.id
      where m.tenant_id = ${tenantId}::uuid and m.loser_id is not null
    ) select id from lost order by id`
  return rows.map(({ id }) => id)
}

/** The active customers in whom those live on that were merged and had this e-mail (in any case) or phone; at most ten. */
export async function findSurvivorsByContact(
  db: PrismaDb,
  tenantId: string,
  contact: { email: string } | { phone: string },
): Promise<string[]> {
  const has =
    'email' in contact ? Prisma.sql`lower(u.email) = lower(${contact.email})` : Prisma.sql`u.phone = ${contact.phone}`
  const rows = await db.$queryRaw<{ id: string }[]>`
    with recursive lost as (
      select u.id from users u
      where u.tenant_id = ${tenantId}::uuid and ${has} and u.state = 'archived' and u.metadata ->> ${MERGED_INTO} is not null
      union
      select m.survivor_id from customer_merges m join lost on m.loser_id = lost.id where m.tenant_id = ${tenantId}::uuid
    ) select u.id from lost join users u on u.id = lost.id where u.tenant_id = ${tenantId}::uuid and u.state = 'active'
    order by u.id limit 10`
  return rows.map(({ id }) => id)
}

/**
 * The survivor is erased: the values in its merges go, and the Stripe customers that it outlived are to be deleted too, whatever
 * they keep.
 */
export async function eraseMerges(tx: PrismaDb, tenantId: string, customerId: string): Promise<void> {
  await tx.$executeRaw`
    update customer_merges m set
      conflicts = coalesce((
        select jsonb_agg(jsonb_build_object('field', c -> 'field', 'survivor', null, 'loser', null))
        from jsonb_array_elements(m.conflicts) as c), '[]')
    where tenant_id = ${tenantId}::uuid and (survivor_id = ${customerId}::uuid or loser_id = ${customerId}::uuid)`
  await tx.$executeRaw`
    update customer_merges set status = 'pending', delete_loser = true, next_attempt_at = null, finished_at = null
    where tenant_id = ${tenantId}::uuid and survivor_id = ${customerId}::uuid
      and loser_stripe_customer_id is not null and (fate is null or fate in ('marked', 'unmarked'))`
}
