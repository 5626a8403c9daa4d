import type { CustomerPolicy, RecordPolicy } from '../models/retention.js'
import { trimAudit } from './audit-trim.js'
import type { Db } from './database.js'

/** When each policy's time is up; null for one that the tenant does not have. */
export type Cutoffs = Record<CustomerPolicy, Date | null>

/** A customer whose time is up. */
export interface Expired {
  id: string
  revision: number
  policy: CustomerPolicy
  /** It has open orders, and stays. */
  isInUse: boolean
}

/**
 * Looks at the next `limit` customers behind `after`, and answers those whose time is up by the first policy that applies, and
 * how far it looked; `through` is null when none is left. Walks the tenant's customers by id, so that no statement takes long and none needs
 * an index of its own.
 *
 * Of an active customer nothing was heard when neither the row, nor an order, nor a consent, nor an event of Stripe's is younger
 * than the cutoff. One with a payment method, a balance or a debt at Stripe is never inactive: to erase it would end its
 * subscriptions.
 */
export async function findExpiredCustomers(
  db: Db,
  tenantId: string,
  cutoffs: Cutoffs,
  after: string | null,
  limit: number,
): Promise<{ expired: Expired[]; through: string | null }> {
  const heardSince = (cutoff: string) => `(
      exists (select from order_attendees a join orders o on o.id = a.order_id
                 where a.tenant_id = $1 and a.customer_id = u.id and greatest(o.ordered_at, o.updated_at) >= ${cutoff})
      or exists (select from consent_changes c where c.tenant_id = $1 and c.customer_id = u.id and c.recorded_at >= ${cutoff})
      or u.stripe_customer_id is not null and exists (
        select from stripe_events e
        where e.tenant_id = $1 and e.stripe_customer_id = u.stripe_customer_id and e.created >= ${cutoff}))`
  const rows = await db.query<Omit<Expired, 'policy'> & { policy: CustomerPolicy | null }>(
    `select judged.id, judged.revision, judged.policy, case when judged.policy is null then false else exists (
        select from order_attendees a join orders o on o.id = a.order_id
        where a.tenant_id = $1 and a.customer_id = judged.id and o.status = 'open') end as "isInUse"
     from (
       select u.id, u.revision, case
           when u.state = 'archived' and coalesce(u.archived_at, u.updated_at) < $2::timestamptz then 'archived'
           when $3::timestamptz is not null and u.state = 'active' and u.type = 'anonymous' and u.updated_at < $3
             and not stake.at_stripe and not ${heardSince('$3')} then 'anonymous'
           when $4::timestamptz is not null and u.state = 'active' and u.updated_at < $4
             and not stake.at_stripe and not ${heardSince('$4')} then 'inactive'
         end as policy
       from (select * from users where tenant_id = $1 and ($5::uuid is null or id > $5) order by id limit $6) as u
       cross join lateral (select coalesce(
          coalesce((u.billing ->> 'balance')::numeric, 0) <> 0 or (u.billing ->> 'delinquent')::boolean
          or u.billing ->> 'defaultPaymentMethod' is not null, false) as at_stripe) as stake
     ) as judged order by judged.id`,
    [tenantId, cutoffs.archived, cutoffs.anonymous, cutoffs.inactive, after, limit],
  )
  const expired = rows.flatMap(({ policy, ...row }) => (policy === null ? [] : [{ ...row, policy }]))
  return { expired, through: rows.length < limit ? null : (rows.at(-1)?.id ?? null) }
}

/** What of each kind of record is older than $2 and may go, and how many by one statement. */
const OLD: Readonly<Record<RecordPolicy, { table: string; where: string; batch: number }>> = {
  // What waits, or was given up on, is still to be looked at.
  events: {
    table: 'stripe_events',
    where: `received_at < $2 and status in ('processed', 'ignored', 'quarantined')`,
    batch: 2_000,
  },
  // What is not chained yet is too new to be old.
  audit: { table: 'audit_log', where: 'at < $2 and seq is not null', batch: 2_000 },
  // Each may have 100,000 refused lines.
  imports: { table: 'imports', where: 'finished_at < $2', batch: 20 },
}

/** How many of the tenant's records are older. */
export async function countOldRecords(db: Db, tenantId: string, kind: RecordPolicy, cutoff: Date): Promise<number> {
  const { table, where } = OLD[kind]
  const rows = await db.query<{ found: number }>(
    `select count(*)::int as found from ${table} where tenant_id = $1 and ${where}`,
    [tenantId, cutoff],
  )
  return rows[0]?.found ?? 0
}

/** Deletes some of the tenant's older records; answers how many, and whether there may be more. */
export async function deleteOldRecords(
  db: Db,
  tenantId: string,
  kind: RecordPolicy,
  cutoff: Date,
): Promise<{ deleted: number; hasMore: boolean }> {
  const { table, where, batch } = OLD[kind]
  if (kind === 'audit') {
    const deleted = await trimAudit(db, tenantId, cutoff, 'retention', batch)
    return { deleted, hasMore: deleted >= batch }
  }
  const rows = await db.query(
    `delete from ${table} where ctid = any(array(
       select ctid from ${table} where tenant_id = $1 and ${where} limit $3)) and tenant_id = $1 and ${where} returning 1`,
    [tenantId, cutoff, batch],
  )
  return { deleted: rows.length, hasMore: rows.length >= batch }
}
