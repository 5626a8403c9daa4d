import { ConflictError, NotFoundError, ValidationError } from '../lib/errors.js'
import { type Actor, recordAudit } from '../repositories/audit-log.js'
import type { Db } from '../repositories/database.js'
import { type DuplicateRow, lockDuplicate, saveDuplicateStatus } from '../repositories/duplicate-customers.js'
import { findLink } from '../repositories/stripe-links.js'
import { findState, markDirty } from '../repositories/sync-states.js'
import { findTenant } from '../repositories/tenants.js'
import { NO_FIELDS } from './fields.js'
import { type JoinOutcome, join } from './join.js'

/** What an operator says of a Stripe customer that looks like someone. */
export type DuplicateDecision =
  /** It is this customer's: the two sides are brought together. Without an id: the one that it looks like, if it is one. */
  | { action: 'link'; customerId?: string | undefined }
  /** It is nobody's: it stays as it is in Stripe, and is not asked about again. */
  | { action: 'ignore' }

/**
 * Carries out the decision and marks those dirty who waited for it. Must run in a transaction.
 *
 * @throws {NotFoundError} when the tenant has no such duplicate, or no such customer.
 * @throws {ConflictError} `duplicate_already_resolved`; `customer_has_another` when the customer has a live Stripe customer, or the
 *   Stripe customer another customer; `stripe_customer_gone` when it was deleted or given up.
 * @throws {ValidationError} when nobody is named to link it with.
 */
export async function resolveDuplicate(
  db: Db,
  tenantId: string,
  id: string,
  decision: DuplicateDecision,
  by: Actor,
): Promise<DuplicateRow> {
  const duplicate = await lockDuplicate(db, tenantId, id)
  if (duplicate === null) throw new NotFoundError('duplicate', id)
  if (duplicate.status !== 'open') {
    throw new ConflictError(`It was decided already: '${duplicate.status}'.`, 'duplicate_already_resolved')
  }
  const linkedTo = decision.action === 'link' ? await link(db, tenantId, duplicate, decision.customerId, by) : null
  const status = decision.action === 'link' ? 'linked' : 'ignored'
  await saveDuplicateStatus(db, tenantId, id, status)
  for (const userId of new Set([linkedTo, duplicate.userId, ...duplicate.candidates])) {
    if (userId !== null) await markDirty(db, tenantId, userId)
  }
  await recordAudit(db, by, {
    action: 'duplicate.resolve',
    entity: 'duplicate',
    entityId: id,
    changes: { stripeCustomerId: duplicate.stripeCustomerId, status, customerId: linkedTo },
  })
  return { ...duplicate, status, userId: linkedTo ?? duplicate.userId }
}

async function link(
  db: Db,
  tenantId: string,
  { id, stripeCustomerId, userId, candidates }: DuplicateRow,
  customerId: string | undefined,
  by: Actor,
): Promise<string> {
  // Whoever was made of it looks like it anyway. Of several, the one for whom it was found is no more likely than the others.
  const madeOfIt = (await findLink(db, tenantId, stripeCustomerId))?.userId ?? null
  const meant = [...new Set([userId, ...candidates])].filter((id): id is string => id !== null && id !== madeOfIt)
  const chosen = customerId ?? (meant.length === 1 ? meant[0] : undefined)
  if (chosen === undefined) {
    const message = `is needed, since several could be meant: ${meant.join(', ')}`
    throw new ValidationError([{ path: 'customerId', code: 'required', message }])
  }
  const tenant = await findTenant(db, tenantId)
  if (tenant === null || (await findState(db, tenantId, chosen)) === null) throw new NotFoundError('customer', chosen)
  const outcome = await join(db, tenant, chosen, stripeCustomerId, {
    how: 'attached',
    base: NO_FIELDS,
    remote: null,
    asOf: null,
    needsFetch: true,
    stripeCreated: null,
    cause: `duplicate:${id}`,
    by,
  })
  refuseUnlessJoined(outcome, stripeCustomerId, madeOfIt)
  return chosen
}

function refuseUnlessJoined(outcome: JoinOutcome, stripeCustomerId: string, owner: string | null): void {
  if (outcome === 'taken') {
    const why =
      owner === null
        ? 'The customer has another live Stripe customer: merge the two instead'
        : `${stripeCustomerId} is the Stripe customer of customer ${owner}: merge the two instead`
    throw new ConflictError(`${why}. Nothing was changed.`, 'customer_has_another')
  }
  if (outcome === 'dead') {
    throw new ConflictError(`${stripeCustomerId} was deleted in Stripe, or given up before.`, 'stripe_customer_gone')
  }
}
