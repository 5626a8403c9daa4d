import type { CustomerSnapshot } from '../models/order.js'
import type { Statements } from './database.js'
import { ERASED, isSealed, type PersonSeal, type Sealed, type Vault } from './vault.js'

/** A snapshot as it is stored: who it was is sealed. Those from before that hold the four in clear. */
export type StoredSnapshot = CustomerSnapshot | { type: CustomerSnapshot['type']; person: Sealed | null }

/** Rows that are moved from one customer to another at once. */
const MOVE_BATCH = 500
/** Where a sealed snapshot belongs. */
export const SNAPSHOT_CONTEXT = 'order_attendees.snapshot'
const NOBODY: Omit<CustomerSnapshot, 'type'> = { firstName: null, lastName: null, email: null, phone: null }

/** What a stored snapshot says, open; that of an erased person says nothing but the type. */
export function openSnapshot(seal: PersonSeal | undefined, snapshot: StoredSnapshot): CustomerSnapshot {
  if (!('person' in snapshot)) return snapshot
  const { type, person } = snapshot
  const known = isSealed(person) ? (seal?.open(person, SNAPSHOT_CONTEXT) ?? ERASED) : null
  return { type, ...(known === null || known === ERASED ? NOBODY : (known as typeof NOBODY)) }
}

/**
 * Makes one customer's places in orders another's, of the same person, sealed for that one from then on. What was kept of it
 * then stays. Answers how many.
 */
export async function moveAttendees(
  db: Statements,
  vault: Vault,
  tenantId: string,
  fromId: string,
  toId: string,
): Promise<number> {
  const [from, to] = [await vault.person(db, tenantId, fromId), await vault.person(db, tenantId, toId)]
  for (let moved = 0; ; ) {
    const rows = await db.query<{ orderId: string; position: number; snapshot: StoredSnapshot }>(
      `select order_id as "orderId", position, snapshot from order_attendees
       where tenant_id = $1 and customer_id = $2 order by order_id, position limit $3`,
      [tenantId, fromId, MOVE_BATCH],
    )
    const places = rows.map(({ orderId, position, snapshot }) => {
      const { type, ...person } = openSnapshot(from, snapshot)
      return { order_id: orderId, position, snapshot: { type, person: to.seal(person, SNAPSHOT_CONTEXT) } }
    })
    await db.query(
      `update order_attendees a set customer_id = $2, snapshot = p.snapshot
       from jsonb_to_recordset($3::jsonb) as p (order_id uuid, position integer, snapshot jsonb)
       where a.tenant_id = $1 and a.order_id = p.order_id and a.position = p.position`,
      [tenantId, toId, JSON.stringify(places)],
    )
    moved += rows.length
    if (rows.length < MOVE_BATCH) return moved
  }
}
