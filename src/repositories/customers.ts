import type { SyncSummary } from '../models/dtos/customer.dto.js'
import type { SyncStatus } from '../models/sync-state.js'
import type { User } from '../models/user.js'
import type { Statements } from './database.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** A row of `users` with the part of its `sync_state` that every reader sees. */
export interface CustomerRow {
  user: User
  sync: SyncSummary
}

/** The columns that the REST API writes. */
export type CustomerValues = Pick<
  User,
  'type' | 'email' | 'phone' | 'firstName' | 'lastName' | 'description' | 'locale' | 'address' | 'shipping' | 'metadata'
>

/** What a REST write may change; absent keys stay. */
export type CustomerChanges = Partial<CustomerValues & Pick<User, 'state' | 'archivedAt' | 'billing'>>

// `users` and `sync_state` have no foreign key between them, so Prisma has no relation to include.
const SELECT = Prisma.sql`
  select u.id, u.tenant_id as "tenantId", u.type, u.state, u.email, u.phone, u.first_name as "firstName",
    u.last_name as "lastName", u.description, u.locale, u.address, u.shipping, u.metadata, u.billing,
    u.stripe_customer_id as "stripeCustomerId", u.revision, u.field_times as "fieldTimes",
    u.archived_at as "archivedAt", u.created_at as "createdAt", u.updated_at as "updatedAt",
    coalesce(s.status, 'pending') as "syncStatus", coalesce(s.dirty, true) as "syncDirty",
    s.synced_at as "syncedAt", s.last_error as "lastError"`
const FROM = Prisma.sql`from users u left join sync_state s on s.user_id = u.id`

type Row = User & {
  syncStatus: SyncStatus
  syncDirty: boolean
  syncedAt: Date | null
  lastError: SyncSummary['lastError']
}

const FIND = Prisma.sql`${SELECT} ${FROM} where u.tenant_id = ${''}::uuid and u.id = ${''}::uuid`.text

/** As {@link findCustomer}, by a statement that is planned once for each connection: what most requests ask. */
export async function readCustomer(db: Statements, tenantId: string, id: string): Promise<CustomerRow | null> {
  const rows = await db.query<Row>(FIND, [tenantId, id], 'read-customer')
  return rows[0] === undefined ? null : customerOf(rows[0])
}

/** The tenant's customer, or null. */
export async function findCustomer(prisma: PrismaDb, tenantId: string, id: string): Promise<CustomerRow | null> {
  const rows = await prisma.$queryRaw<Row[]>`
    ${SELECT} ${FROM} where u.tenant_id = ${tenantId}::uuid and u.id = ${id}::uuid`
  return rows[0] === undefined ? null : customerOf(rows[0])
}

/** The tenant's customers of these ids, in this order; an id that has gone since is left out. */
export async function findCustomers(
  prisma: PrismaDb,
  tenantId: string,
  ids: readonly string[],
): Promise<CustomerRow[]> {
  if (ids.length === 0) return []
  const rows = await prisma.$queryRaw<Row[]>`
    ${SELECT} ${FROM} where u.tenant_id = ${tenantId}::uuid and u.id = any(${ids}::uuid[])`
  const byId = new Map(rows.map((row) => [row.id, customerOf(row)]))
  return ids.flatMap((id) => byId.get(id) ?? [])
}

/** Adds a customer; the change trigger adds its sync state. */
export async function insertCustomer(
  db: Statements,
  tenantId: string,
  id: string,
  values: CustomerValues,
): Promise<CustomerRow> {
  const { address, shipping, metadata, ...rest } = values
  await db.query(
    `insert into users (id, tenant_id, type, email, phone, first_name, last_name, description, locale, address, shipping, metadata)
     values ($1::uuid, $2::uuid, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11::jsonb, $12::jsonb)`,
    [
      id,
      tenantId,
      rest.type,
      rest.email,
      rest.phone,
      rest.firstName,
      rest.lastName,
      rest.description,
      rest.locale,
      ...[address, shipping, metadata].map((value) => (value === null ? null : JSON.stringify(value))),
    ],
    'insert-customer',
  )
  return written(await readCustomer(db, tenantId, id))
}

/** The row of a customer without personal data, where there is none any more; one that is there stays as it is. */
export async function insertErasedCustomer(
  db: Statements,
  tenantId: string,
  id: string,
  stripeCustomerId: string | null,
): Promise<CustomerRow> {
  await db.query(
    `insert into users (id, tenant_id, state, archived_at, stripe_customer_id)
     values ($1::uuid, $2::uuid, 'erased', lockstep_now(), $3) on conflict (id) do nothing`,
    [id, tenantId, stripeCustomerId],
  )
  return written(await readCustomer(db, tenantId, id))
}

