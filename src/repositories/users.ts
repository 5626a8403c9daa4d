import type { User } from '../models/user.js'
import type { Contacts } from './contact-locks.js'
import type { Db, Statements } from './database.js'

/** The columns of a {@link User}, under its names. */
export const USER_COLUMNS = `
  u.id, u.tenant_id as "tenantId", u.type, u.state, u.email, u.phone, u.first_name as "firstName",
  u.last_name as "lastName", u.description, u.locale, u.address, u.shipping, u.metadata, u.billing,
  u.stripe_customer_id as "stripeCustomerId", u.revision, u.field_times as "fieldTimes",
  u.archived_at as "archivedAt", u.created_at as "createdAt", u.updated_at as "updatedAt"`

/** What a write by the sync may change of a row. Absent keys stay. */
export interface UserChanges {
  email?: string | null
  phone?: string | null
  firstName?: string | null
  lastName?: string | null
  description?: string | null
  locale?: string | null
  address?: unknown
  shipping?: unknown
  metadata?: Record<string, string>
  billing?: unknown
  state?: User['state']
}

const COLUMN: Record<keyof UserChanges, string> = {
  email: 'email',
  phone: 'phone',
  firstName: 'first_name',
  lastName: 'last_name',
  description: 'description',
  locale: 'locale',
  address: 'address',
  shipping: 'shipping',
  metadata: 'metadata',
  billing: 'billing',
  state: 'state',
}
const JSON_COLUMNS = new Set<string>(['address', 'shipping', 'metadata', 'billing'])

/** The user of this tenant, or null. */
export async function findUser(db: Db, tenantId: string, userId: string): Promise<User | null> {
  const rows = await db.query<User>(`select ${USER_COLUMNS} from users u where u.tenant_id = $1 and u.id = $2`, [
    tenantId,
    userId,
  ])
  return rows[0] ?? null
}

/** The user whose live Stripe customer this is, or null. */
export async function findUserByStripeCustomerId(
  db: Db,
  tenantId: string,
  stripeCustomerId: string,
): Promise<User | null> {
  const rows = await db.query<User>(
    `select ${USER_COLUMNS} from users u where u.tenant_id = $1 and u.stripe_customer_id = $2`,
    [tenantId, stripeCustomerId],
  )
  return rows[0] ?? null
}

/** Up to `limit` users with this e-mail, whatever its case, oldest first. */
export async function findUsersByEmail(db: Db, tenantId: string, email: string, limit = 2): Promise<User[]> {
  return db.query<User>(
    `select ${USER_COLUMNS} from users u
     where u.tenant_id = $1 and lower(u.email) = lower($2) and u.state <> 'erased' order by u.id limit $3`,
    [tenantId, email, limit],
  )
}

/** Whether the Stripe customer is a user's of another tenant: an id is of one account, and an account of one tenant. */
export async function isOfOtherTenant(db: Db, tenantId: string, stripeCustomerId: string): Promise<boolean> {
  const rows = await db.query('select from users where stripe_customer_id = $2 and tenant_id <> $1', [
    tenantId,
    stripeCustomerId,
  ])
  return rows.length > 0
}

/** A page of active users without a Stripe customer, by id. `after` is the last id of the page before. */
export async function findUnlinkedUsers(
  db: Db,
  tenantId: string,
  after: string | null,
  limit: number,
): Promise<User[]> {
  return db.query<User>(
    `select ${USER_COLUMNS} from users u
     where u.tenant_id = $1 and u.stripe_customer_id is null and u.state = 'active' and ($2::uuid is null or u.id > $2)
     order by u.id limit $3`,
    [tenantId, after, limit],
  )
}

/**
 * Users without a Stripe customer that this e-mail or phone points to, and whether a create of theirs is under way; at most two,
 * since two are already one too many. Locks them until the transaction ends.
 */
