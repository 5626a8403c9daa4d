import type { StripeWrite, SyncState } from '../models/sync-state.js'
import type { Tenant } from '../models/tenant.js'
import type { User } from '../models/user.js'
import type { Db } from './database.js'
import { LeaseLostError } from './errors.js'
import { findLiveLink } from './stripe-links.js'
import { findUnsettledWrites } from './stripe-writes.js'
import { findState, type Lease } from './sync-states.js'
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
  const state = await findState(db, tenantId, userId)
  const tenant = await findTenant(db, tenantId)
  if (state === null || tenant === null) return null
  if (state.leaseToken !== lease.token) throw new LeaseLostError(`user ${userId}`)
  const stripeCustomerId = await findLiveLink(db, tenantId, userId)
  const user = await findUser(db, tenantId, userId)
  const unsettled = await findUnsettledWrites(db, vault, tenantId, userId)
  const [clock] = await db.query<{ now: number }>('select (extract(epoch from lockstep_now()) * 1000)::float8 as now')
  return { tenant, state, user, stripeCustomerId, unsettled, now: clock?.now ?? Date.now() }
}
