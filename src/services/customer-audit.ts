import { sameJson } from '../lib/json.js'
import type { FieldChanges } from '../models/audit.js'
import type { User } from '../models/user.js'
import { type Actor, recordAudit, sealFields } from '../repositories/audit-log.js'
import type { Statements } from '../repositories/database.js'
import type { Vault } from '../repositories/vault.js'
import { fieldValue, localFields, NO_FIELDS, pathsOf } from '../sync/fields.js'

/** What of a user the log keeps. */
export type AuditedUser = Pick<
  User,
  | 'type'
  | 'state'
  | 'email'
  | 'phone'
  | 'firstName'
  | 'lastName'
  | 'description'
  | 'locale'
  | 'address'
  | 'shipping'
  | 'metadata'
  | 'billing'
>

/**
 * What a write changed of a customer, by the names that conflicts and sync views have for the fields: `name` stands for firstName and
 * lastName, `metadata.<key>` for each key.
 *
 * @param before null for a customer that is new
 */
export function fieldChanges(before: AuditedUser | null, after: AuditedUser): FieldChanges {
  const [was, is] = [before === null ? NO_FIELDS : localFields(before, []), localFields(after, [])]
  const changes: FieldChanges = {}
  for (const path of pathsOf(was, is)) {
    const [from, to] = [fieldValue(was, path), fieldValue(is, path)]
    if (!sameJson(from, to)) changes[path] = { from, to }
  }
  // Where the name was only parted otherwise, both read alike; the entry still says that it was written.
  const isRenamed = before !== null && (before.firstName !== after.firstName || before.lastName !== after.lastName)
  if (isRenamed) changes.name = { from: was.name, to: is.name }
  for (const name of ['type', 'state', 'billing'] as const) {
    const from = before?.[name] ?? null
    if (!sameJson(from, after[name])) changes[name] = { from, to: after[name] }
  }
  return changes
}

/** Writes the entry about a customer that was made or changed, in the transaction that did it. Values are sealed for the person. */
export async function auditCustomer(
  db: Statements,
  vault: Vault,
  by: Actor,
  action: string,
  before: AuditedUser | null,
  after: AuditedUser & Pick<User, 'id' | 'revision'>,
  notes: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  await auditCustomers(db, vault, by, action, [{ before, after }], notes)
}

/** {@link auditCustomer} for several customers at once, each of which has an entry of its own. */
export async function auditCustomers(
  db: Statements,
  vault: Vault,
  by: Actor,
  action: string,
  entries: readonly { before: AuditedUser | null; after: AuditedUser & Pick<User, 'id' | 'revision'> }[],
  notes: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const idsOf = (isNew: boolean) =>
    entries.filter(({ before }) => (before === null) === isNew).map(({ after }) => after.id)
  const seals = new Map([
    ...(await vault.create(db, by.tenantId, idsOf(true))),
    ...(await vault.ensure(db, by.tenantId, idsOf(false))),
  ])
  const records = entries.flatMap(({ before, after }) => {
    const seal = seals.get(after.id)
    if (seal === undefined) return []
    const changes = { fields: sealFields(seal, fieldChanges(before, after)), revision: after.revision, ...notes }
    return [{ action, entity: 'customer', entityId: after.id, changes }]
  })
  await recordAudit(db, by, ...records)
}
