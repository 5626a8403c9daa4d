import { ConflictError, type FieldError, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId, newId } from '../lib/ids.js'
import { timeOf } from '../lib/times.js'
import {
  type AttendeeInput,
  type OrderInput,
  type OrderQuery,
  type OrderView,
  toOrder,
} from '../models/dtos/order.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import { type Attendee, type OrderStatus, snapshotOf } from '../models/order.js'
import type { TenantSettings } from '../models/tenant.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { contactNames, lockContacts } from '../repositories/contact-locks.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import { actAs } from '../repositories/customer-state-changes.js'
import { type CustomerValues, findCustomer, insertCustomer } from '../repositories/customers.js'
import { statementsOf } from '../repositories/database.js'
import { DatabaseError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { type IdempotencyKey, keepAnswer, takeIdempotencyKey } from '../repositories/idempotency-keys.js'
import {
  closeOrder,
  findOrder,
  findReturning,
  holdActiveCustomers,
  insertOrder,
  listOrders,
  ORDER_ORDER,
} from '../repositories/orders.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import type { Vault } from '../repositories/vault.js'
import { auditCustomer } from './customer-audit.js'
import { matchContact } from './customer-matching.js'
import { checkCustomer, draftOf } from './customer-rules.js'

/** An attendee as the request has it, checked. */
type Person = { customerId: string } | { values: CustomerValues }

export type OrderService = ReturnType<typeof makeOrderService>

/**
 * Orders and who came with them. Throws `ValidationError`, `NotFoundError`, `ConflictError` and `DatabaseError`.
 *
 * @param wake tells the relay of this process that there are dirty users
 */
export function makeOrderService({
  prisma,
  vault,
  settingsOf,
  wake,
}: {
  prisma: PrismaClient
  vault: Vault
  settingsOf(tenantId: string): Promise<TenantSettings>
  wake(): void
}) {
  return {
    /**
     * Takes an order; each attendee is a customer afterwards. However many orders with one new person come in at once, the
     * person becomes one customer. With `idempotency`, the same key and request answer the order of the first one, as it is
     * now, with `replayed`.
     *
     * @throws {ConflictError} `ambiguous_attendee` when several customers fit one, `order_exists` for a reference that was used.
     */
    async create(
      by: Actor,
      input: OrderInput,
      idempotency: IdempotencyKey | null = null,
    ): Promise<{ order: OrderView; replayed: boolean }> {
      const { tenantId } = by
      const { currency = null, total = null, reference = null } = input
      if ((currency === null) !== (total === null)) {
        const path = currency === null ? 'currency' : 'total'
        throw new ValidationError([{ path, code: 'required', message: 'currency and total go together' }])
      }
      const people = checkPeople(input.attendees, await settingsOf(tenantId))
      const orderedAt = input.orderedAt === undefined ? null : timeOf('orderedAt', input.orderedAt)
      const result = await inTransaction(prisma, async (tx) => {
        const earlier = idempotency === null ? null : await takeIdempotencyKey(statementsOf(tx), tenantId, idempotency)
        if (earlier !== null) {
          const known = await findOrder(tx, vault, tenantId, (earlier.body as { orderId: string }).orderId)
          if (known === null) throw new NotFoundError('order', 'of this Idempotency-Key')
          return { order: known, replayed: true }
        }
        const id = newId()
        const attendees = await seat(tx, vault, by, people)
        const order = await insertOrder(tx, vault, tenantId, {
          id,
          reference,
          currency: currency?.toLowerCase() ?? null,
          total,
          orderedAt,
          attendees,
        })
        await writeAudit(tx, by, {
          action: 'order.create',
          entity: 'order',
          entityId: id,
          changes: { attendees: attendees.map(({ customerId, matchedBy }) => ({ customerId, matchedBy })) },
        })
        // The order itself is kept, so its id is enough; and an erased person lives on in no stored answer.
        if (idempotency !== null) {
          await keepAnswer(statementsOf(tx), tenantId, idempotency.key, { status: 201, body: { orderId: id } })
        }
        return { order, replayed: false }
      }).catch((error: unknown) => {
        if (!(error instanceof DatabaseError && error.constraint === 'orders_reference_idx')) throw error
        throw new ConflictError('There is an order with this reference; see GET /orders?reference=…', 'order_exists')
      })
      if (!result.replayed) wake()
      return { ...result, order: toOrder(result.order) }
    },

    async get(tenantId: string, id: string): Promise<OrderView> {
      const order = isId(id) ? await findOrder(prisma, vault, tenantId, id) : null
      if (order === null) throw new NotFoundError('order', id)
      return toOrder(order)
    },

    /** A page of orders, newest first. */
    async list(tenantId: string, { limit = DEFAULT_LIMIT, cursor, ...filter }: OrderQuery): Promise<Page<OrderView>> {
      const after = cursor === undefined ? null : decodeCursor(cursor, ORDER_ORDER, isId)
      const page = await listOrders(prisma, vault, tenantId, filter, { limit, after })
      return { ...page, data: page.data.map(toOrder) }
    },

    /** A page of the orders of one customer, newest first. */
    async ofCustomer(tenantId: string, customerId: string, query: OrderQuery): Promise<Page<OrderView>> {
      const isKnown = isId(customerId) && (await findCustomer(prisma, tenantId, customerId)) !== null
      if (!isKnown) throw new NotFoundError('customer', customerId)
      return this.list(tenantId, { ...query, customerId })
    },

    /**
     * Ends an open order. Done twice it does nothing more.
     *
     * @throws {ConflictError} `order_closed` when it ended the other way.
     */
    async close(by: Actor, id: string, status: Exclude<OrderStatus, 'open'>): Promise<OrderView> {
      const order = await inTransaction(prisma, async (tx) => {
        const isClosed = isId(id) && (await closeOrder(tx, by.tenantId, id, status))
        if (isClosed) {
          const changes = { status: { from: 'open', to: status } }
          await writeAudit(tx, by, { action: 'order.close', entity: 'order', entityId: id, changes })
        }
        return isId(id) ? findOrder(tx, vault, by.tenantId, id) : null
      })
      if (order === null) throw new NotFoundError('order', id)
      if (order.status !== status) throw new ConflictError(`The order is ${order.status} already.`, 'order_closed')
      return toOrder(order)
    },
  }
}

/** Checks all attendees at once; the paths of errors name which. */
function checkPeople(attendees: readonly AttendeeInput[], settings: TenantSettings): Person[] {
  const errors: FieldError[] = []
  const people = attendees.flatMap((attendee, index): Person[] => {
    const { customerId, ...person } = attendee
    if (customerId !== undefined) return [{ customerId }]
    const hasContact = [person.firstName, person.lastName, person.email, person.phone].some((part) => part?.trim())
    try {
      const draft = draftOf({ type: hasContact ? 'unregistered' : 'anonymous', ...person })
      return [{ values: checkCustomer(draft, null, settings) }]
    } catch (error) {
      if (!(error instanceof ValidationError)) throw error
      errors.push(...error.errors.map((one) => ({ ...one, path: `attendees.${index}.${one.path}` })))
      return []
    }
  })
  if (errors.length > 0) throw new ValidationError(errors)
  return people
}

/** Finds or makes the customer of each attendee, in order: one who comes twice is one. */
async function seat(tx: PrismaDb, vault: Vault, by: Actor, people: readonly Person[]): Promise<Attendee[]> {
  const { tenantId } = by
  await lockContacts(
    statementsOf(tx),
    tenantId,
    people.flatMap((person) => ('values' in person ? contactNames(person.values) : [])),
  )
  const seated: Omit<Attendee, 'isFirstVisit'>[] = []
  for (const [index, person] of people.entries()) seated.push(await seatOne(tx, vault, by, person, index))
  const ids = seated.map(({ customerId }) => customerId)
  const active = await holdActiveCustomers(tx, tenantId, ids)
  const gone = ids.findIndex((id) => !active.has(id))
  if (gone >= 0) throw notActive(gone)
  const returning = await findReturning(tx, tenantId, ids)
  return seated.map((attendee) => ({ ...attendee, isFirstVisit: !returning.has(attendee.customerId) }))
}

async function seatOne(
  tx: PrismaDb,
  vault: Vault,
  by: Actor,
  person: Person,
  index: number,
): Promise<Omit<Attendee, 'isFirstVisit'>> {
  const { tenantId } = by
  if ('customerId' in person) {
    const known = await findCustomer(tx, tenantId, person.customerId)
    if (known === null) throw notActive(index)
    return { customerId: known.user.id, matchedBy: 'id', snapshot: snapshotOf(known.user) }
  }
  const match = await matchContact(tx, tenantId, person.values)
  if (match.outcome === 'ambiguous') {
    const ids = match.customers.map(({ user }) => user.id).join(', ')
    throw new ConflictError(
      `attendees.${index} fits several customers: ${ids}. Name the one that is meant by customerId.`,
      'ambiguous_attendee',
    )
  }
  if (match.outcome === 'matched') {
    const { user } = match.customers[0]
    return { customerId: user.id, matchedBy: match.matchedBy, snapshot: snapshotOf(user) }
  }
  const customerId = newId()
  const db = statementsOf(tx)
  await actAs(db, by.actor, 'came with an order')
  const { user } = await insertCustomer(db, tenantId, customerId, person.values)
  await auditCustomer(db, vault, by, 'customer.create', null, user, { from: 'order' })
  return { customerId, matchedBy: 'created', snapshot: snapshotOf(user) }
}

function notActive(index: number): ValidationError {
  const path = `attendees.${index}.customerId`
  return new ValidationError([{ path, code: 'not_found', message: 'is no active customer of this tenant' }])
}
