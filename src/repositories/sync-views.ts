import type { StripeWrite, SyncState } from '../models/sync-state.js'
import type { Tenant } from '../models/tenant.js'
import type { User } from '../models/user.js'
import type { Db } from './database.js'
import { LeaseLostError } from './errors.js'
import { findUnsettledWrites } from './stripe-writes.js'
import { type Lease, STATE_COLUMNS, type StateRow, stateOf } from './sync-states.js'
import { TENANT_COLUMNS, tenantOf } from './tenants.js'
import { USER_COLUMNS } from './users.js'
import type { Vault } from './vault.js'

/** One reading of all that Postgres holds about a user and its Stripe customer. */
export interface UserView {
  tenant: Tenant
  state: SyncState
  /** Null when another program deleted the row. */
  user: User | null
  /** The user's live Stripe customer. */
  stripeCustomerId: string | null
  /** Own writes whose answer never came in, of a user that has a Stripe customer. */
  unsettled: StripeWrite[]
  /** Milliseconds since the Unix epoch. */
  now: number
}

/** A view as it was read for a reconcile. */
export interface LoadedView extends UserView {
  /** Only reconciles make some. */
  hasOpenConflicts: boolean
}

/** What is read beside the rows. */
interface Beside {
  stripeCustomerId: string | null
  hasUnsettled: boolean
  hasOpenConflicts: boolean
  now: number
}

/** The rows that are read, each under names of its own. */
interface Rows {
  state: StateRow
  tenant: Parameters<typeof tenantOf>[0]
  user: User | { id: null }
}

// All in one: a reconcile reads this before each step, and a statement costs more than what it reads.
const LOAD_VIEW = `select ${named('state', STATE_COLUMNS)}, ${named('tenant', TENANT_COLUMNS)}, ${named('user', USER_COLUMNS)},
    (select l.stripe_customer_id from stripe_links l where l.tenant_id = s.tenant_id and l.user_id = s.user_id
       and l.unlinked_at is null and l.deleted_at is null) as "stripeCustomerId",
    exists (select from stripe_writes w where w.user_id = s.user_id and w.settled_at is null) as "hasUnsettled",
    exists (select from sync_conflicts c where c.user_id = s.user_id and c.status = 'open') as "hasOpenConflicts",
    (extract(epoch from lockstep_now()) * 1000)::float8 as now
  from sync_state s join tenants t on t.id = s.tenant_id
    left join users u on u.tenant_id = s.tenant_id and u.id = s.user_id
  where s.tenant_id = $1 and s.user_id = $2`

/**
 * Reads what a reconcile decides by, as of one moment: a row that changes after it is then newer than the revision that will be
 * called settled, and stays dirty, never the other way round. Null when the state is gone.
 */
export async function loadView(db: Db, vault: Vault, lease: Lease): Promise<LoadedView | null> {
  const { tenantId, userId } = lease
  const [row] = await db.query<Beside & Record<string, unknown>>(LOAD_VIEW, [tenantId, userId], 'load-view')
  if (row === undefined) return null
  const rows = rowsIn(row)
  const state = stateOf(rows.state)
  if (state.leaseToken !== lease.token) throw new LeaseLostError(`user ${userId}`)
  const { stripeCustomerId, hasUnsettled, hasOpenConflicts, now } = row
  // Before there is a Stripe customer nothing is decided by them.
  const mustRead = hasUnsettled && stripeCustomerId !== null
  return {
    tenant: tenantOf(rows.tenant),
    state,
    user: rows.user.id === null ? null : rows.user,
    stripeCustomerId,
    unsettled: mustRead ? await findUnsettledWrites(db, vault, tenantId, userId) : [],
    hasOpenConflicts,
    now,
  }
}

/** Columns such as `t.id, t.swept_at as "sweptAt"` under the names `tenant.id` and `tenant.sweptAt`. */
function named(row: keyof Rows, columns: string): string {
  return columns
    .split(',')
    .map((column) => {
      const [source = '', name] = column.trim().split(' as ')
      return `${source} as "${row}.${name?.replaceAll('"', '') ?? source.slice(source.indexOf('.') + 1)}"`
    })
    .join(', ')
}

/** The rows again, of the columns that {@link named} named. */
function rowsIn(read: Record<string, unknown>): Rows {
  const rows: Record<string, Record<string, unknown>> = {}
  for (const [name, value] of Object.entries(read)) {
    const [row = '', column] = name.split('.')
    if (column === undefined) continue
    rows[row] ??= {}
    rows[row][column] = value
  }
  return rows as unknown as Rows
}
