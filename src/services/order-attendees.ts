import { ConflictError, type FieldError, ValidationError } from '../lib/errors.js'
import { newId } from '../lib/ids.js'
import type { AttendeeInput } from '../models/dtos/order.dto.js'
import { type Attendee, type CustomerSnapshot, snapshotOf } from '../models/order.js'
import type { TenantSettings } from '../models/tenant.js'
import type { User } from '../models/user.js'
import type { Actor } from '../repositories/audit-log.js'
import { contactNames, lockContacts } from '../repositories/contact-locks.js'
import { actAs } from '../repositories/customer-state-changes.js'
import { type CustomerValues, findCustomer, insertCustomer } from '../repositories/customers.js'
import { statementsOf } from '../repositories/database.js'
import { MovedOnError } from '../repositories/errors.js'
import { findReturning, holdActiveCustomers } from '../repositories/orders.js'
import type { PrismaDb } from '../repositories/prisma.js'
import type { Vault } from '../repositories/vault.js'
import { auditCustomer } from './customer-audit.js'
import { matchContact } from './customer-matching.js'
import { checkCustomer, draftOf } from './customer-rules.js'

/** An attendee as the request has it, checked. */
export interface Person {
  /** The customer that is said to be meant; null: whom the values fit, or a new one. */
  customerId: string | null
  values: CustomerValues
}

type Seated = Omit<Attendee, 'isFirstVisit'>

/** What the work on one order shares. */
interface Table {
  tx: PrismaDb
  vault: Vault
  by: Actor
}

/**
 * Checks all attendees at once.
 *
 * @throws {ValidationError} whose paths name which attendee
 */
export function checkPeople(attendees: readonly AttendeeInput[], settings: TenantSettings): Person[] {
  const errors: FieldError[] = []
  const people = attendees.flatMap((attendee, index): Person[] => {
    const { customerId, ...person } = attendee
    const hasContact = [person.firstName, person.lastName, person.email, person.phone].some((part) => part?.trim())
    const isNew = customerId === undefined
    try {
      const draft = draftOf({
        type: hasContact && isNew ? 'unregistered' : 'anonymous',
        ...(isNew ? person : contactOf(person)),
      })
      return [{ customerId: customerId ?? null, values: checkCustomer(draft, null, settings) }]
    } catch (error) {
      if (!(error instanceof ValidationError)) throw error
      errors.push(...error.errors.map((one) => ({ ...one, path: `attendees.${index}.${one.path}` })))
      return []
    }
  })
  if (errors.length > 0) throw new ValidationError(errors)
  return people
}

/** Of someone who is named by id there is nothing else to give. */
function contactOf({ firstName, lastName, email, phone }: AttendeeInput) {
  const given = { firstName, lastName, email, phone }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}

/**
 * Finds or makes the customer of each attendee, in order: one who comes twice is one.
 *
 * @throws {ConflictError} `ambiguous_attendee`
 * @throws {ValidationError} for an id that is no active customer's
 * @throws {MovedOnError} when one who was found by contact is active no more: nothing was written
 */
export async function seat(tx: PrismaDb, vault: Vault, by: Actor, people: readonly Person[]): Promise<Attendee[]> {
  const { tenantId } = by
  await lockContacts(
    statementsOf(tx),
    tenantId,
    people.flatMap(({ values }) => contactNames(values)),
  )
  const seated: Seated[] = []
  for (const [index, person] of people.entries()) seated.push(await seatOne({ tx, vault, by }, person, index))
  const ids = seated.map(({ customerId }) => customerId)
  const active = await holdActiveCustomers(tx, tenantId, ids)
  const gone = seated.findIndex(({ customerId }) => !active.has(customerId))
  if (gone >= 0) {
    if (seated[gone]?.matchedBy === 'id') throw notActive(gone)
    throw new MovedOnError(`attendees.${gone}`)
  }
  const returning = await findReturning(tx, tenantId, ids)
  return seated.map((attendee) => ({ ...attendee, isFirstVisit: !returning.has(attendee.customerId) }))
}

async function seatOne(table: Table, { customerId, values }: Person, index: number): Promise<Seated> {
  const { tx, by } = table
  const { tenantId } = by
  if (customerId !== null) {
    const known = await findCustomer(tx, tenantId, customerId)
    if (known === null) throw notActive(index)
    return { customerId: known.user.id, matchedBy: 'id', snapshot: snapshotWith(known.user, values) }
  }
  const match = await matchContact(tx, tenantId, values)
  if (match.outcome === 'ambiguous') {
    const ids = match.customers.map(({ user }) => user.id).join(', ')
    throw new ConflictError(
      `attendees.${index} fits several customers: ${ids}. Name the one that is meant by customerId.`,
      'ambiguous_attendee',
    )
  }
  if (match.outcome === 'matched') {
    const { user } = match.customers[0]
    return { customerId: user.id, matchedBy: match.matchedBy, snapshot: snapshotWith(user, values) }
  }
  const user = await add(table, values)
  return { customerId: user.id, matchedBy: 'created', snapshot: snapshotOf(user) }
}

async function add({ tx, vault, by }: Table, values: CustomerValues): Promise<User> {
  const db = statementsOf(tx)
  await actAs(db, by.actor, 'came with an order')
  const { user } = await insertCustomer(db, by.tenantId, newId(), values)
  await auditCustomer(db, vault, by, 'customer.create', null, user, { from: 'order' })
  return user
}

/**
 * The customer as it is, with what the order gives and it lacks. The customer itself is not changed: whoever can name a phone must not be
 * able to give its owner an e-mail. A name is one: half of another one's is none of theirs.
 */
function snapshotWith(user: User, { firstName, lastName, email, phone }: CustomerValues): CustomerSnapshot {
  const snapshot = snapshotOf(user)
  const isNameless = user.firstName === null && user.lastName === null
  return {
    ...snapshot,
    ...(isNameless ? { firstName, lastName } : {}),
    email: snapshot.email ?? email,
    phone: snapshot.phone ?? phone,
  }
}

function notActive(index: number): ValidationError {
  const path = `attendees.${index}.customerId`
  return new ValidationError([{ path, code: 'not_found', message: 'is no active customer of this tenant' }])
}
