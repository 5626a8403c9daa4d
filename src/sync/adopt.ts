import type { FieldPatch, SyncedFields } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import { lockContacts, namesOfContacts } from '../repositories/contact-locks.js'
import type { Db } from '../repositories/database.js'
import { closeDuplicate, findJudged, recordDuplicate } from '../repositories/duplicate-customers.js'
import { breaksUsersRule } from '../repositories/errors.js'
import { findLiveLink } from '../repositories/stripe-links.js'
import { findWrite, settleWrite } from '../repositories/stripe-writes.js'
import { findState } from '../repositories/sync-states.js'
import { findLookalikes, findTwins, type Lookalike, lockLinkCandidates } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { contactsOf } from './contacts.js'
import { NO_FIELDS, withPatch } from './fields.js'
import { importUsers, namedUserId, type Stranger } from './import-users.js'
import { join, partFromDeleted } from './join.js'

/**
 * What came of a stranger. `imported_lookalike`: imported, and reported because another user looks the same. `awaited`: nothing
 * yet, since it names or looks like a user whose create has no answer: it may be what that made, a copy of it, or another's.
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
 * that someone said is nobody's stays so. Where more than one fits, or did when it was reported, nobody guesses: it is for
 * someone to review. Must run in a transaction.
 */
export async function adopt(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  const judged = await findJudged(db, tenant.id, [stranger.stripeCustomerId])
  if (judged.ignored.length > 0) return 'not_imported'
  const named = await namedUser(db, vault, tenant, stranger)
  if (named === 'awaited') return named
  if (named !== null) return joinNamed(db, tenant, stranger, named)
  await lockContacts(db, tenant.id, namesOfContacts(contactsOf(tenant, stranger.remote.fields)))
  for (const by of ['email', 'phone'] as const) {
    const candidates = await candidatesBy(db, tenant, stranger, by)
    if (candidates === 'awaited') return candidates
    if (isUnclear(candidates, judged.asked)) {
      return report(db, tenant, stranger, { userId: null, reason: 'ambiguous', matchedBy: by, candidates })
    }
    const [userId] = candidates
    if (userId !== undefined) {
      const outcome = await join(db, tenant, userId, stranger.stripeCustomerId, meeting(stranger, by, NO_FIELDS))
      if (outcome === 'joined') return linked(db, tenant, stranger)
    }
  }
  if (tenant.settings.onRemoteCreate === 'import') return importUser(db, vault, tenant, stranger)
  const lookalike = await lookalikeToReport(db, tenant, stranger)
  return lookalike === null ? 'not_imported' : reportLookalike(db, tenant, stranger, lookalike, [])
}

/** The tenant as if it imported nobody: what is left of {@link adopt} where a rule of the application's refuses the new user. */
export function withoutImports(tenant: Tenant): Tenant {
  return { ...tenant, settings: { ...tenant.settings, onRemoteCreate: 'link-only' } }
}

/**
 * {@link adopt} in a transaction of its own. Where a rule that the application has put on `users` refuses the new user, one that looks like
 * somebody is reported for review instead.
 *
 * @throws {DatabaseError} `users_constraint` when it looks like nobody
 */
export async function adoptAlone(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  try {
    return await db.transaction((tx) => adopt(tx, vault, tenant, stranger))
  } catch (error) {
    if (!breaksUsersRule(error)) throw error
    const adoption = await db.transaction((tx) => adopt(tx, vault, withoutImports(tenant), stranger))
    if (adoption === 'not_imported') throw error
    return adoption
  }
}

/** The users without a Stripe customer that have the stranger's e-mail or phone, held until the transaction ends. */
async function candidatesBy(
  db: Db,
  tenant: Tenant,
  { remote }: Stranger,
  by: 'email' | 'phone',
): Promise<string[] | 'awaited'> {
  const { email, phones } = contactsOf(tenant, remote.fields)
  if (by === 'email' ? email === null : phones.length === 0) return []
  const candidates = await lockLinkCandidates(db, tenant.id, by === 'email' && email !== null ? { email } : { phones })
  // Once it has its own, it is no candidate. Until then, that it is left out would make another the only one.
  return candidates.some(({ isCreating }) => isCreating) ? 'awaited' : candidates.map(({ id }) => id)
}

