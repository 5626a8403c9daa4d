import { ConflictError, NotFoundError } from '../lib/errors.js'
import { newId } from '../lib/ids.js'
import type { CustomerMerge, NotMoved } from '../models/customer-merge.js'
import type { SyncState } from '../models/sync-state.js'
import type { RemoteState } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import { MERGED_INTO, type User } from '../models/user.js'
import { moveAttendees } from '../repositories/attendees.js'
import type { Actor } from '../repositories/audit-log.js'
import { moveConsents } from '../repositories/consents.js'
import { insertMerge } from '../repositories/customer-merges.js'
import { actAs } from '../repositories/customer-state-changes.js'
import type { Db } from '../repositories/database.js'
import { closeDuplicateAsMerged } from '../repositories/duplicate-customers.js'
import { findLink, findLiveLink, insertLink, moveLink, unlink } from '../repositories/stripe-links.js'
import { closeConflictsOfUser } from '../repositories/sync-conflicts.js'
import { lockState, saveMeeting, saveParting } from '../repositories/sync-states.js'
import { clearStripeCustomerId, lockUser, setStripeCustomerId, updateUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { auditCustomer } from '../services/customer-audit.js'
import { FACT_PREFIX, localFacts, localFields, METADATA_KEY_LIMIT } from './fields.js'
import { differenceOf, planMerge } from './merge-plan.js'
import { localChanges } from './update.js'

/** How many metadata keys a customer may have beside our facts. */
const OWN_KEYS =
  METADATA_KEY_LIMIT - Object.keys(localFacts({ id: '', tenantId: '', type: 'regular', state: 'active' })).length

/** Who is to be one with whom. */
export interface MergeRequest {
  survivorId: string
  /** Null: the loser is a Stripe customer that no one here has. */
  loserId: string | null
  /** The survivor's Stripe customer, and the other one, as they were when this was asked for. */
  own: string | null
  other: string | null
  /** What the other Stripe customer holds, where no one here has it. */
  stranger: { remote: RemoteState; asOf: Date; created: Date } | null
  /** Whose Stripe customer and values stay. */
  keep: 'own' | 'other'
  /** What the losing Stripe customer is seen to keep. */
  notMoved: NotMoved[]
  deleteLoser: boolean
  duplicateId: string | null
}

/**
 * The local part of a merge, all or nothing: values, orders, consents, the link, the loser's archiving, and the record from which
 * the rest is done in Stripe. Must run in a transaction, under the leases of both.
 *
 * @throws {NotFoundError} for a customer that is gone.
 * @throws {ConflictError} `customer_archived`, `customer_erased`, `sync_busy` when either has changed since it was looked at.
 */
export async function mergeHere(
  db: Db,
  vault: Vault,
  tenant: Tenant,
  request: MergeRequest,
  by: Actor,
): Promise<CustomerMerge> {
  const { survivorId, loserId, keep } = request
  const { survivor, loser } = await hold(db, tenant, request)
  const foreign = tenant.settings.foreignMetadataPrefixes
  const ownFields = localFields(survivor.user, foreign)
  const otherFields = loser === null ? request.stranger?.remote.fields : localFields(loser.user, foreign)
  if (otherFields === undefined) throw movedOn()
  const isOwn = keep === 'own'
  const plan = planMerge(isOwn ? ownFields : otherFields, isOwn ? otherFields : ownFields, OWN_KEYS)
  const kept = isOwn ? (request.own ?? request.other) : (request.other ?? request.own)
  const lost = [request.own, request.other].find((id) => id !== null && id !== kept) ?? null

  await actAs(db, by.actor, `merged into ${survivorId}`)
  const moved = { orders: 0, consents: 0 }
  if (loser !== null && loserId !== null) {
    moved.orders = await moveAttendees(db, vault, tenant.id, loserId, survivorId)
    moved.consents = await moveConsents(db, tenant.id, loserId, survivorId)
    await closeConflictsOfUser(db, tenant.id, loserId, 'merge')
  }
  await relink(db, tenant, request, { kept, lost, loserState: loser?.state ?? null })
  if (loser !== null && loserId !== null) {
    const metadata = { ...loser.user.metadata, [MERGED_INTO]: survivorId }
    const archiving = loser.user.state === 'active' ? ({ state: 'archived' } as const) : {}
    await updateUser(db, tenant.id, loserId, null, { ...archiving, metadata })
  }
  const changes = localChanges(survivor.user, differenceOf(ownFields, plan.fields))
  await updateUser(db, tenant.id, survivorId, null, changes)
  if (request.other !== null)
    await closeDuplicateAsMerged(db, tenant.id, [request.other, ...(lost === null ? [] : [lost])])

  const merge = await insertMerge(db, {
    id: newId(),
    tenantId: tenant.id,
    survivorId,
    loserId,
    survivorStripeCustomerId: kept,
    loserStripeCustomerId: lost,
    duplicateId: request.duplicateId,
    deleteLoser: request.deleteLoser,
    filled: plan.filled,
    conflicts: plan.conflicts,
    notMoved: [...request.notMoved, ...plan.notMoved],
    moved,
    actor: by.actor,
  })
  await audit(db, vault, by, merge, { survivor: survivor.user, loser: loser?.user ?? null })
  return merge
}

interface Held {
  user: User
  state: SyncState
}

/** Locks both, in one order for all, and sees to it that they are still as they were when the merge was worked out. */
async function hold(
  db: Db,
  tenant: Tenant,
  { survivorId, loserId, own, other }: MergeRequest,
): Promise<{ survivor: Held; loser: Held | null }> {
  const held = new Map<string, Held>()
  const ids = [survivorId, ...(loserId === null ? [] : [loserId])].sort()
  for (const id of ids) {
    const user = await lockUser(db, tenant.id, id)
    if (user === null) throw new NotFoundError('customer', id)
    const state = await lockState(db, tenant.id, id)
    if (state === null || state.createIntent !== null) throw movedOn()
    held.set(id, { user, state })
  }
  const survivor = held.get(survivorId)
  const loser = loserId === null ? null : held.get(loserId)
  if (survivor === undefined || loser === undefined) throw movedOn()
  mustBeMergeable(survivor.user, ['active'])
  if (loser !== null) mustBeMergeable(loser.user, ['active', 'archived'])
  if ((await findLiveLink(db, tenant.id, survivorId)) !== own) throw movedOn()
  if (loserId !== null && (await findLiveLink(db, tenant.id, loserId)) !== other) throw movedOn()
  if (loserId === null && other !== null && (await findLink(db, tenant.id, other)) !== null) throw movedOn()
  return { survivor, loser }
}

/** Gives the survivor the Stripe customer that stays, and parts with the other for good: it is never adopted, imported or listed. */
async function relink(
  db: Db,
  tenant: Tenant,
  { survivorId, loserId, own, other, stranger }: MergeRequest,
  { kept, lost, loserState }: { kept: string | null; lost: string | null; loserState: SyncState | null },
): Promise<void> {
  if (stranger !== null && other !== null) {
    const link = { tenantId: tenant.id, stripeCustomerId: other, userId: survivorId, how: 'attached' as const }
    // A user has one live link, so its own goes first; and a link that is lost is never live.
    if (own !== null && own === lost) await unlink(db, tenant.id, own)
    if (!(await insertLink(db, { ...link, stripeCreated: stranger.created }, { isLive: other === kept })))
      throw movedOn()
  } else if (lost !== null) {
    await unlink(db, tenant.id, lost)
  }
  if (kept !== null && kept !== own) {
    if (own !== null) await clearStripeCustomerId(db, tenant.id, survivorId, own)
    if (loserId !== null) {
      // The link is moved first: to the trigger on `users` the loser then gives up nothing.
      await moveLink(db, tenant.id, kept, survivorId)
      await clearStripeCustomerId(db, tenant.id, loserId, kept)
    }
    await setStripeCustomerId(db, tenant.id, survivorId, kept)
    const seen = stranger ?? (loserState === null ? null : { remote: loserState.remote, asOf: loserState.remoteAsOf })
    // What is still under way between the loser and its Stripe customer would be lost on the way over.
    if (seen === null || seen.remote === null || loserState?.dirty === true) throw movedOn()
    // What Stripe holds counts as agreed: then what differs here was changed here, and goes there.
    const { remote, asOf } = seen
    await saveMeeting(db, tenant.id, survivorId, { remote, asOf, base: remote.fields, needsFetch: true })
  }
  if (loserId !== null && other !== null) {
    await clearStripeCustomerId(db, tenant.id, loserId, other)
    await saveParting(db, tenant.id, loserId, 'pending')
  }
}

function mustBeMergeable(user: User, states: readonly User['state'][]): void {
  const into = user.metadata[MERGED_INTO]
  if (into !== undefined)
    throw new ConflictError(`Customer ${user.id} was merged into ${into} before.`, 'customer_merged')
  if (states.includes(user.state)) return
  throw new ConflictError(
    `Customer ${user.id} is ${user.state}${user.state === 'archived' ? '; restore it first' : ''}.`,
    `customer_${user.state}`,
  )
}

/** What became of both, with the values that were filled in, sealed for each; of what was not taken over only the fields' names. */
async function audit(
  db: Db,
  vault: Vault,
  by: Actor,
  merge: CustomerMerge,
  before: { survivor: User; loser: User | null },
): Promise<void> {
  const { id, survivorId, loserId, survivorStripeCustomerId, loserStripeCustomerId, filled, conflicts, moved } = merge
  const about = { mergeId: id, survivorStripeCustomerId, loserStripeCustomerId }
  const after = async (userId: string) => {
    const user = await lockUser(db, by.tenantId, userId)
    if (user === null) throw new NotFoundError('customer', userId)
    return user
  }
  await auditCustomer(db, vault, by, 'customer.merge', before.survivor, await after(survivorId), {
    ...about,
    from: loserId,
    filled,
    conflicts: conflicts.map(({ field }) => field),
    moved,
  })
  if (loserId === null || before.loser === null) return
  await auditCustomer(db, vault, by, 'customer.merge', before.loser, await after(loserId), {
    ...about,
    into: survivorId,
  })
}

function movedOn(): ConflictError {
  return new ConflictError('One of them is being changed; nothing was merged. Try again in a moment.', 'sync_busy')
}

/** What the losing Stripe customer is marked with. */
export function markOf({ survivorId, survivorStripeCustomerId }: CustomerMerge): Record<string, string> {
  return { [MERGED_INTO]: survivorStripeCustomerId ?? survivorId, [`${FACT_PREFIX}state`]: 'merged' }
}
