import { isId } from '../lib/ids.js'
import { openChanges } from './audit-log.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import { statementsOf } from './database.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'
import type { Vault } from './vault.js'

/** The order of lists of entries, as their cursors name it. */
export const AUDIT_ORDER = 'newest'

/** An entry as it is stored. */
export interface AuditRow {
  id: string
  at: Date
  actor: string
  action: string
  entity: string
  entityId: string
  changes: unknown
  cause: string | null
  requestId: string | null
  ip: string | null
  /** Null until it is chained. */
  seq: bigint | null
  /** In hex. */
  hash: string | null
}

/** Which entries to list, all conditions together. `from` is inclusive, `to` exclusive. */
export interface AuditFilter {
  entity?: string | undefined
  entityId?: string | undefined
  actor?: string | undefined
  action?: string | undefined
  from?: Date | undefined
  to?: Date | undefined
}

/** A page of the tenant's entries, newest first, their values open. */
export async function listAudit(
  prisma: PrismaDb,
  vault: Vault,
  tenantId: string,
  { entity, entityId, actor, action, from, to }: AuditFilter,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<AuditRow>> {
  const where = [
    Prisma.sql`tenant_id = ${tenantId}::uuid`,
    ...(entity === undefined ? [] : [Prisma.sql`entity = ${entity}`]),
    ...(entityId === undefined ? [] : [Prisma.sql`entity_id = ${entityId}`]),
    ...(actor === undefined ? [] : [Prisma.sql`actor = ${actor}`]),
    ...(action === undefined ? [] : [Prisma.sql`action = ${action}`]),
    ...(from === undefined ? [] : [Prisma.sql`at >= ${from.toISOString()}::timestamptz`]),
    ...(to === undefined ? [] : [Prisma.sql`at < ${to.toISOString()}::timestamptz`]),
    ...(after === null ? [] : [Prisma.sql`(at, id) < (${after.value}::timestamptz, ${after.id}::uuid)`]),
  ]
  const rows = await prisma.$queryRaw<(AuditRow & { cursorValue: string })[]>`
    select id, at, actor, action, entity, entity_id as "entityId", changes, cause, request_id as "requestId", ip, seq,
      encode(hash, 'hex') as hash, to_char(at at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "cursorValue"
    from audit_log where ${Prisma.join(where, ' and ')} order by at desc, id desc limit ${limit + 1}`
  const page = pageOf(rows, limit, AUDIT_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  const people = page.data.flatMap((row) => (row.entity === 'customer' && isId(row.entityId) ? [row.entityId] : []))
  const seals = await vault.people(statementsOf(prisma), tenantId, people)
  return {
    ...page,
    data: page.data.map(({ cursorValue: _value, ...row }) => ({
      ...row,
      changes: openChanges(seals.get(row.entityId) ?? null, row.changes),
    })),
  }
}
