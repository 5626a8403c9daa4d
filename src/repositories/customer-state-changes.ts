import type { StateChangeSource } from '../models/dtos/state-change.dto.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import type { Statements } from './database.js'
import type { PrismaDb } from './prisma.js'

/** The order of lists of state changes, as their cursors name it. */
export const STATE_CHANGE_ORDER = '-at'

/**
 * Says who changes states in this transaction, and why; the trigger on `users` notes it. Without it a change counts as made by
 * plain SQL. It ends with the transaction, so call it in the one that writes.
 */
export async function actAs(db: Statements, actor: string, reason: string | null = null): Promise<void> {
  await db.query(
    `select set_config('lockstep.actor', $1, true), set_config('lockstep.reason', $2, true)`,
    [actor, reason ?? ''],
    'act-as',
  )
}

/** A page of the states that the tenant's customer had, newest first; also of one whose row another program deleted. */
export async function listStateChanges(
  prisma: PrismaDb,
  tenantId: string,
  customerId: string,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<StateChangeSource>> {
  const rows = await prisma.$queryRaw<(StateChangeSource & { cursorValue: string })[]>`
    select id, from_state as "from", to_state as "to", actor, reason, at,
           to_char(at at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "cursorValue"
    from customer_state_changes
    where tenant_id = ${tenantId}::uuid and customer_id = ${customerId}::uuid
      and (${after?.value ?? null}::timestamptz is null
           or (at, id) < (${after?.value ?? null}::timestamptz, ${after?.id ?? null}::uuid))
    order by at desc, id desc limit ${limit + 1}`
  const page = pageOf(rows, limit, STATE_CHANGE_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => row) }
}

/** When another program deleted the customer's row; null while it is there, and of an id that nobody had. */
export async function findDeletion(prisma: PrismaDb, tenantId: string, customerId: string): Promise<Date | null> {
  const rows = await prisma.$queryRaw<{ to: string; at: Date }[]>`
    select to_state as "to", at from customer_state_changes
    where tenant_id = ${tenantId}::uuid and customer_id = ${customerId}::uuid order by at desc, id desc limit 1`
  return rows[0]?.to === 'deleted' ? rows[0].at : null
}
