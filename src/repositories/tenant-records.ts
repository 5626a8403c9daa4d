import type { Tenant, TenantSettings } from '../models/tenant.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import type { Statements } from './database.js'
import { TENANT_COLUMNS, tenantOf } from './tenants.js'

/** The order of the list of tenants, as its cursors name it. */
export const TENANT_ORDER = '-createdAt'

/** A tenant as those who manage it see it. */
export interface TenantRecord extends Tenant {
  name: string
  /** What was set; all else has its default. */
  storedSettings: Partial<TenantSettings>
  stripeKeySetAt: Date | null
  createdAt: Date
  updatedAt: Date
}

const COLUMNS = `${TENANT_COLUMNS}, t.name, t.settings as "storedSettings", t.stripe_key_set_at as "stripeKeySetAt",
  t.created_at as "createdAt", t.updated_at as "updatedAt"`

type Row = Omit<TenantRecord, 'settings'> & { settings: Partial<TenantSettings> }

const recordOf = (row: Row): TenantRecord => ({ ...row, ...tenantOf(row) })

/** The tenant, or null. */
export async function findTenantRecord(db: Statements, id: string): Promise<TenantRecord | null> {
  const rows = await db.query<Row>(`select ${COLUMNS} from tenants t where t.id = $1::uuid`, [id])
  return rows[0] === undefined ? null : recordOf(rows[0])
}

/** The tenant, held until the transaction ends, so that nobody else changes it meanwhile. */
export async function lockTenantRecord(tx: Statements, id: string): Promise<TenantRecord | null> {
  const rows = await tx.query<Row>(`select ${COLUMNS} from tenants t where t.id = $1::uuid for update`, [id])
  return rows[0] === undefined ? null : recordOf(rows[0])
}

/** A page of all tenants, newest first. */
export async function listTenantRecords(
  db: Statements,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<TenantRecord>> {
  const rows = await db.query<Row & { cursorValue: string }>(
    `select ${COLUMNS}, to_char(t.created_at at time zone 'UTC', '${CURSOR_TIME_FORMAT}') as "cursorValue"
     from tenants t where $1::text is null or (t.created_at, t.id) < ($1::timestamptz, $2::uuid)
     order by t.created_at desc, t.id desc limit $3::int`,
    [after?.value ?? null, after?.id ?? null, limit + 1],
  )
  const page = pageOf(rows, limit, TENANT_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => recordOf(row)) }
}

/** Adds a tenant. Throws `DatabaseError` with `isUniqueViolation` when the slug is taken. */
export async function insertTenant(
  tx: Statements,
  tenant: { id: string; slug: string; name: string; livemode: boolean },
): Promise<void> {
  await tx.query('insert into tenants (id, slug, name, livemode) values ($1::uuid, $2, $3, $4::boolean)', [
    tenant.id,
    tenant.slug,
    tenant.name,
    tenant.livemode,
  ])
}

/** Gives the tenant another name. */
export async function renameTenant(tx: Statements, id: string, name: string): Promise<void> {
  await tx.query('update tenants set name = $2, updated_at = lockstep_now() where id = $1::uuid', [id, name])
}

/** Puts these settings in place of the stored ones. */
export async function saveSettings(tx: Statements, id: string, settings: Partial<TenantSettings>): Promise<void> {
  await tx.query('update tenants set settings = $2::jsonb, updated_at = lockstep_now() where id = $1::uuid', [
    id,
    JSON.stringify(settings),
  ])
}

/** Which Stripe account the tenant has, and how it is reached. */
export interface StripeConnection {
  sealedKey: string | null
  connectAccount: string | null
  keyAccount: string | null
  livemode: boolean
  /** Whether the key is another one than before. */
  isNewKey: boolean
}

/**
 * Stores how the tenant's account is reached, and lets its calls begin again. Throws `DatabaseError` with `isUniqueViolation`
 * when another tenant has that account.
 */
export async function saveStripeConnection(tx: Statements, id: string, connection: StripeConnection): Promise<void> {
  const { sealedKey, connectAccount, keyAccount, livemode, isNewKey } = connection
  await tx.query(
    `update tenants set stripe_secret_key = $2, stripe_account = $3, stripe_key_account = $4, livemode = $5::boolean,
       stripe_key_set_at = case when $2::text is null then null when $6::boolean then lockstep_now() else stripe_key_set_at end,
       lane_paused_at = null, lane_paused_reason = null, lane_retry_at = null, updated_at = lockstep_now()
     where id = $1::uuid`,
    [id, sealedKey, connectAccount, keyAccount, livemode, isNewKey],
  )
}

/** Puts these sealed webhook secrets in place of the stored ones. */
export async function saveWebhookSecrets(tx: Statements, id: string, sealed: readonly string[]): Promise<void> {
  await tx.query(
    `update tenants set stripe_webhook_secrets = array(select jsonb_array_elements_text($2::jsonb)),
       updated_at = lockstep_now() where id = $1::uuid`,
    [id, JSON.stringify(sealed)],
  )
}

/** Stripe customers of the tenant, newest link first, by which an account can be known again. */
export async function findSomeCustomers(db: Statements, tenantId: string, limit: number): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `select stripe_customer_id as id from stripe_links
     where tenant_id = $1::uuid and unlinked_at is null and deleted_at is null order by linked_at desc limit $2::int`,
    [tenantId, limit],
  )
  return rows.map(({ id }) => id)
}

/** Whether one of these Stripe customers is linked to a user of another tenant. */
export async function areOthersCustomers(db: Statements, tenantId: string, customerIds: string[]): Promise<boolean> {
  const rows = await db.query(
    `select 1 from users where tenant_id <> $1::uuid
       and stripe_customer_id in (select jsonb_array_elements_text($2::jsonb)) limit 1`,
    [tenantId, JSON.stringify(customerIds)],
  )
  return rows.length > 0
}

/** Whether another tenant's customers are in this account and mode. */
export async function isAccountTaken(
  db: Statements,
  tenantId: string,
  account: string,
  livemode: boolean,
): Promise<boolean> {
  const rows = await db.query(
    `select 1 from tenants where id <> $1::uuid and coalesce(stripe_account, stripe_key_account) = $2 and livemode = $3::boolean`,
    [tenantId, account, livemode],
  )
  return rows.length > 0
}