export async function lockLinkCandidates(
  db: Db,
  tenantId: string,
  contact: { email: string } | { phones: readonly string[] },
): Promise<{ id: string; isCreating: boolean }[]> {
  const [match, value] =
    'email' in contact ? ['lower(u.email) = lower($2)', contact.email] : ['u.phone = any($2)', contact.phones]
  return db.query(
    `select u.id, s.create_key is not null as "isCreating" from users u join sync_state s on s.user_id = u.id
     where u.tenant_id = $1 and ${match} and u.stripe_customer_id is null and u.state = 'active'
     order by u.id limit 2 for update of u`,
    [tenantId, value],
  )
}

/** A user that has an e-mail or a phone of someone else. */
export interface Lookalike {
  by: 'email' | 'phone'
  /** The e-mail or phone, as it was asked for. */
  value: string
  userId: string
  hasStripeCustomer: boolean
}

/**
 * The users that have one of these e-mails (in any case) or phones: of each the first that has a Stripe customer, else the first.
 * Those by e-mail come before those by phone.
 */
export async function findLookalikes(db: Db, tenantId: string, people: readonly Contacts[]): Promise<Lookalike[]> {
  const found = (match: string) => `cross join lateral (
       select u.id, u.stripe_customer_id from users u where u.tenant_id = $1 and ${match}
       order by u.stripe_customer_id is null, u.id limit 1
     ) as found`
  return db.query<Lookalike>(
    `select given.by, given.value, found.id as "userId", found.stripe_customer_id is not null as "hasStripeCustomer"
     from (select 'email' as by, value from unnest($2::text[]) as value) as given ${found('lower(u.email) = lower(given.value)')}
     union all
     select given.by, given.value, found.id, found.stripe_customer_id is not null
     from (select 'phone' as by, value from unnest($3::text[]) as value) as given ${found('u.phone = given.value')}
     order by by`,
    [tenantId, people.flatMap(({ email }) => email ?? []), people.flatMap(({ phones }) => phones)],
  )
}

/** All users with a Stripe customer of their own that have this e-mail (in any case) or phone, in the order of their ids; at most ten. */
export async function findTwins(db: Db, tenantId: string, by: 'email' | 'phone', value: string): Promise<string[]> {
  const match = by === 'email' ? 'lower(u.email) = lower($2)' : 'u.phone = $2'
  const rows = await db.query<{ id: string }>(
    `select u.id from users u where u.tenant_id = $1 and ${match} and u.stripe_customer_id is not null order by u.id limit 10`,
    [tenantId, value],
  )
  return rows.map(({ id }) => id)
}

/**
 * Writes the changes if the row still is at `revision` (null: whatever it is at). Answers the row's revision after it, or null when
 * it was at another.
 * The change trigger counts the revision up and marks the user dirty.
 *
 * @param times when a value came about, by key of `users.field_times`, ISO 8601; now for those not given
 */
export async function updateUser(
  db: Db,
  tenantId: string,
  userId: string,
  revision: number | null,
  changes: UserChanges,
  times: Record<string, string> = {},
): Promise<number | null> {
  const names = Object.keys(changes) as (keyof UserChanges)[]
  if (names.length === 0) return revision ?? (await findUser(db, tenantId, userId))?.revision ?? null
  const values = names.map((name) => {
    const value = changes[name]
    return JSON_COLUMNS.has(name) && value !== null && value !== undefined ? JSON.stringify(value) : value
  })
  const sets = [
    'field_times = field_times || $4::jsonb',
    ...names.map((name, index) => `${COLUMN[name]} = $${index + 5}`),
  ]
  if (changes.state === 'archived') sets.push('archived_at = lockstep_now()')
  const rows = await db.query<{ revision: number }>(
    `update users set ${sets.join(', ')}
     where tenant_id = $1 and id = $2 and ($3::integer is null or revision = $3) returning revision`,
    [tenantId, userId, revision, JSON.stringify(times), ...values],
  )
  return rows[0]?.revision ?? null
}

/** What one of several users takes over; see {@link updateUser}. */
export interface UserUpdate {
  userId: string
  changes: UserChanges
  times: Record<string, string>
}

