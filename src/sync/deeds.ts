import { v5 } from 'uuid'
import type { FieldChanges } from '../models/audit.js'
import type { Billing, FieldPatch, SyncedFields } from '../models/synced-fields.js'
import type { User } from '../models/user.js'
import { type Actor, type AuditRecord, recordAudit, sealFields, syncActor } from '../repositories/audit-log.js'
import type { Db } from '../repositories/database.js'
import type { PendingEvent } from '../repositories/stripe-events.js'
import type { PersonSeal, Vault } from '../repositories/vault.js'
import { fieldValue, NO_FIELDS, patchEntries } from './fields.js'
import type { FieldConflict } from './merge.js'

/** Namespace of the ids of the entries about edits in Stripe (UUIDv5): an event that is settled again is recorded once. */
const EDIT_IDS = '3f5f7c1e-8a43-5b0f-9c57-0d4b8a1f6e21'

/** What was done about one customer, for its audit entry. */
export interface Deed extends Omit<AuditRecord, 'action' | 'entity' | 'entityId'> {
  action:
    | 'stripe.update'
    | 'sync.apply'
    | 'sync.push'
    | 'sync.overwrite'
    | 'sync.import'
    | 'sync.link'
    | 'sync.detach'
    | 'sync.erase'
    | 'sync.forget'
    | 'conflict.resolve'
}

/** Writes the entry, in the transaction of what was done. */
export async function recordDeed(tx: Db, tenantId: string, userId: string, deed: Deed, by?: Actor): Promise<void> {
  await recordAudit(tx, by ?? actorOf(tenantId, deed), { ...deed, entity: 'customer', entityId: userId })
}

/** Writes several entries of one actor in one statement, each about the customer that it names. */
export async function recordDeeds(
  tx: Db,
  tenantId: string,
  deeds: readonly (Deed & { userId: string })[],
  by?: Actor,
): Promise<void> {
  const [first] = deeds
  if (first === undefined) return
  await recordAudit(
    tx,
    by ?? actorOf(tenantId, first),
    ...deeds.map(({ userId, ...deed }) => ({ ...deed, entity: 'customer', entityId: userId })),
  )
}

function actorOf(tenantId: string, { action }: Deed): Actor {
  return syncActor(tenantId, action === 'stripe.update' ? 'stripe' : 'sync')
}

/** What someone changed in Stripe, as the event tells it; recorded once, however often the event is settled. */
export function editDeed(
  event: PendingEvent,
  userId: string,
  sealed: { fields: FieldChanges },
): Deed & { userId: string } {
  return {
    userId,
    id: v5(`${event.tenantId}/${event.id}`, EDIT_IDS),
    action: 'stripe.update',
    changes: {
      ...sealed,
      editedAt: event.created.toISOString(),
      stripeRequestId: event.payload.request?.id ?? null,
    },
    cause: event.id,
  }
}

/** `fields` of a {@link Deed}, sealed with the customer's own of these seals. */
export function sealDeedFields(
  seals: ReadonlyMap<string, PersonSeal>,
  userId: string,
  fields: FieldChanges,
): { fields: FieldChanges } {
  const seal = seals.get(userId)
  if (seal === undefined) throw new Error(`The seal of user ${userId} was not asked for.`)
  return { fields: sealFields(seal, fields) }
}

/** `fields` of a {@link Deed}, sealed for the customer. */
export async function sealedFields(
  tx: Db,
  vault: Vault,
  tenantId: string,
  userId: string,
  fields: FieldChanges,
): Promise<{ fields: FieldChanges }> {
  return { fields: sealFields(await vault.person(tx, tenantId, userId), fields) }
}

/**
 * Why each value of a patch goes to the other side: what that side held, what both had agreed on, and by which rule this value won.
 * Pure.
 *
 * @param winner the side whose values they are
 * @param held the other side, before
 */
export function explain(
  patch: FieldPatch,
  about: {
    winner: 'local' | 'stripe'
    held: SyncedFields
    base: SyncedFields | null
    conflicts: readonly FieldConflict[]
    /** When the value came about, ISO 8601; null when unknown. */
    timeOf(path: string): string | null
  },
): FieldChanges {
  const { winner, held, base, conflicts } = about
  const conflictOf = new Map<string, FieldConflict>(conflicts.map((conflict) => [conflict.field, conflict]))
  return Object.fromEntries(
    patchEntries(patch).map(([path, to]) => {
      const values = { from: fieldValue(held, path), to, base: fieldValue(base ?? NO_FIELDS, path), winner }
      const conflict = conflictOf.get(path)
      if (conflict === undefined) return [path, { ...values, why: 'only_change', changedAt: about.timeOf(path) }]
      const { policy, localAt, remoteAt } = conflict
      return [path, { ...values, why: whyOf(conflict), policy, localAt, remoteAt }]
    }),
  )
}

/** The same of what Stripe alone decides. */
export function explainBilling(user: Pick<User, 'billing'>, billing: Billing): FieldChanges {
  return { billing: { from: user.billing, to: billing, winner: 'stripe', why: 'stripe_decides' } }
}

function whyOf({ reason, policy }: FieldConflict): string {
  if (reason === 'cannot_clear') return reason
  return policy === 'latest' ? 'later_edit' : 'policy'
}
