import { isId, newId } from '../lib/ids.js'
import type { FieldPatch, RemoteState } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import { lockContacts, namesOfContacts } from '../repositories/contact-locks.js'
import { actAs } from '../repositories/customer-state-changes.js'
import type { Db } from '../repositories/database.js'
import { findJudged } from '../repositories/duplicate-customers.js'
import { lookUpByKeys } from '../repositories/plain-edits.js'
import { insertLinks } from '../repositories/stripe-links.js'
import { findStates, insertMetStates } from '../repositories/sync-states.js'
import { findLookalikes, insertImportedUsers } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { contactsOf } from './contacts.js'
import { explain, recordDeeds, sealDeedFields } from './deeds.js'
import { fieldValue, NO_FIELDS, patchEntries, pathsOf } from './fields.js'
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
 * Makes users of those of the strangers that are plainly new, in a fixed number of statements, as `adopt` would one by one. All others
 * are left as they are, for `adopt` to judge: whom a user, or another of them, resembles in e-mail, phone or our id. Answers the
 * Stripe customers that it imported. Must run in a transaction of its own.
 */
export async function importNewcomers(
  db: Db,
  vault: Vault,
  tenant: Tenant,
  strangers: readonly Stranger[],
): Promise<ReadonlySet<string>> {
  const apart = tenant.settings.onRemoteCreate === 'import' ? standingApart(tenant, strangers) : []
  if (apart.length === 0) return new Set()
  await lockContacts(
    db,
    tenant.id,
    apart.flatMap(({ remote }) => namesOfContacts(contactsOf(tenant, remote.fields))),
  )
  await lookUpByKeys(db)
  const newcomers = await withoutKnown(db, tenant, apart)
  return new Set((await importUsers(db, vault, tenant, newcomers)).keys())
}

/** The strangers that share neither e-mail, phone nor our id with another one. */
function standingApart(tenant: Tenant, strangers: readonly Stranger[]): Stranger[] {
  const counts = new Map<string, number>()
  const namesOf = (stranger: Stranger) => {
    const userId = namedUserId(tenant, stranger)
    return [
      ...namesOfContacts(contactsOf(tenant, stranger.remote.fields)),
      ...(userId === null ? [] : [`id/${userId}`]),
    ]
  }
  for (const name of strangers.flatMap(namesOf)) counts.set(name, (counts.get(name) ?? 0) + 1)
  return strangers.filter(
    (stranger) =>
      stranger.idempotencyKey === null &&
      isPlainText(stranger.remote.fields.email ?? '') &&
      namesOf(stranger).every((name) => counts.get(name) === 1),
  )
}

/** Whether a text has the same lower case everywhere: of other letters only Postgres says which are the same to it. */
function isPlainText(text: string): boolean {
  return Buffer.byteLength(text) === text.length
}

/** The strangers that are nobody's we know, and of whom nobody said that they are to stay so, or is asked whose they are. */
async function withoutKnown(db: Db, tenant: Tenant, strangers: readonly Stranger[]): Promise<Stranger[]> {
  const ids = strangers.map(({ stripeCustomerId }) => stripeCustomerId)
  const { ignored, asked } = await findJudged(db, tenant.id, ids)
  const judged = new Set([...ignored, ...asked])
  const named = strangers.flatMap((stranger) => namedUserId(tenant, stranger) ?? [])
  const states = named.length === 0 ? new Map() : await findStates(db, tenant.id, named)
  const people = strangers.map(({ remote }) => contactsOf(tenant, remote.fields))
  const lookalikes = await findLookalikes(db, tenant.id, people)
  const taken = new Set(lookalikes.map(({ by, value }) => `${by}/${value}`))
  return strangers.filter((stranger, index) => {
    const { email, phones } = people[index] ?? { email: null, phones: [] }
    return (
      !judged.has(stranger.stripeCustomerId) &&
      !states.has(namedUserId(tenant, stranger) ?? '') &&
      !taken.has(`email/${email}`) &&
      !phones.some((phone) => taken.has(`phone/${phone}`))
    )
  })
}

/** The user of ours that the metadata names, whether or not there is one. Metadata is anyone's to edit: what is no id of ours names nobody. */
export function namedUserId(tenant: Tenant, { remote: { facts } }: Stranger): string | null {
  const { lockstep_user_id: userId, lockstep_tenant_id: tenantId } = facts
  return userId !== undefined && isId(userId) && tenantId === tenant.id ? userId : null
}

/**
 * Makes a user of each of the strangers. Answers the users by their Stripe customers, without those that have a link by now: another
 * was first; what it did stands. Must run in a transaction that holds the strangers' contacts.
 */
export async function importUsers(
  db: Db,
  vault: Vault,
  tenant: Tenant,
  strangers: readonly Stranger[],
): Promise<Map<string, string>> {
  if (strangers.length === 0) return new Map()
  const links = strangers.map((stranger) => ({ ...stranger, userId: newId() }))
  const isOurs = await insertLinks(db, tenant.id, 'imported', links)
  const imports = links
    .filter(({ stripeCustomerId }) => isOurs.has(stripeCustomerId))
    .map((link) => ({ ...link, everything: everythingOf(link) }))
  if (imports.length === 0) return new Map()
  await actAs(db, 'stripe', 'imported')
  const nobody = { firstName: null, lastName: null, metadata: {} }
  await insertImportedUsers(
    db,
    tenant.id,
    imports.map(({ userId, stripeCustomerId, remote, everything }) => ({
      id: userId,
      stripeCustomerId,
      values: { ...localChanges(nobody, everything), billing: remote.billing },
    })),
  )
  await insertMetStates(
    db,
    tenant.id,
    imports.map(({ userId, remote, asOf, needsFetch }) => ({ userId, remote, asOf, needsFetch, base: remote.fields })),
  )
  const seals = await vault.create(
    db,
    tenant.id,
    imports.map(({ userId }) => userId),
  )
  await recordDeeds(
    db,
    tenant.id,
    imports.map(({ userId, stripeCustomerId, everything, asOf, cause }) => {
      const present = Object.fromEntries(patchEntries(everything).filter(([, value]) => value !== null))
      const timeOf = () => asOf.toISOString()
      const fields = {
        ...explain(present, { winner: 'stripe', held: NO_FIELDS, base: null, conflicts: [], timeOf }),
        stripeCustomerId: { from: null, to: stripeCustomerId, why: 'linked', how: 'imported' },
      }
      return {
        userId,
        action: 'sync.import',
        changes: { ...sealDeedFields(seals, userId, fields), revision: 1 },
        cause,
      }
    }),
  )
  return new Map(imports.map(({ stripeCustomerId, userId }) => [stripeCustomerId, userId]))
}

function everythingOf({ remote: { fields } }: Stranger): FieldPatch {
  return Object.fromEntries(pathsOf(fields).map((path) => [path, fieldValue(fields, path)]))
}
