import { isId, newId } from '../lib/ids.js'
import type { FieldPatch, RemoteState, SyncedFields } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import { actAs } from '../repositories/customer-state-changes.js'
import type { Db } from '../repositories/database.js'
import { closeDuplicate, findIgnored, recordDuplicate } from '../repositories/duplicate-customers.js'
import { findLiveLink, insertLink } from '../repositories/stripe-links.js'
import { findWrite, settleWrite } from '../repositories/stripe-writes.js'
import { findState, saveMeeting } from '../repositories/sync-states.js'
import { findLinkedLookalike, insertImportedUser, lockLinkCandidates } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { explain, recordDeed, sealedFields } from './deeds.js'
import { fieldValue, NO_FIELDS, patchEntries, pathsOf, withPatch } from './fields.js'
import { join, partFromDeleted } from './join.js'
import { localChanges } from './update.js'

/** A Stripe customer that no link names. */
export interface Stranger {
  stripeCustomerId: string
  remote: RemoteState
  /** When Stripe's snapshot of it was made. */
  asOf: Date
  stripeCreated: Date | null
  /** Whether the snapshot may be out of date by now: then the customer is read before anything is merged. */
  needsFetch: boolean
  /** The key of the request that made it, if known. */
  idempotencyKey: string | null
  /** What brought it here, for the audit log: an event, or a run. */
  cause: string
}

/**
 * What came of a stranger. `imported_lookalike`: imported, and reported because another user looks the same. `awaited`: nothing
 * yet, since it names a user whose create has no answer: it may be what that made, or a copy of it.
 */
export type Adoption =
  | 'awaited'
  | 'linked'
  | 'imported'
  | 'imported_lookalike'
  | 'duplicate'
  | 'ambiguous'
  | 'not_imported'
  | 'dead_customer'

/**
 * Finds the user that a Stripe customer belongs to: the create of ours that made it; the user that its metadata names;
 * the one user without a customer that has its e-mail, then its phone; else it becomes a new user, if the tenant imports. One
 * that someone said is nobody's stays so. Where more than one fits, nobody guesses: it is reported for review. Must run in a transaction.
 */
export async function adopt(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  if ((await findIgnored(db, tenant.id, [stranger.stripeCustomerId])).size > 0) return 'not_imported'
  const named = await namedUser(db, vault, tenant, stranger)
  if (named === 'awaited') return named
  if (named !== null) return joinNamed(db, tenant, stranger, named)
  for (const by of ['email', 'phone'] as const) {
    const value = stranger.remote.fields[by]
    if (value === null) continue
    const candidates = await lockLinkCandidates(db, tenant.id, by, value)
    if (candidates.length > 1) {
      return report(db, tenant, stranger, { userId: null, reason: 'ambiguous', matchedBy: by, candidates })
    }
    const [userId] = candidates
    if (userId !== undefined) {
      const outcome = await join(db, tenant, userId, stranger.stripeCustomerId, meeting(stranger, by, NO_FIELDS))
      if (outcome === 'joined') return linked(db, tenant, stranger)
    }
  }
  return tenant.settings.onRemoteCreate === 'import' ? importUser(db, vault, tenant, stranger) : 'not_imported'
}

interface Named {
  userId: string
  /** What our create said, when it was a create of ours. */
  sent: SyncedFields | null
  key: string | null
}