/** {@link updateUser} for users that the transaction holds, in one statement; answers their revisions after it, by id. */
export async function updateUsers(
  db: Db,
  tenantId: string,
  updates: readonly UserUpdate[],
): Promise<Map<string, number>> {
  if (updates.length === 0) return new Map()
  const sets = Object.entries(COLUMN).map(([name, column]) => {
    // A JSON null is no value of a JSON column either.
    const given = JSON_COLUMNS.has(name) ? `nullif(r.changes -> '${name}', 'null'::jsonb)` : `r.changes ->> '${name}'`
    return `${column} = case when r.changes ? '${name}' then ${given} else u.${column} end`
  })
  const rows = await db.query<{ id: string; revision: number }>(
    `update users u set field_times = u.field_times || r.times, ${sets.join(', ')}
     from jsonb_to_recordset($2::jsonb) as r (id uuid, times jsonb, changes jsonb)
     where u.tenant_id = $1 and u.id = r.id returning u.id, u.revision`,
    [tenantId, JSON.stringify(updates.map(({ userId, changes, times }) => ({ id: userId, changes, times })))],
  )
  return new Map(rows.map(({ id, revision }) => [id, revision]))
}

/** Adds users that Stripe had first. Their states are for `insertMetStates` to add, in the same transaction: the change trigger adds none. */
export async function insertImportedUsers(
  db: Db,
  tenantId: string,
  users: readonly { id: string; stripeCustomerId: string; values: UserChanges }[],
): Promise<void> {
  await db.query(`select set_config('lockstep.agreed', 'on', true)`)
  await db.query(
    `insert into users (id, tenant_id, stripe_customer_id, type, email, phone, first_name, last_name, description, locale,
                        address, shipping, metadata, billing)
     select r.id, $1, r."stripeCustomerId", 'regular', r.email, r.phone, r."firstName", r."lastName", r.description, r.locale,
       r.address, r.shipping, coalesce(r.metadata, '{}'), r.billing
     from jsonb_to_recordset($2::jsonb) as r(id uuid, "stripeCustomerId" text, email text, phone text, "firstName" text,
       "lastName" text, description text, locale text, address jsonb, shipping jsonb, metadata jsonb, billing jsonb)`,
    [tenantId, JSON.stringify(users.map(({ id, stripeCustomerId, values }) => ({ ...values, id, stripeCustomerId })))],
  )
  await db.query(`select set_config('lockstep.agreed', '', true)`)
}

/**
 * Points the user at its Stripe customer, unless it has another one. Answers whether it now points there.
 *
 * @param billing what Stripe has of it, to be taken over; null leaves what is there
 */
export async function setStripeCustomerId(
  db: Db,
  tenantId: string,
  userId: string,
  stripeCustomerId: string,
  billing: unknown = null,
): Promise<boolean> {
  const rows = await db.query(
    `update users set stripe_customer_id = $3, billing = coalesce($4, billing)
     where tenant_id = $1 and id = $2 and (stripe_customer_id is null or stripe_customer_id = $3) returning id`,
    [tenantId, userId, stripeCustomerId, billing === null ? null : JSON.stringify(billing)],
    'set-stripe-customer-id',
  )
  return rows.length === 1
}

/** Takes the user's Stripe customer away from it, if it is this one. */
export async function clearStripeCustomerId(
  db: Db,
  tenantId: string,
  userId: string,
  stripeCustomerId: string,
): Promise<void> {
  await db.query(
    'update users set stripe_customer_id = null where tenant_id = $1 and id = $2 and stripe_customer_id = $3',
    [tenantId, userId, stripeCustomerId],
  )
}

/** Holds the row until the transaction ends. Always taken before the user's `sync_state`, so that no two can deadlock. */
export async function lockUser(db: Statements, tenantId: string, userId: string): Promise<User | null> {
  const rows = await db.query<User>(
    `select ${USER_COLUMNS} from users u where u.tenant_id = $1::uuid and u.id = $2::uuid for no key update`,
    [tenantId, userId],
    'lock-user',
  )
  return rows[0] ?? null
}
