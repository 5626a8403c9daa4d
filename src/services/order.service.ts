import { ConflictError, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId, newId } from '../lib/ids.js'
import { timeOf } from '../lib/times.js'
import { type OrderInput, type OrderQuery, type OrderView, toOrder } from '../models/dtos/order.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import type { OrderStatus } from '../models/order.js'
import type { TenantSettings } from '../models/tenant.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import { findCustomer } from '../repositories/customers.js'
import { statementsOf } from '../repositories/database.js'
import { DatabaseError, MovedOnError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { type IdempotencyKey, keepAnswer, takeIdempotencyKey } from '../repositories/idempotency-keys.js'
import { closeOrder, findOrder, insertOrder, listOrders, ORDER_ORDER } from '../repositories/orders.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import type { Vault } from '../repositories/vault.js'
import { checkPeople, seat } from './order-attendees.js'

/** More than anyone is archived and comes back in one moment. */
const SEATING_TRIES = 5

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
      const take = async (tx: PrismaDb) => {
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
      }
      const result = await unlessMovedOn(() => inTransaction(prisma, take)).catch((error: unknown) => {
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

/** Somebody whom an attendee was found to be may be archived in that moment: then it is to be found out anew who it is. */
async function unlessMovedOn<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof MovedOnError) || attempt >= SEATING_TRIES) throw error
    }
  }
}
