import { DEFAULT_SETTINGS, DEFAULT_TENANT, type Tenant, type TenantSettings } from '../models/tenant.js'
import type { Db } from './database.js'

/** The columns of a {@link Tenant}, under its names. */
export const TENANT_COLUMNS = `
  t.id, t.slug, t.livemode, t.stripe_account as "stripeAccount", t.stripe_secret_key as "stripeSecretKey",
  t.stripe_webhook_secrets as "stripeWebhookSecrets", t.stripe_key_account as "stripeKeyAccount", t.settings, t.events_read_through as "eventsReadThrough",
  t.swept_at as "sweptAt", t.lane_paused_at as "lanePausedAt", t.lane_paused_reason as "lanePausedReason",
  t.lane_retry_at as "laneRetryAt"`

/** Whether a tenant `t` has a Stripe account, as `isConnected` of the model tells of a row. */
export const IS_CONNECTED = `(t.slug = 'default' or t.stripe_account is not null or t.stripe_secret_key is not null)`

type Row = Omit<Tenant, 'settings'> & { settings: Partial<TenantSettings> }

/** A row as the model has it: settings that are not stored take their defaults. */
export function tenantOf(row: Row): Tenant {
  return { ...row, settings: { ...DEFAULT_SETTINGS, ...row.settings } }
}

export async function findTenant(db: Db, tenantId: string): Promise<Tenant | null> {
  const rows = await db.query<Row>(`select ${TENANT_COLUMNS} from tenants t where t.id = $1`, [tenantId])
  return rows[0] === undefined ? null : tenantOf(rows[0])
}

/** The tenants with these ids, by id; the default tenant for null. */
export async function findAddressees(
  db: Db,
  tenantIds: readonly (string | null)[],
): Promise<Map<string | null, Tenant>> {
  const rows = await db.query<Row>(
    `select ${TENANT_COLUMNS} from tenants t where t.id = any($1::uuid[]) or ($2 and t.slug = '${DEFAULT_TENANT}')`,
    [tenantIds.filter((id) => id !== null), tenantIds.includes(null)],
  )
  return new Map(
    rows.map(tenantOf).flatMap((tenant) => {
      const byId: [string | null, Tenant] = [tenant.id, tenant]
      return tenant.slug === DEFAULT_TENANT ? [byId, [null, tenant]] : [byId]
    }),
  )
}

/** The id of the tenant with this id or slug; null when there is none. */
export async function findTenantId(db: Db, name: string): Promise<string | null> {
  const rows = await db.query<{ id: string }>('select id from tenants where id::text = lower($1) or slug = $1', [name])
  return rows[0]?.id ?? null
}

/** The tenant that requests without any other hint belong to. Its row comes with the first migration. */
export async function findDefaultTenant(db: Db): Promise<Tenant> {
  const rows = await db.query<Row>(`select ${TENANT_COLUMNS} from tenants t where t.slug = 'default'`)
  if (rows[0] === undefined) throw new Error('The table `tenants` has no default tenant; run `npx lockstep migrate`.')
  return tenantOf(rows[0])
}

export async function findTenantByStripeAccount(db: Db, stripeAccount: string): Promise<Tenant | null> {
  const rows = await db.query<Row>(`select ${TENANT_COLUMNS} from tenants t where t.stripe_account = $1`, [
    stripeAccount,
  ])
  return rows[0] === undefined ? null : tenantOf(rows[0])
}

/** Every tenant, with a Stripe account or without; they are few. */
export async function listTenants(db: Db): Promise<Tenant[]> {
  const rows = await db.query<Row>(`select ${TENANT_COLUMNS} from tenants t order by t.id`)
  return rows.map(tenantOf)
}

/** Every tenant that has a Stripe account; they are few. */
export async function listConnectedTenants(db: Db): Promise<Tenant[]> {
  const rows = await db.query<Row>(`select ${TENANT_COLUMNS} from tenants t where ${IS_CONNECTED} order by t.id`)
  return rows.map(tenantOf)
}

/** How many tenants there are with a Stripe account, and of how many Stripe refuses the key. */
export async function laneFigures(db: Db): Promise<{ connected: number; refused: number }> {
  const [row] = await db.query<{ connected: number; refused: number }>(
    `select count(*)::int as connected, (count(*) filter (where t.lane_paused_at is not null))::int as refused
     from tenants t where ${IS_CONNECTED}`,
  )
  return row ?? { connected: 0, refused: 0 }
}

/** The mode that the platform's key works in: for whoever has no other key, objects of the other mode are refused from then on. */
export async function setPlatformLivemode(db: Db, livemode: boolean): Promise<void> {
  await db.query(
    'update tenants set livemode = $1, updated_at = lockstep_now() where stripe_secret_key is null and livemode <> $1',
    [livemode],
  )
}

/** Notes how far catch-up has read; never backwards. */
export async function advanceEventsReadThrough(db: Db, tenantId: string, through: Date): Promise<void> {
  await db.query(
    `update tenants set events_read_through = greatest(events_read_through, $2), updated_at = lockstep_now() where id = $1`,
    [tenantId, through],
  )
}

/** Notes that a sweep which began at `startedAt` has seen every Stripe customer. */
export async function markSwept(db: Db, tenantId: string, startedAt: Date): Promise<void> {
  await db.query('update tenants set swept_at = greatest(swept_at, $2), updated_at = lockstep_now() where id = $1', [
    tenantId,
    startedAt,
  ])
}

/** Stripe refused the tenant's key: nobody calls until `retryAfterMs` have passed. */
export async function pauseLane(db: Db, tenantId: string, reason: string, retryAfterMs: number): Promise<void> {
  await db.query(
    `update tenants set lane_paused_at = coalesce(lane_paused_at, lockstep_now()), lane_paused_reason = $2,
       lane_retry_at = lockstep_now() + $3 * interval '1 millisecond', updated_at = lockstep_now()
     where id = $1`,
    [tenantId, reason, retryAfterMs],
  )
}

/** Takes the right to try a paused lane once: only one caller gets it until the next retry time. */
export async function takeLaneProbe(db: Db, tenantId: string, retryAfterMs: number): Promise<boolean> {
  const rows = await db.query(
    `update tenants set lane_retry_at = lockstep_now() + $2 * interval '1 millisecond'
     where id = $1 and lane_paused_at is not null and lane_retry_at <= lockstep_now() returning id`,
    [tenantId, retryAfterMs],
  )
  return rows.length === 1
}

/** Stripe takes the key again. */
export async function resumeLane(db: Db, tenantId: string): Promise<void> {
  await db.query(
    `update tenants set lane_paused_at = null, lane_paused_reason = null, lane_retry_at = null, updated_at = lockstep_now()
     where id = $1 and lane_paused_at is not null`,
    [tenantId],
  )
}
