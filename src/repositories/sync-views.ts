import type { StripeWrite, SyncState } from '../models/sync-state.js'
import type { Tenant } from '../models/tenant.js'
import type { User } from '../models/user.js'
import type { Db } from './database.js'
import { LeaseLostError } from './errors.js'
import { findUnsettledWrites } from './stripe-writes.js'
import { type Lease, STATE_COLUMNS, type StateRow, stateOf } from './sync-states.js'
import { findTenant } from './tenants.js'
import { findUser } from './users.js'
import type { Vault } from './vault.js'

/** One reading of all that Postgres holds about a user and its Stripe customer. */
export interface UserView {
  tenant: Tenant
  state: SyncState
  /** Null when another program deleted the row. */
  user: User | null
  /** The user's live Stripe customer. */
  stripeCustomerId: string | null
  /** Own writes whose answer never came in. */
  unsettled: StripeWrite[]
  /** Milliseconds since the Unix epoch. */
  now: number
}

/**
 * Reads what a reconcile decides by. The state is read first: a row that changes in between is then newer than the
 * revision that will be called settled, and stays dirty, never the other way round. Null when the state is gone.
 */
export async function loadView(db: Db, vault: Vault, lease: Lease): Promise<UserView | null> {
  const { tenantId, userId } = lease
  // What is small comes along: a reconcile reads all of this before each step, and a statement costs more than what it reads.
  const [row] = await db.query<StateRow & { stripeCustomerId: string | null; hasUnsettled: boolean; now: number }>(
    `select ${STATE_COLUMNS},
       (select l.stripe_customer_id from stripe_links l where l.tenant_id = s.tenant_id and l.user_id = s.user_id
          and l.unlinked_at is null and l.deleted_at is null) as "stripeCustomerId",
       exists (select from stripe_writes w where w.user_id = s.user_id and w.settled_at is null) as "hasUnsettled",
       (extract(epoch from lockstep_now()) * 1000)::float8 as now
     from sync_state s where s.tenant_id = $1 and s.user_id = $2`,
    [tenantId, userId],
  )
  const tenant = await findTenant(db, tenantId)
  if (row === undefined || tenant === null) return null
  const { stripeCustomerId, hasUnsettled, now, ...read } = row
  const state = stateOf(read)
  if (state.leaseToken !== lease.token) throw new LeaseLostError(`user ${userId}`)
  const user = await findUser(db, tenantId, userId)
  const unsettled = hasUnsettled ? await findUnsettledWrites(db, vault, tenantId, userId) : []
  return { tenant, state, user, stripeCustomerId, unsettled, now }
}