/** Adds customers, all at once; the change trigger adds their sync states. */
export async function insertCustomers(
  tx: PrismaDb,
  tenantId: string,
  customers: readonly { id: string; values: CustomerValues }[],
): Promise<void> {
  if (customers.length === 0) return
  const rows = JSON.stringify(customers.map(({ id, values }) => ({ id, ...values })))
  await tx.$executeRaw`
    insert into users (id, tenant_id, type, email, phone, first_name, last_name, description, locale, address, shipping, metadata)
    select r.id, ${tenantId}::uuid, r.type, r.email, r.phone, r."firstName", r."lastName", r.description, r.locale, r.address,
      r.shipping, r.metadata
    from jsonb_to_recordset(${rows}::jsonb) as r(id uuid, type text, email text, phone text, "firstName" text, "lastName" text,
      description text, locale text, address jsonb, shipping jsonb, metadata jsonb)`
}

/**
 * Of these ids, those that are taken: by a customer of the tenant (`isOwn`), or in some other way that keeps it from being used.
 */
export async function findTakenIds(
  tx: PrismaDb,
  tenantId: string,
  ids: readonly string[],
): Promise<{ id: string; isOwn: boolean }[]> {
  return tx.$queryRaw<{ id: string; isOwn: boolean }[]>`
    select u.id, u.tenant_id = ${tenantId}::uuid as "isOwn" from users u where u.id = any(${[...ids]}::uuid[])
    union all
    select s.user_id, false from sync_state s
    where s.user_id = any(${[...ids]}::uuid[]) and s.tenant_id <> ${tenantId}::uuid
      and not exists (select from users u where u.id = s.user_id)`
}

/** The active customers that have one of these e-mails (in any case) or phones; of each at most two, since two are too many. */
export async function findByContacts(
  tx: PrismaDb,
  tenantId: string,
  emails: readonly string[],
  phones: readonly string[],
): Promise<{ contact: string; id: string }[]> {
  return tx.$queryRaw<{ contact: string; id: string }[]>`
    select given.contact, found.id from unnest(${[...emails]}::text[]) as given(contact) cross join lateral (
      select u.id from users u where u.tenant_id = ${tenantId}::uuid and lower(u.email) = lower(given.contact) and u.state = 'active'
      order by u.id limit 2
    ) as found
    union all
    select given.contact, found.id from unnest(${[...phones]}::text[]) as given(contact) cross join lateral (
      select u.id from users u where u.tenant_id = ${tenantId}::uuid and u.phone = given.contact and u.state = 'active'
      order by u.id limit 2
    ) as found`
}

/** The metadata keys that most customers of the tenant have, most first. */
export async function findMetadataKeys(prisma: PrismaDb, tenantId: string, limit: number): Promise<string[]> {
  const rows = await prisma.$queryRaw<{ key: string }[]>`
    select k.key from users u cross join lateral jsonb_object_keys(u.metadata) as k(key)
    where u.tenant_id = ${tenantId}::uuid and u.state <> 'erased'
    group by k.key order by count(*) desc, k.key limit ${limit}`
  return rows.map(({ key }) => key)
}

/**
 * Changes the row if it still is at `revision`; answers it as it is then, or null when someone was faster. The change
 * trigger counts the revision up and marks the user dirty.
 */
export async function updateCustomer(
  tx: PrismaDb,
  tenantId: string,
  id: string,
  revision: number,
  changes: CustomerChanges,
): Promise<CustomerRow | null> {
  const { count } = await tx.user.updateMany({ where: { id, tenantId, revision }, data: columns(changes) })
  return count === 1 ? written(await findCustomer(tx, tenantId, id)) : null
}

function written(row: CustomerRow | null): CustomerRow {
  if (row === null) throw new Error('A row is gone within the transaction that wrote it.')
  return row
}

/** Prisma tells "no JSON" from JSON's null; these columns hold SQL's null. */
function columns<V extends CustomerChanges>(values: V) {
  const { address, shipping, billing, metadata, ...rest } = values
  return {
    ...rest,
    ...(metadata === undefined ? {} : { metadata }),
    ...(address === undefined ? {} : { address: orDbNull(address) }),
    ...(shipping === undefined ? {} : { shipping: orDbNull(shipping) }),
    ...(billing === undefined ? {} : { billing: orDbNull(billing) }),
  }
}

function orDbNull(value: object | null): Prisma.InputJsonObject | typeof Prisma.DbNull {
  return value === null ? Prisma.DbNull : (value as Prisma.InputJsonObject)
}

function customerOf(row: Row): CustomerRow {
  const { syncStatus, syncDirty, syncedAt, lastError, ...user } = row
  return { user, sync: { status: syncStatus, dirty: syncDirty, syncedAt, lastError } }
}
