import { isId } from '../lib/ids.js'
import type { FieldChange } from '../models/audit.js'
import { openChanges } from './audit-log.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import { statementsOf } from './database.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'
import type { Vault } from './vault.js'

/** The order of a history, as its cursors name it. */
export const HISTORY_ORDER = 'newest'

/** One field of one audit entry about a customer, its values open. */
export interface FieldEntry {
  /** Of the entry; others of its fields have the same. */
  id: string
  field: string
  change: FieldChange
  at: Date
  /** The same to the microsecond, as a cursor has it. */
  atMicros: string
  actor: string
  action: string
  cause: string | null
  requestId: string | null
  /** What the writer of a plain SQL statement called itself. */
  program: string | null
  /** When an edit was made in Stripe, ISO 8601. */
  editedAt: string | null
}

/** Whether a text can stand in the cursor of a history: an entry's id and a field. */
export function isFieldEntryId(id: string): boolean {
  return isId(id.slice(0, 36)) && id[36] === '/' && !id.includes('\0')
}

// An entry may name its fields only, as a list.
const FIELDS = Prisma.sql`lateral (
  select key as field, value as change
  from jsonb_each(case jsonb_typeof(a.changes -> 'fields') when 'object' then a.changes -> 'fields' else '{}' end)
  union all
  select name, '{}'::jsonb
  from jsonb_array_elements_text(case jsonb_typeof(a.changes -> 'fields') when 'array' then a.changes -> 'fields' else '[]' end) as name
)`
const COLUMNS = Prisma.sql`a.id, f.field, f.change, a.at, to_char(a.at at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "atMicros",
  a.actor, a.action, a.cause, a.request_id as "requestId", a.changes ->> 'program' as program, a.changes ->> 'editedAt' as "editedAt"`

/** A page of what became of a customer's fields, newest first; of one field, or of `metadata` with all its keys, when one is named. */
export async function listFieldEntries(
  prisma: PrismaDb,
  vault: Vault,
  { tenantId, customerId, field }: { tenantId: string; customerId: string; field?: string | undefined },
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<FieldEntry>> {
  const [entryId = '', ...rest] = after?.id.split('/') ?? []
  const where = [
    Prisma.sql`a.tenant_id = ${tenantId}::uuid`,
    Prisma.sql`a.entity = 'customer'`,
    Prisma.sql`a.entity_id = ${customerId}`,
    ...(field === undefined
      ? []
      : [Prisma.sql`(f.field = ${field} or (${field} = 'metadata' and starts_with(f.field, 'metadata.')))`]),
    ...(after === null
      ? []
      : [
          Prisma.sql`(a.at, a.id, f.field collate "C") < (${after.value}::timestamptz, ${entryId}::uuid, ${rest.join('/')})`,
        ]),
  ]
  const rows = await prisma.$queryRaw<FieldEntry[]>`
    select ${COLUMNS} from audit_log a cross join ${FIELDS} f where ${Prisma.join(where, ' and ')}
    order by a.at desc, a.id desc, f.field collate "C" desc limit ${limit + 1}`
  const page = pageOf(rows, limit, HISTORY_ORDER, (row) => ({ value: row.atMicros, id: `${row.id}/${row.field}` }))
  return { ...page, data: await opened(prisma, vault, tenantId, customerId, page.data) }
}

/** What made a value, as a decision of the sync found it. */
export interface Sought {
  field: string
  /** The side that the value is from. */
  side: 'local' | 'stripe'
  /** The decision: what is sought was before it. */
  id: string
  atMicros: string
}

/** For each of these, the last edit of that field on that side, or the last manual decision for that side; null when there is none. */
export async function findLastEdits(
  prisma: PrismaDb,
  vault: Vault,
  { tenantId, customerId }: { tenantId: string; customerId: string },
  sought: readonly Sought[],
): Promise<(FieldEntry | null)[]> {
  if (sought.length === 0) return []
  const rows = await prisma.$queryRaw<(FieldEntry & { n: number })[]>`
    select s.n::int as n, e.* from jsonb_to_recordset(${JSON.stringify(sought.map((one, n) => ({ ...one, n })))}::jsonb)
      as s (n integer, field text, side text, id uuid, "atMicros" timestamptz)
    cross join lateral (
      select ${COLUMNS} from audit_log a cross join ${FIELDS} f
      where a.tenant_id = ${tenantId}::uuid and a.entity = 'customer' and a.entity_id = ${customerId} and f.field = s.field
        and (a.at, a.id) < (s."atMicros", s.id)
        and case when a.action = 'conflict.resolve' then f.change ->> 'winner' = s.side
                 when s.side = 'stripe' then a.actor = 'stripe'
                 else a.actor not in ('stripe', 'sync') end
      order by a.at desc, a.id desc limit 1
    ) e`
  const found = await opened(prisma, vault, tenantId, customerId, rows)
  const byPlace = new Map(found.map((entry, index) => [rows[index]?.n, entry]))
  return sought.map((_, n) => byPlace.get(n) ?? null)
}

async function opened<Entry extends FieldEntry>(
  prisma: PrismaDb,
  vault: Vault,
  tenantId: string,
  customerId: string,
  entries: readonly Entry[],
): Promise<Entry[]> {
  const seals = await vault.people(statementsOf(prisma), tenantId, entries.length === 0 ? [] : [customerId])
  const seal = seals.get(customerId) ?? null
  return entries.map((entry) => ({ ...entry, change: openChanges(seal, entry.change) as FieldChange }))
}