/** The user whose create made the customer, or whom its metadata names, when there is (still) such a user here. */
async function namedUser(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Named | 'awaited' | null> {
  const { facts } = stranger.remote
  const write = stranger.idempotencyKey === null ? null : await findWrite(db, vault, tenant.id, stranger.idempotencyKey)
  if (write?.kind === 'create') {
    const sent = withPatch(NO_FIELDS, write.sent as FieldPatch)
    return { userId: write.userId, sent, key: write.idempotencyKey }
  }
  const userId = facts.lockstep_user_id
  // Metadata is anyone's to edit: what is no id of ours names nobody.
  if (userId === undefined || !isId(userId) || facts.lockstep_tenant_id !== tenant.id) return null
  // A user whose row was just deleted still has a state: the customer is that one's to part from, not a new user.
  const state = await findState(db, tenant.id, userId)
  if (state === null) return null
  return state.createIntent === null ? { userId, sent: null, key: null } : 'awaited'
}

async function joinNamed(db: Db, tenant: Tenant, stranger: Stranger, named: Named): Promise<Adoption> {
  const how = named.sent === null ? 'lockstep_id' : 'created'
  const met = meeting(stranger, how, named.sent ?? NO_FIELDS)
  const outcome = await join(db, tenant, named.userId, stranger.stripeCustomerId, met)
  if (outcome === 'taken') {
    const { userId } = named
    return report(db, tenant, stranger, { userId, reason: 'lockstep_id', matchedBy: 'lockstep_id', candidates: [] })
  }
  if (outcome === 'dead') {
    await partFromDeleted(db, tenant, named.userId, stranger.stripeCustomerId, { cause: stranger.cause })
    return 'dead_customer'
  }
  if (named.key !== null) await settleWrite(db, tenant.id, named.key, 'answered', stranger.stripeCustomerId)
  return linked(db, tenant, stranger)
}

async function linked(db: Db, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  await closeDuplicate(db, tenant.id, stranger.stripeCustomerId)
  return 'linked'
}

/** Makes a user of the customer; if another user looks like it, that is reported as well, for someone to judge. */
async function importUser(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  const { stripeCustomerId, remote, asOf, needsFetch, stripeCreated, cause } = stranger
  const userId = newId()
  const isOurs = await insertLink(db, { tenantId: tenant.id, stripeCustomerId, userId, how: 'imported', stripeCreated })
  // Another drain was first; what it did stands, and a later event finds the link.
  if (!isOurs) return 'linked'
  const lookalike = await findLookalike(db, tenant, remote)
  const everything = Object.fromEntries(
    pathsOf(remote.fields).map((path) => [path, fieldValue(remote.fields, path)]),
  ) as FieldPatch
  await actAs(db, 'stripe', 'imported')
  const nobody = { firstName: null, lastName: null, metadata: {} }
  await insertImportedUser(db, tenant.id, userId, stripeCustomerId, {
    ...localChanges(nobody, everything),
    billing: remote.billing,
  })
  await saveMeeting(db, tenant.id, userId, { remote, asOf, base: remote.fields, needsFetch })
  const present = Object.fromEntries(patchEntries(everything).filter(([, value]) => value !== null))
  const timeOf = () => asOf.toISOString()
  const fields = {
    ...explain(present, { winner: 'stripe', held: NO_FIELDS, base: null, conflicts: [], timeOf }),
    stripeCustomerId: { from: null, to: stripeCustomerId, why: 'linked', how: 'imported' },
  }
  await recordDeed(db, tenant.id, userId, {
    action: 'sync.import',
    changes: { ...(await sealedFields(db, vault, tenant.id, userId, fields)), revision: 1 },
    cause,
  })
  if (lookalike === null) return 'imported'
  await report(db, tenant, stranger, {
    userId: lookalike.userId,
    reason: lookalike.by,
    matchedBy: lookalike.by,
    candidates: [userId],
  })
  return 'imported_lookalike'
}

async function findLookalike(
  db: Db,
  tenant: Tenant,
  remote: RemoteState,
): Promise<{ userId: string; by: 'email' | 'phone' } | null> {
  for (const by of ['email', 'phone'] as const) {
    const value = remote.fields[by]
    const userId = value === null ? null : await findLinkedLookalike(db, tenant.id, by, value)
    if (userId !== null) return { userId, by }
  }
  return null
}

async function report(
  db: Db,
  tenant: Tenant,
  stranger: Stranger,
  about: Pick<Parameters<typeof recordDuplicate>[1], 'userId' | 'reason' | 'matchedBy' | 'candidates'>,
): Promise<Adoption> {
  await recordDuplicate(db, { tenantId: tenant.id, stripeCustomerId: stranger.stripeCustomerId, ...about })
  return about.reason === 'ambiguous' ? 'ambiguous' : 'duplicate'
}

function meeting(stranger: Stranger, how: 'created' | 'lockstep_id' | 'email' | 'phone', base: SyncedFields) {
  const { remote, asOf, needsFetch, stripeCreated, cause } = stranger
  return { how, base, remote, asOf, needsFetch, stripeCreated, cause }
}

/** Whether the user named has a live customer already; for reports that change nothing. */
export async function wouldAdopt(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  const named = await namedUser(db, vault, tenant, stranger)
  if (named === 'awaited') return named
  if (named !== null) return (await findLiveLink(db, tenant.id, named.userId)) === null ? 'linked' : 'duplicate'
  for (const by of ['email', 'phone'] as const) {
    const value = stranger.remote.fields[by]
    const candidates = value === null ? [] : await lockLinkCandidates(db, tenant.id, by, value)
    if (candidates.length > 1) return 'ambiguous'
    if (candidates.length === 1) return 'linked'
  }
  if (tenant.settings.onRemoteCreate !== 'import') return 'not_imported'
  return (await findLookalike(db, tenant, stranger.remote)) === null ? 'imported' : 'imported_lookalike'
}
