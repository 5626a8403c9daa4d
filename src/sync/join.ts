import { sameJson } from '../lib/json.js'
import type { FieldPatch, RemoteState, SyncedFields } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import { type Actor, sealFields } from '../repositories/audit-log.js'
import { actAs } from '../repositories/customer-state-changes.js'
import type { Db } from '../repositories/database.js'
import { LeaseLostError } from '../repositories/errors.js'
import {
  buryLink,
  findLinkBetween,
  findLiveLink,
  insertLink,
  type LinkHow,
  unlink,
} from '../repositories/stripe-links.js'
import { type Lease, lockState, saveMeeting, saveParting } from '../repositories/sync-states.js'
import { clearStripeCustomerId, lockUser, setStripeCustomerId, updateUser } from '../repositories/users.js'
import type { PersonSeal } from '../repositories/vault.js'
import { agreedPhone } from './contacts.js'
import { type Deed, explainBilling, recordDeed, recordDeeds } from './deeds.js'
import { fieldValue, localFields, pathsOf, withPatch } from './fields.js'

/** What came of joining a user and a Stripe customer. */
export type JoinOutcome =
  | 'joined'
  /** They belong together already. */
  | 'known'
  /** The id was deleted in Stripe, or given up: it never comes back. */
  | 'dead'
  /** The customer is another user's, or the user has another live customer. */
  | 'taken'

/**
 * Makes the Stripe customer the user's: link, `users.stripe_customer_id` and a first base, all or nothing. Must run in a
 * transaction. Locks the user before its sync state, as everything does.
 *
 * @param meeting.base what both sides are taken to have agreed on: what we sent, or nothing at all. What they hold alike as they
 *   meet is added: where `remote` is out of date, a later change there is then seen as one.
 * @param meeting.remote the customer as of `asOf`; null when that is still to be read
 */
export async function join(
  db: Db,
  tenant: Tenant,
  userId: string,
  stripeCustomerId: string,
  meeting: {
    how: LinkHow
    base: SyncedFields
    remote: RemoteState | null
    asOf: Date | null
    needsFetch: boolean
    stripeCreated: Date | null
    /** What led to it, for the audit log: an event, a run, an operator's decision. */
    cause?: string | null
    /** Who decided it, when it was not the sync. */
    by?: Actor
    /** Must still be held; absent where the sync state's lock is all that is needed. */
    lease?: Lease
    /** The person's, where `remote` is certain to be current: what Stripe alone decides is then taken over at once. */
    seal?: PersonSeal
  },
): Promise<JoinOutcome> {
  const foreign = tenant.settings.foreignMetadataPrefixes
  const { how, stripeCreated, base, cause = null, by, lease, seal, ...met } = meeting
  const user = await lockUser(db, tenant.id, userId)
  const state = await lockState(db, tenant.id, userId)
  if (lease !== undefined && state?.leaseToken !== lease.token) throw new LeaseLostError(`user ${userId}`)
  const { link, hasOther } = await findLinkBetween(db, tenant.id, stripeCustomerId, userId)
  if (link !== null) {
    if (link.deletedAt !== null || link.unlinkedAt !== null) return 'dead'
    return link.userId === userId ? 'known' : 'taken'
  }
  if (hasOther) return 'taken'
  const isOurs = await insertLink(db, { tenantId: tenant.id, stripeCustomerId, userId, how, stripeCreated })
  if (!isOurs) return 'taken'
  const deeds: (Deed & { userId: string })[] = []
  if (user !== null) {
    // Of someone who was erased meanwhile nothing is kept any more.
    const current = seal === undefined || user.state === 'erased' ? null : (met.remote?.billing ?? null)
    const billing = sameJson(current, user.billing) ? null : current
    await setStripeCustomerId(db, tenant.id, userId, stripeCustomerId, billing)
    if (seal !== undefined && billing !== null) {
      const changes = { fields: sealFields(seal, explainBilling(user, billing)), revision: user.revision }
      deeds.push({ userId, action: 'sync.apply', changes })
    }
  }
  const agreed =
    user === null || met.remote === null ? {} : agreement(tenant, localFields(user, foreign), met.remote.fields)
  await saveMeeting(db, tenant.id, userId, { ...met, base: withPatch(base, agreed) })
  const fields = { stripeCustomerId: { from: null, to: stripeCustomerId, why: 'linked', how } }
  await recordDeeds(db, tenant.id, [{ userId, action: 'sync.link', changes: { fields }, cause }, ...deeds], by)
  return 'joined'
}

/** The fields that two sides hold alike, and a phone that is the same number. */
function agreement(tenant: Tenant, local: SyncedFields, remote: SyncedFields): FieldPatch {
  const alike = pathsOf(local, remote).filter((path) => sameJson(fieldValue(local, path), fieldValue(remote, path)))
  const phone = agreedPhone(tenant, local.phone, remote.phone)
  return {
    ...Object.fromEntries(alike.map((path) => [path, fieldValue(local, path)])),
    ...(phone === null ? {} : { phone }),
  }
}

/** About the end of a Stripe customer. */
export interface PartOptions {
  isRedacted?: boolean | undefined
  /** What told of it, for the audit log. */
  cause?: string | null | undefined
}

/**
 * The Stripe customer was deleted in Stripe: its id is remembered for ever, and the user stays without one, is archived
 * or is to get a new one, as the tenant has it. One that was redacted never gets a new one by itself, which would bring back
 * there what was to be forgotten. Must run in a transaction. Answers false, changing nothing, when the customer is another user's by now.
 */
export async function partFromDeleted(
  db: Db,
  tenant: Tenant,
  userId: string,
  stripeCustomerId: string,
  { isRedacted = false, cause = null }: PartOptions = {},
): Promise<boolean> {
  const user = await lockUser(db, tenant.id, userId)
  await lockState(db, tenant.id, userId)
  const live = await findLiveLink(db, tenant.id, userId)
  if (!(await buryLink(db, tenant.id, stripeCustomerId, userId))) return false
  // The user has another customer by now, and keeps it.
  if (live !== null && live !== stripeCustomerId) return true
  await clearStripeCustomerId(db, tenant.id, userId, stripeCustomerId)
  const { onRemoteDelete } = tenant.settings
  const isActive = user?.state === 'active'
  await saveParting(
    db,
    tenant.id,
    userId,
    isActive && (isRedacted || onRemoteDelete !== 'recreate') ? 'detached' : 'pending',
  )
  const isArchived = isActive && onRemoteDelete === 'archive'
  if (isArchived) await actAs(db, 'stripe', 'its Stripe customer was deleted')
  const revision = isArchived ? await updateUser(db, tenant.id, userId, null, { state: 'archived' }) : null
  // The answer to our own delete and its event both come here; what was parted is not parted again.
  if (live === null && !isArchived) return true
  const isErasure = user?.state === 'erased'
  await recordDeed(db, tenant.id, userId, {
    action: isErasure ? 'sync.erase' : 'sync.detach',
    changes: {
      fields: {
        stripeCustomerId: { from: stripeCustomerId, to: null, why: isErasure ? 'erased' : 'deleted_in_stripe' },
        ...(isArchived ? { state: { from: 'active', to: 'archived', why: 'deleted_in_stripe' } } : {}),
      },
      ...(isArchived ? { revision } : {}),
    },
    cause,
  })
  return true
}

/** The user's row is gone and Stripe knows: the two part, the id is not taken up again. Must run in a transaction. */
export async function partFromForgotten(db: Db, tenant: Tenant, stripeCustomerId: string): Promise<void> {
  await unlink(db, tenant.id, stripeCustomerId)
}
