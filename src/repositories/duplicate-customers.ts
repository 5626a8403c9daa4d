import type { Db } from './database.js'

/** Why a Stripe customer stands apart for someone to judge. */
export type DuplicateReason = 'lockstep_id' | 'email' | 'phone' | 'ambiguous'

/** Reports a Stripe customer that looks like a person we have. Reported once, and brought up to date after. */
export async function recordDuplicate(
  db: Db,
  duplicate: {
    tenantId: string
    stripeCustomerId: string
    /** The user that it looks like, when there is one. */
    userId: string | null
    reason: DuplicateReason
    /** By which value it looks like them. */
    matchedBy: 'lockstep_id' | 'email' | 'phone'
    /** The users among which it is unclear. */
    candidates: string[]
  },
): Promise<void> {
  await db.query(
    `insert into duplicate_customers (tenant_id, stripe_customer_id, user_id, reason, candidates, matched_by)
     values ($1, $2, $3, $4, $5, $6)
     on conflict (tenant_id, stripe_customer_id) do update
     set user_id = excluded.user_id, reason = excluded.reason, candidates = excluded.candidates,
         matched_by = excluded.matched_by
     where duplicate_customers.status = 'open'`,
    [
      duplicate.tenantId,
      duplicate.stripeCustomerId,
      duplicate.userId,
      duplicate.reason,
      JSON.stringify(duplicate.candidates),
      duplicate.matchedBy,
    ],
  )
}

/** A row of `duplicate_customers`. */
export interface DuplicateRow {
  id: string
  stripeCustomerId: string
  userId: string | null
  reason: DuplicateReason
  candidates: string[]
  status: 'open' | 'linked' | 'ignored' | 'merged'
  detectedAt: Date
  /** By which value it looks like them; null where that was not noted. */
  matchedBy: 'lockstep_id' | 'email' | 'phone' | null
}

const COLUMNS = `id, stripe_customer_id as "stripeCustomerId", user_id as "userId", reason, candidates, status,
  detected_at as "detectedAt", matched_by as "matchedBy"`

/** The tenant's duplicate, or null. */
export async function findDuplicate(db: Db, tenantId: string, id: string): Promise<DuplicateRow | null> {
  const rows = await db.query<DuplicateRow>(
    `select ${COLUMNS} from duplicate_customers where tenant_id = $1 and id = $2`,
    [tenantId, id],
  )
  return rows[0] ?? null
}

/** The tenant's duplicate, held until the transaction ends; or null. */
export async function lockDuplicate(db: Db, tenantId: string, id: string): Promise<DuplicateRow | null> {
  const rows = await db.query<DuplicateRow>(
    `select ${COLUMNS} from duplicate_customers where tenant_id = $1 and id = $2 for update`,
    [tenantId, id],
  )
  return rows[0] ?? null
}

/** Notes what was decided. */
export async function saveDuplicateStatus(
  db: Db,
  tenantId: string,
  id: string,
  status: DuplicateRow['status'],
): Promise<void> {
  await db.query('update duplicate_customers set status = $3 where tenant_id = $1 and id = $2', [tenantId, id, status])
}

/** Of these Stripe customers, those that are said to be nobody's, and those of which it is asked which of several they are. */
export async function findJudged(
  db: Db,
  tenantId: string,
  stripeCustomerIds: readonly string[],
): Promise<{ ignored: string[]; asked: string[] }> {
  const rows = await db.query<{ id: string; status: string }>(
    `select stripe_customer_id as id, status from duplicate_customers
     where tenant_id = $1 and stripe_customer_id = any($2)
       and (status = 'ignored' or (status = 'open' and reason = 'ambiguous'))`,
    [tenantId, stripeCustomerIds],
  )
  const those = (status: string) => rows.filter((row) => row.status === status).map(({ id }) => id)
  return { ignored: those('ignored'), asked: those('open') }
}

/** The customer has found its user: nothing is left to judge. */
export async function closeDuplicate(db: Db, tenantId: string, stripeCustomerId: string): Promise<void> {
  await db.query(
    `update duplicate_customers set status = 'linked' where tenant_id = $1 and stripe_customer_id = $2 and status = 'open'`,
    [tenantId, stripeCustomerId],
  )
}

/** These Stripe customers were merged with their user's: nothing is left to judge. */
export async function closeDuplicateAsMerged(db: Db, tenantId: string, stripeCustomerIds: string[]): Promise<void> {
  await db.query(
    `update duplicate_customers set status = 'merged'
     where tenant_id = $1 and stripe_customer_id = any($2) and status = 'open'`,
    [tenantId, stripeCustomerIds],
  )
}
