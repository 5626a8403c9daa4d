import { type Customer, toCustomer } from '../models/dtos/customer.dto.js'
import type { User } from '../models/user.js'
import type { Actor } from '../repositories/audit-log.js'
import { emptyEvidence } from '../repositories/consents.js'
import { eraseMerges } from '../repositories/customer-merges.js'
import { actAs, findDeletion } from '../repositories/customer-state-changes.js'
import { type CustomerChanges, type CustomerRow, insertErasedCustomer } from '../repositories/customers.js'
import { statementsOf } from '../repositories/database.js'
import { replaceAnswers } from '../repositories/idempotency-keys.js'
import { emptySnapshots } from '../repositories/orders.js'
import type { PrismaDb } from '../repositories/prisma.js'
import { emptyPayloads } from '../repositories/stripe-events.js'
import { takeBackLink } from '../repositories/stripe-links.js'
import type { Vault } from '../repositories/vault.js'
import { auditCustomer } from './customer-audit.js'

const WITHOUT_PERSONAL_DATA: CustomerChanges = {
  email: null,
  phone: null,
  firstName: null,
  lastName: null,
  description: null,
  locale: null,
  address: null,
  shipping: null,
  metadata: {},
  billing: null,
}

/** What an erasure changes of the row; nothing where that was done. */
export function erasureOf(user: User, now: Date): CustomerChanges {
  return user.state === 'erased'
    ? {}
    : { ...WITHOUT_PERSONAL_DATA, state: 'erased', archivedAt: user.archivedAt ?? now }
}

/** Removes what is kept about the person elsewhere, for good: what is sealed by destroying the key. */
export async function forgetPerson(
  tx: PrismaDb,
  vault: Vault,
  tenantId: string,
  id: string,
  erased: Customer,
): Promise<void> {
  const db = statementsOf(tx)
  await vault.destroy(db, tenantId, id)
  await replaceAnswers(tx, tenantId, id, erased)
  await emptySnapshots(tx, tenantId, id)
  await emptyPayloads(db, tenantId, id)
  await emptyEvidence(tx, tenantId, id)
  await eraseMerges(tx, tenantId, id)
}

/**
 * Erases a person whose row another program deleted: what is kept for the record goes, and the row comes back without personal data, as an
 * erasure leaves it. With the row the Stripe customer that was its own until then is to be deleted too. Null where nobody had this id.
 */
export async function eraseRemains(
  tx: PrismaDb,
  vault: Vault,
  by: Actor,
  id: string,
  reason: string | null,
): Promise<CustomerRow | null> {
  const { tenantId } = by
  const deletedAt = await findDeletion(tx, tenantId, id)
  if (deletedAt === null) return null
  const db = statementsOf(tx)
  await actAs(db, by.actor, reason)
  const stripeCustomerId = await takeBackLink(db, tenantId, id, deletedAt)
  const row = await insertErasedCustomer(db, tenantId, id, stripeCustomerId)
  await forgetPerson(tx, vault, tenantId, row.user.id, toCustomer(row.user, row.sync))
  await auditCustomer(db, vault, by, 'customer.erase', null, row.user)
  return row
}
