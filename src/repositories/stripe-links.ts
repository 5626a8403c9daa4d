import type { SyncState } from '../models/sync-state.js'
import type { Db, Statements } from './database.js'

/** How a user and a Stripe customer came together. */
export type LinkHow = 'created' | 'lockstep_id' | 'email' | 'phone' | 'imported' | 'attached' | 'tombstone'

/** A row of `stripe_links`. */
export interface StripeLink {
  stripeCustomerId: string
  userId: string | null
  how: LinkHow
  /** When Stripe made the customer; null where that is not known yet. */
  stripeCreated: Date | null
  unlinkedAt: Date | null
  deletedAt: Date | null
}

const COLUMNS = `stripe_customer_id as "stripeCustomerId", user_id as "userId", how, stripe_created as "stripeCreated",
  unlinked_at as "unlinkedAt", deleted_at as "deletedAt"`

export async function findLink(db: Db, tenantId: string, stripeCustomerId: string): Promise<StripeLink | null> {
  const rows = await db.query<StripeLink>(
    `select ${COLUMNS} from stripe_links where tenant_id = $1 and stripe_customer_id = $2`,
    [tenantId, stripeCustomerId],
  )
  return rows[0] ?? null
}

/** What is known of this Stripe customer, and whether the user has another live one. */
export async function findLinkBetween(
  db: Db,
  tenantId: string,
  stripeCustomerId: string,
  userId: string,
): Promise<{ link: StripeLink | null; hasOther: boolean }> {
  const rows = await db.query<StripeLink>(
    `select ${COLUMNS} from stripe_links where tenant_id = $1 and stripe_customer_id = $2
     union all
     select ${COLUMNS} from stripe_links
     where tenant_id = $1 and user_id = $3 and unlinked_at is null and deleted_at is null and stripe_customer_id <> $2`,
    [tenantId, stripeCustomerId, userId],
    'find-link-between',
  )
  const isThis = (row: StripeLink) => row.stripeCustomerId === stripeCustomerId
  return { link: rows.find(isThis) ?? null, hasOther: !rows.every(isThis) }
}

/** The links of many Stripe customers at once, by id. */
export async function findLinks(
  db: Db,
  tenantId: string,
  stripeCustomerIds: string[],
): Promise<Map<string, StripeLink>> {
  const rows = await db.query<StripeLink>(
    `select ${COLUMNS} from stripe_links where tenant_id = $1 and stripe_customer_id = any($2)`,
    [tenantId, stripeCustomerIds],
  )
  return new Map(rows.map((row) => [row.stripeCustomerId, row]))
}

/** What is held of a Stripe customer that a list may show. */
export interface HeldCustomer {
  stripeCustomerId: string
  userId: string | null
  /** Whether it still is that user's. */
  isLive: boolean
  /** Whether it is known when Stripe made it. */
  isDated: boolean
  /** The user's; null where there is none. */
  status: SyncState['status'] | null
  remote: SyncState['remote']
}

/** What is held of these Stripe customers, by id, and no more of it than a comparison needs: that is done for everyone. */
export async function findHeldCustomers(
  db: Db,
  tenantId: string,
  stripeCustomerIds: readonly string[],
): Promise<Map<string, HeldCustomer>> {
  const rows = await db.query<HeldCustomer>(
    `select l.stripe_customer_id as "stripeCustomerId", l.user_id as "userId",
       l.user_id is not null and l.unlinked_at is null and l.deleted_at is null as "isLive",
       l.stripe_created is not null as "isDated", s.status, s.remote
     from stripe_links l
     left join lateral (
       select status, remote from sync_state where tenant_id = $1 and user_id = l.user_id offset 0
     ) as s on true
     where l.tenant_id = $1 and l.stripe_customer_id = any($2)`,
    [tenantId, stripeCustomerIds],
    'find-held-customers',
  )
  return new Map(rows.map((row) => [row.stripeCustomerId, row]))
}

/** Whether the user has a live link, and to what. */
export async function findLiveLink(db: Db, tenantId: string, userId: string): Promise<string | null> {
  const rows = await db.query<{ id: string }>(
    `select stripe_customer_id as id from stripe_links
     where tenant_id = $1 and user_id = $2 and unlinked_at is null and deleted_at is null`,
    [tenantId, userId],
  )
  return rows[0]?.id ?? null
}

/**
 * Records that the Stripe customer is this user's. Answers false, changing nothing, when the id is known already. The
 * primary key makes one of two concurrent callers wait for the other, so that a customer is never given to two users.
 *
 * @param isLive false: the two have parted already, and the id is only to be remembered
 */
export async function insertLink(
  db: Db,
  link: { tenantId: string; stripeCustomerId: string; userId: string | null; how: LinkHow; stripeCreated: Date | null },
  { isLive = true } = {},
): Promise<boolean> {
  const rows = await db.query(
    `insert into stripe_links (tenant_id, stripe_customer_id, user_id, how, stripe_created, deleted_at, unlinked_at)
     values ($1, $2, $3, $4, $5, case when $4 = 'tombstone' then lockstep_now() end,
             case when not $6::boolean then lockstep_now() end)
     on conflict (tenant_id, stripe_customer_id) do nothing returning stripe_customer_id`,
    [link.tenantId, link.stripeCustomerId, link.userId, link.how, link.stripeCreated, isLive],
    'insert-link',
  )
  return rows.length === 1
}

