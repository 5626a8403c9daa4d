import type { FieldChanges } from '../models/audit.js'
import type { FieldPatch, SyncedFields } from '../models/synced-fields.js'
import { type Actor, type AuditRecord, recordAudit, sealFields, syncActor } from '../repositories/audit-log.js'
import type { Db } from '../repositories/database.js'
import type { Vault } from '../repositories/vault.js'
import { fieldValue, NO_FIELDS, patchEntries } from './fields.js'
import type { FieldConflict } from './merge.js'

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
  const actor = by ?? syncActor(tenantId, deed.action === 'stripe.update' ? 'stripe' : 'sync')
  await recordAudit(tx, actor, { ...deed, entity: 'customer', entityId: userId })
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

function whyOf({ reason, policy }: FieldConflict): string {
  if (reason === 'cannot_clear') return reason
  return policy === 'latest' ? 'later_edit' : 'policy'
}
