import { ConflictError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { findLiveLink } from '../repositories/stripe-links.js'
import { findState } from '../repositories/sync-states.js'
import type { SyncResult } from '../services/stripe-customer.service.js'
import type { Reconcile } from './reconcile.js'

/** How long someone else may be at the user before the caller is told to come again, in milliseconds. */
const PATIENCE_MS = 10_000

/**
 * Reconciles a user of the tenant for a caller that waits for it. Null when the tenant has no such user.
 *
 * @throws {ConflictError} `sync_busy` while another worker is at it; the failure of the reconcile when it did not get through.
 */
export async function syncNow(
  db: Db,
  reconcile: Reconcile,
  tenant: Tenant,
  userId: string,
): Promise<SyncResult | null> {
  if (!isId(userId) || (await findState(db, tenant.id, userId)) === null) return null
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    const result = await reconcile(userId)
    switch (result.outcome) {
      case 'settled':
        return { status: result.status, stripeCustomerId: await findLiveLink(db, tenant.id, userId) }
      case 'forgotten':
        return null
      case 'retry':
      case 'failed':
        throw result.error
      case 'paused':
        throw new ConflictError('Stripe refuses the key of this account; see GET /health.', 'lane_paused')
      case 'busy':
        if (Date.now() > deadline) throw new ConflictError('Another worker is at this user; try again.', 'sync_busy')
        await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}
