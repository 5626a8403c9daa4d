import type { ConflictSource, DuplicateSource, EventSource } from '../models/dtos/review.dto.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import { statementsOf } from './database.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'
import { openPayload } from './stripe-events.js'
import { openConflicts } from './sync-conflicts.js'
import type { Vault } from './vault.js'

/** Every list here is newest first; this names that order in cursors. */
export const REVIEW_ORDER = 'newest'

/** From where, and how many. */
export interface PageRequest {
  limit: number
  after: Position | null
}

const CONFLICT_COLUMNS = Prisma.sql`id, user_id as "userId", field, reason, policy, base, local, remote,
  local_at as "localAt", remote_at as "remoteAt", winner, status, detected_at as "detectedAt",
  resolved_at as "resolvedAt", resolved_by as "resolvedBy"`

/** A page of the tenant's conflicts. */
export async function listConflicts(
  prisma: PrismaDb,
  vault: Vault,
  tenantId: string,
  { status, userId }: { status?: ConflictSource['status'] | undefined; userId?: string | undefined },
  page: PageRequest,
): Promise<Page<ConflictSource>> {
  const result = await newest<ConflictSource>(prisma, {
    columns: CONFLICT_COLUMNS,
    table: Prisma.sql`sync_conflicts`,
    time: Prisma.sql`detected_at`,
    cursorId: (id) => Prisma.sql`${id}::uuid`,
    where: [
      Prisma.sql`tenant_id = ${tenantId}::uuid`,
      ...(status === undefined ? [] : [Prisma.sql`status = ${status}`]),
      ...(userId === undefined ? [] : [Prisma.sql`user_id = ${userId}::uuid`]),
    ],
    page,
  })
  return { ...result, data: await openConflicts(statementsOf(prisma), vault, tenantId, result.data) }
}

/** Other programs delete rows, and what names nobody is no id: both are left out of `matches`. */
const DUPLICATE_COLUMNS = Prisma.sql`id, stripe_customer_id as "stripeCustomerId", user_id as "userId", reason, candidates,
  matched_by as "matchedBy", status, detected_at as "detectedAt", (
    select coalesce(jsonb_agg(jsonb_build_object('customerId', u.id, 'state', u.state, 'stripeCustomerId', u.stripe_customer_id)
                              order by u.id), '[]')
    from users u where u.tenant_id = duplicate_customers.tenant_id and u.id in (
      select case when name ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then name::uuid end
      from (select duplicate_customers.user_id::text as name
            union select jsonb_array_elements_text(duplicate_customers.candidates)) as names)
  ) as matches`

/** One Stripe customer that looks like someone we have, or null. */
export async function findDuplicateForReview(
  prisma: PrismaDb,
  tenantId: string,
  id: string,
): Promise<DuplicateSource | null> {
  const rows = await prisma.$queryRaw<DuplicateSource[]>`
    select ${DUPLICATE_COLUMNS} from duplicate_customers where tenant_id = ${tenantId}::uuid and id = ${id}::uuid`
  return rows[0] ?? null
}

/** A page of the tenant's Stripe customers that look like someone we have. */
export function listDuplicates(
  prisma: PrismaDb,
  tenantId: string,
  { status }: { status?: DuplicateSource['status'] | undefined },
  page: PageRequest,
): Promise<Page<DuplicateSource>> {
  return newest<DuplicateSource>(prisma, {
    columns: DUPLICATE_COLUMNS,
    table: Prisma.sql`duplicate_customers`,
    time: Prisma.sql`detected_at`,
    cursorId: (id) => Prisma.sql`${id}::uuid`,
    where: [
      Prisma.sql`tenant_id = ${tenantId}::uuid`,
      ...(status === undefined ? [] : [Prisma.sql`status = ${status}`]),
    ],
    page,
  })
}

const EVENT_COLUMNS = Prisma.sql`id, type, account, livemode, stripe_customer_id as "stripeCustomerId",
  idempotency_key as "idempotencyKey", source, status, outcome, attempts, error, created, received_at as "receivedAt",
  processed_at as "processedAt"`

/** A page of the tenant's inbox, without the payloads, which are large and hold personal data. */
export function listEvents(
  prisma: PrismaDb,
  tenantId: string,
  filter: {
    status?: EventSource['status'] | undefined
    type?: string | undefined
    stripeCustomerId?: string | undefined
  },
  page: PageRequest,
): Promise<Page<EventSource>> {
  const { status, type, stripeCustomerId } = filter
  return newest<EventSource>(prisma, {
    columns: EVENT_COLUMNS,
    table: Prisma.sql`stripe_events`,
    time: Prisma.sql`received_at`,
    cursorId: (id) => Prisma.sql`${id}`,
    where: [
      Prisma.sql`tenant_id = ${tenantId}::uuid`,
      ...(status === undefined ? [] : [Prisma.sql`status = ${status}`]),
      ...(type === undefined ? [] : [Prisma.sql`type = ${type}`]),
      ...(stripeCustomerId === undefined ? [] : [Prisma.sql`stripe_customer_id = ${stripeCustomerId}`]),
    ],
    page,
  })
}

/** One event with what Stripe sent, or null. */
export async function findEvent(
  prisma: PrismaDb,
  vault: Vault,
  tenantId: string,
  id: string,
): Promise<(EventSource & { payload: unknown }) | null> {
  const rows = await prisma.$queryRaw<(EventSource & { payload: unknown })[]>`
    select ${EVENT_COLUMNS}, payload from stripe_events where tenant_id = ${tenantId}::uuid and id = ${id}`
  const [row] = rows
  return row === undefined ? null : { ...row, payload: openPayload(vault.cipher, tenantId, id, row.payload) }
}

/** Reads a page of `table`, newest by `time` first; the id makes the order total. */
async function newest<Row extends { id: string }>(
  prisma: PrismaDb,
  query: {
    columns: Prisma.Sql
    table: Prisma.Sql
    time: Prisma.Sql
    cursorId: (id: string) => Prisma.Sql
    where: Prisma.Sql[]
    page: PageRequest
  },
): Promise<Page<Row>> {
  const { columns, table, time, cursorId, where, page } = query
  const conditions =
    page.after === null
      ? where
      : [...where, Prisma.sql`(${time}, id) < (${page.after.value}::timestamptz, ${cursorId(page.after.id)})`]
  const rows = await prisma.$queryRaw<(Row & { cursorValue: string })[]>`
    select ${columns}, to_char(${time} at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "cursorValue"
    from ${table} where ${Prisma.join(conditions, ' and ')} order by ${time} desc, id desc limit ${page.limit + 1}`
  const result = pageOf(rows, page.limit, REVIEW_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...result, data: result.data.map(({ cursorValue: _cursor, ...row }) => row as unknown as Row) }
}