/** {@link insertLink} of several live links, in one statement and one order. Answers the Stripe customers whose links it added. */
export async function insertLinks(
  db: Db,
  tenantId: string,
  how: LinkHow,
  links: readonly { stripeCustomerId: string; userId: string; stripeCreated: Date | null }[],
): Promise<Set<string>> {
  const rows = await db.query<{ id: string }>(
    `insert into stripe_links (tenant_id, stripe_customer_id, user_id, how, stripe_created)
     select $1, l.id, l.user_id, $2, l.created from unnest($3::text[], $4::uuid[], $5::timestamptz[]) as l (id, user_id, created)
     order by l.id
     on conflict (tenant_id, stripe_customer_id) do nothing returning stripe_customer_id as id`,
    [
      tenantId,
      how,
      links.map(({ stripeCustomerId }) => stripeCustomerId),
      links.map(({ userId }) => userId),
      links.map(({ stripeCreated }) => stripeCreated),
    ],
  )
  return new Set(rows.map(({ id }) => id))
}

/** Makes the Stripe customer another user's, of the same person. That one must have no live link. */
export async function moveLink(db: Db, tenantId: string, stripeCustomerId: string, userId: string): Promise<void> {
  await db.query(
    `update stripe_links set user_id = $3, how = 'attached', linked_at = lockstep_now()
     where tenant_id = $1 and stripe_customer_id = $2`,
    [tenantId, stripeCustomerId, userId],
  )
}

/**
 * Stripe deleted the customer: final. An id that was never known is remembered too. Answers false, changing nothing, when it is by now the
 * customer of another user than was thought, who has to be parted from it.
 *
 * @param userId whose it is, or was; null: nobody's
 */
export async function buryLink(
  db: Db,
  tenantId: string,
  stripeCustomerId: string,
  userId: string | null,
): Promise<boolean> {
  const rows = await db.query(
    `insert into stripe_links as l (tenant_id, stripe_customer_id, how, deleted_at) values ($1, $2, 'tombstone', lockstep_now())
     on conflict (tenant_id, stripe_customer_id)
     do update set deleted_at = coalesce(l.deleted_at, excluded.deleted_at)
     where l.user_id is null or l.user_id = $3::uuid or l.unlinked_at is not null or l.deleted_at is not null
     returning l.stripe_customer_id`,
    [tenantId, stripeCustomerId, userId],
  )
  return rows.length === 1
}

/**
 * Makes the Stripe customer the user's again that was its own when its row was deleted, so that it can be deleted with what else is left.
 * Answers its id, or null where there is none, or Stripe has deleted it.
 */
export async function takeBackLink(
  db: Statements,
  tenantId: string,
  userId: string,
  deletedAt: Date,
): Promise<string | null> {
  const rows = await db.query<{ id: string }>(
    `update stripe_links set unlinked_at = null where tenant_id = $1::uuid and stripe_customer_id = (
       select stripe_customer_id from stripe_links
       where tenant_id = $1::uuid and user_id = $2::uuid and deleted_at is null and coalesce(unlinked_at, 'infinity') >= $3::timestamptz
       order by unlinked_at desc nulls first limit 1)
     returning stripe_customer_id as id`,
    [tenantId, userId, deletedAt],
  )
  return rows[0]?.id ?? null
}

/** The user and the Stripe customer part, though both may live on. The id is not taken up again by itself. */
export async function unlink(db: Db, tenantId: string, stripeCustomerId: string): Promise<void> {
  await db.query(
    `update stripe_links set unlinked_at = coalesce(unlinked_at, lockstep_now())
     where tenant_id = $1 and stripe_customer_id = $2`,
    [tenantId, stripeCustomerId],
  )
}

/**
 * Live links to customers that Stripe made after `after` and until `until`, that are not among `seen`. A page
 * of at most `limit`, by id, from behind `skipThrough`.
 */
export async function findUnseenLinks(
  db: Db,
  tenantId: string,
  range: { after: Date; until: Date; seen: string[]; skipThrough: string | null; limit: number },
): Promise<{ stripeCustomerId: string; userId: string }[]> {
  return db.query<{ stripeCustomerId: string; userId: string }>(
    `select stripe_customer_id as "stripeCustomerId", user_id as "userId" from stripe_links
     where tenant_id = $1 and unlinked_at is null and deleted_at is null and user_id is not null
       and stripe_created > $2 and stripe_created <= $3
       and stripe_customer_id <> all($4) and ($5::varchar is null or stripe_customer_id > $5)
     order by stripe_customer_id limit $6`,
    [tenantId, range.after, range.until, range.seen, range.skipThrough, range.limit],
  )
}

const DATED = 'tenant_id = $1 and unlinked_at is null and deleted_at is null and stripe_created is not null'

/**
 * Where a window of the list of Stripe's customers should begin that ends at `until` and should hold up to `count` of those that we
 * know. 0: it may begin anywhere, there are fewer. Unix seconds.
 */
export async function findWindowStart(db: Db, tenantId: string, until: number, count: number): Promise<number> {
  const [next] = await db.query<{ created: number }>(
    `select extract(epoch from stripe_created)::float8 as created from stripe_links
     where ${DATED} and stripe_created <= to_timestamp($2)
     order by stripe_created desc offset $3 limit 1`,
    [tenantId, until, count],
  )
  // All of the second in which the next customer was made is left out, so that the window holds no page more than it should.
  return next === undefined ? 0 : Math.min(Math.floor(next.created) + 1, until)
}

/** Notes when Stripe made customers whose links do not know it yet; the sweep finds missing ones by that time. */
export async function fillStripeCreated(
  db: Db,
  tenantId: string,
  customers: { id: string; created: Date }[],
): Promise<void> {
  await db.query(
    `update stripe_links l set stripe_created = c.created
     from unnest($2::varchar[], $3::timestamptz[]) as c (id, created)
     where l.tenant_id = $1 and l.stripe_customer_id = c.id and l.stripe_created is null`,
    [tenantId, customers.map((customer) => customer.id), customers.map((customer) => customer.created)],
  )
}