/** Once it is asked, that only one is left is no answer: the customer may be that of one who has another by now. */
function isUnclear(candidates: readonly string[], asked: readonly string[]): boolean {
  return candidates.length > 1 || (candidates.length === 1 && asked.length > 0)
}

interface Named {
  userId: string
  /** What our create said, when it was a create of ours. */
  sent: SyncedFields | null
  key: string | null
}

/** The user whose create made the customer, or whom its metadata names, when there is (still) such a user here. */
async function namedUser(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Named | 'awaited' | null> {
  const write = stranger.idempotencyKey === null ? null : await findWrite(db, vault, tenant.id, stranger.idempotencyKey)
  if (write?.kind === 'create') {
    const sent = withPatch(NO_FIELDS, write.sent as FieldPatch)
    return { userId: write.userId, sent, key: write.idempotencyKey }
  }
  const userId = namedUserId(tenant, stranger)
  if (userId === null) return null
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
  const lookalike = await findLookalike(db, tenant, stranger)
  const userId = (await importUsers(db, vault, tenant, [stranger])).get(stranger.stripeCustomerId)
  // Another drain was first, and a later event finds the link.
  if (userId === undefined) return 'linked'
  if (lookalike === null) {
    // It may have been asked of users who are not there any more.
    await closeDuplicate(db, tenant.id, stranger.stripeCustomerId)
    return 'imported'
  }
  await reportLookalike(db, tenant, stranger, lookalike, [userId])
  return 'imported_lookalike'
}

/** A user with a Stripe customer of its own that has the stranger's e-mail, else its phone. */
async function findLookalike(db: Db, tenant: Tenant, { remote }: Stranger): Promise<Lookalike | null> {
  const lookalikes = await findLookalikes(db, tenant.id, [contactsOf(tenant, remote.fields)])
  return lookalikes.find(({ hasStripeCustomer }) => hasStripeCustomer) ?? null
}

/** Where strangers stay in Stripe, one that looks like somebody is for someone to judge; unless the tenant ignores them all. */
async function lookalikeToReport(db: Db, tenant: Tenant, stranger: Stranger): Promise<Lookalike | null> {
  return tenant.settings.onRemoteCreate === 'ignore' ? null : findLookalike(db, tenant, stranger)
}

/** All who have the value are shown: that one was met first makes it no likelier. */
async function reportLookalike(
  db: Db,
  tenant: Tenant,
  stranger: Stranger,
  { userId, by, value }: Lookalike,
  imported: string[],
): Promise<Adoption> {
  const others = (await findTwins(db, tenant.id, by, value)).filter((id) => id !== userId && !imported.includes(id))
  return report(db, tenant, stranger, { userId, reason: by, matchedBy: by, candidates: [...others, ...imported] })
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

/** What {@link adopt} would come to; for reports that change nothing. Must run in a transaction. */
export async function wouldAdopt(db: Db, vault: Vault, tenant: Tenant, stranger: Stranger): Promise<Adoption> {
  const judged = await findJudged(db, tenant.id, [stranger.stripeCustomerId])
  if (judged.ignored.length > 0) return 'not_imported'
  const named = await namedUser(db, vault, tenant, stranger)
  if (named === 'awaited') return named
  if (named !== null) return (await findLiveLink(db, tenant.id, named.userId)) === null ? 'linked' : 'duplicate'
  for (const by of ['email', 'phone'] as const) {
    const candidates = await candidatesBy(db, tenant, stranger, by)
    if (candidates === 'awaited') return candidates
    if (isUnclear(candidates, judged.asked)) return 'ambiguous'
    if (candidates.length === 1) return 'linked'
  }
  const lookalike = await lookalikeToReport(db, tenant, stranger)
  if (tenant.settings.onRemoteCreate !== 'import') return lookalike === null ? 'not_imported' : 'duplicate'
  return lookalike === null ? 'imported' : 'imported_lookalike'
}
