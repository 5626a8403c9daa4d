import type { Attendee, Order, OrderStatus } from '../models/order.js'
import { openSnapshot, SNAPSHOT_CONTEXT, type StoredSnapshot } from './attendees.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import { statementsOf } from './database.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'
import type { Vault } from './vault.js'

/** The order of lists of orders, as their cursors name it. */
export const ORDER_ORDER = '-createdAt'

/** Which orders to list, all conditions together. */
export interface OrderFilter {
  status?: OrderStatus | undefined
  reference?: string | undefined
  customerId?: string | undefined
}

/** What a new order's rows are made of. */
export type NewOrder = Pick<Order, 'id' | 'reference' | 'currency' | 'total' | 'attendees'> & { orderedAt: Date | null }

type StoredAttendee = Omit<Attendee, 'snapshot'> & { snapshot: StoredSnapshot }
type Row = Omit<Order, 'total' | 'attendees'> & { total: bigint | null; attendees: StoredAttendee[] | null }

const SELECT = Prisma.sql`
  select o.id, o.reference, o.status, o.currency, o.total, o.ordered_at as "orderedAt", o.created_at as "createdAt",
    o.updated_at as "updatedAt", (
      select jsonb_agg(jsonb_build_object('customerId', a.customer_id, 'matchedBy', a.matched_by, 'isFirstVisit', a.first_visit,
                                          'snapshot', a.snapshot) order by a.position)
      from order_attendees a where a.order_id = o.id
    ) as attendees`

/** Keeps these customers as they are until the transaction ends. Answers those that are active. */
export async function holdActiveCustomers(
  tx: PrismaDb,
  tenantId: string,
  ids: readonly string[],
): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ id: string }[]>`
    select id from users where tenant_id = ${tenantId}::uuid and id = any(${[...new Set(ids)].sort()}::uuid[]) and state = 'active'
    order by id for share`
  return new Set(rows.map(({ id }) => id))
}

/** Of these customers, those that have an order that was not cancelled. */
export async function findReturning(tx: PrismaDb, tenantId: string, ids: readonly string[]): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ customerId: string }[]>`
    select distinct a.customer_id as "customerId" from order_attendees a join orders o on o.id = a.order_id
    where a.tenant_id = ${tenantId}::uuid and a.customer_id = any(${[...ids]}::uuid[]) and o.status <> 'cancelled'`
  return new Set(rows.map(({ customerId }) => customerId))
}

/** Adds an order with its attendees. Throws `DatabaseError` with `isUniqueViolation` when the tenant has one of this reference. */
export async function insertOrder(tx: PrismaDb, vault: Vault, tenantId: string, order: NewOrder): Promise<Order> {
  const { attendees, orderedAt, ...rest } = order
  const db = statementsOf(tx)
  const snapshots: Prisma.InputJsonObject[] = []
  for (const { customerId, snapshot } of attendees) {
    const { type, ...person } = snapshot
    const seal = await vault.person(db, tenantId, customerId)
    snapshots.push({ type, person: seal.seal(person, SNAPSHOT_CONTEXT) } as unknown as Prisma.InputJsonObject)
  }
  await tx.order.create({
    data: { ...rest, tenantId, ...(orderedAt === null ? {} : { orderedAt }) },
    select: { id: true },
  })
  await tx.orderAttendee.createMany({
    data: attendees.map(({ customerId, matchedBy, isFirstVisit }, position) => ({
      orderId: order.id,
      position,
      tenantId,
      customerId,
      matchedBy,
      firstVisit: isFirstVisit,
      snapshot: snapshots[position] ?? {},
    })),
  })
  const stored = await findOrder(tx, vault, tenantId, order.id)
  if (stored === null) throw new Error('A row is gone within the transaction that wrote it.')
  return stored
}

/** The tenant's order, or null. */
export async function findOrder(prisma: PrismaDb, vault: Vault, tenantId: string, id: string): Promise<Order | null> {
  const rows = await prisma.$queryRaw<Row[]>`
    ${SELECT} from orders o where o.tenant_id = ${tenantId}::uuid and o.id = ${id}::uuid`
  return (await ordersOf(prisma, vault, tenantId, rows))[0] ?? null
}

/** A page of the tenant's orders, newest first. */
export async function listOrders(
  prisma: PrismaDb,
  vault: Vault,
  tenantId: string,
  { status, reference, customerId }: OrderFilter,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<Order>> {
  const where = [Prisma.sql`o.tenant_id = ${tenantId}::uuid`]
  if (status !== undefined) where.push(Prisma.sql`o.status = ${status}`)
  if (reference !== undefined) where.push(Prisma.sql`o.reference = ${reference}`)
  if (customerId !== undefined) {
    where.push(Prisma.sql`o.id in (
      select a.order_id from order_attendees a where a.tenant_id = ${tenantId}::uuid and a.customer_id = ${customerId}::uuid)`)
  }
  if (after !== null) where.push(Prisma.sql`(o.created_at, o.id) < (${after.value}::timestamptz, ${after.id}::uuid)`)
  const rows = await prisma.$queryRaw<(Row & { cursorValue: string })[]>`
    ${SELECT}, to_char(o.created_at at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "cursorValue"
    from orders o where ${Prisma.join(where, ' and ')} order by o.created_at desc, o.id desc limit ${limit + 1}`
  const page = pageOf(rows, limit, ORDER_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  const data = page.data.map(({ cursorValue: _value, ...row }) => row)
  return { ...page, data: await ordersOf(prisma, vault, tenantId, data) }
}

/** Ends an open order. Answers whether it was open. */
export async function closeOrder(
  tx: PrismaDb,
  tenantId: string,
  id: string,
  status: Exclude<OrderStatus, 'open'>,
): Promise<boolean> {
  const closed = await tx.$executeRaw`
    update orders set status = ${status}, updated_at = lockstep_now()
    where tenant_id = ${tenantId}::uuid and id = ${id}::uuid and status = 'open'`
  return closed === 1
}

/** The open orders that the customer is an attendee of, ten at the most. */
export async function findOpenOrders(
  tx: PrismaDb,
  tenantId: string,
  customerId: string,
): Promise<{ id: string; reference: string | null }[]> {
  return tx.$queryRaw<{ id: string; reference: string | null }[]>`
    select o.id, o.reference from order_attendees a join orders o on o.id = a.order_id
    where a.tenant_id = ${tenantId}::uuid and a.customer_id = ${customerId}::uuid and o.status = 'open'
    order by o.id limit 10`
}

/** Empties what orders kept of a person in clear; that someone came, and when, stays. What is sealed goes with the person's key. */
export async function emptySnapshots(tx: PrismaDb, tenantId: string, customerId: string): Promise<void> {
  await tx.$executeRaw`
    update order_attendees set snapshot = jsonb_build_object('type', snapshot -> 'type', 'person', null)
    where tenant_id = ${tenantId}::uuid and customer_id = ${customerId}::uuid`
}

/** The orders with their snapshots open; of an erased person they say nothing but the type. */
async function ordersOf(prisma: PrismaDb, vault: Vault, tenantId: string, rows: readonly Row[]): Promise<Order[]> {
  const customerIds = rows.flatMap(({ attendees }) => (attendees ?? []).map(({ customerId }) => customerId))
  const seals = await vault.people(statementsOf(prisma), tenantId, customerIds)
  return rows.map(({ total, attendees, ...row }) => ({
    ...row,
    total: total === null ? null : Number(total),
    attendees: (attendees ?? []).map((attendee) => ({
      ...attendee,
      snapshot: openSnapshot(seals.get(attendee.customerId), attendee.snapshot),
    })),
  }))
}
