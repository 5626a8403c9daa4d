import type { CustomerSort } from '../models/dtos/customer.dto.js'
import type { SyncStatus } from '../models/sync-state.js'
import { USER_STATES, type UserState, type UserType } from '../models/user.js'
import { CURSOR_TIME_FORMAT } from './cursor.js'
import type { CustomerPosition } from './customer-cursor.js'
import type { SearchPlan } from './customer-search.js'
import { Prisma } from './generated/client.js'
import { inTransaction, isClient, type PrismaDb } from './prisma.js'

/** Which customers to list, all conditions together. Of the times, `From` is inclusive and `To` exclusive. */
export interface CustomerFilter {
  email?: string
  phone?: string
  type?: UserType
  /** Absent: any. */
  state?: UserState
  syncStatus?: SyncStatus
  stripeCustomerId?: string
  createdFrom?: Date
  createdTo?: Date
  updatedFrom?: Date
  updatedTo?: Date
}

/** Further conditions, by which a search narrows a list. */
export interface Narrowing {
  /** On `user_search s`. */
  search: Prisma.Sql
  /** On `user_list l`. */
  list: Prisma.Sql[]
  /** Whether `list` names few rows that an index finds. */
  isPointed: boolean
  plan: SearchPlan
}

/** One place in the order of a list. */
export type Hit = Omit<CustomerPosition, 'tier'>

/** In which order, from where, and at most how many. */
export interface Stretch {
  order: ListOrder
  limit: number
  after: Hit | null
}

/** An order of `user_list`; the id makes it total. */
export interface ListOrder {
  column: 'created_at' | 'updated_at' | 'name' | 'email'
  isDescending: boolean
}

/** How each sort reads; a search ordered by relevance is newest first within what is equally relevant. */
export const LIST_ORDERS = {
  '-createdAt': { column: 'created_at', isDescending: true },
  createdAt: { column: 'created_at', isDescending: false },
  '-updatedAt': { column: 'updated_at', isDescending: true },
  updatedAt: { column: 'updated_at', isDescending: false },
  name: { column: 'name', isDescending: false },
  '-name': { column: 'name', isDescending: true },
  email: { column: 'email', isDescending: false },
  '-email': { column: 'email', isDescending: true },
  relevance: { column: 'created_at', isDescending: true },
} as const satisfies Record<CustomerSort, ListOrder>

/** Whether the order's column is a time. */
export function isTimeOrder({ column }: ListOrder): boolean {
  return column === 'created_at' || column === 'updated_at'
}

/**
 * How many rows of an order are looked through for matches before they are gathered by an index instead. What is not found among
 * so many is rare, so that gathering it is cheap: neither way is ever long, whatever the planner believes. A million users:
 * 4,000 rows take 10 ms; a page of 20 that they do not fill has fewer than 5,000 matches in all, if evenly spread.
 */
const WINDOW = { least: 4_000, perRow: 80 }

/** How many rows of an order are looked through for a page of `limit`. */
export function windowOf(limit: number): number {
  return Math.max(WINDOW.least, WINDOW.perRow * limit)
}

/** The first `limit` customers of `filter` in this order; `isSparse` when it took gathering to find them. */
export async function findHits(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  stretch: Stretch,
): Promise<{ hits: Hit[]; isSparse: boolean }> {
  const { served, rest } = conditionsOf(filter, stretch.order)
  if (narrowing?.isPointed !== true && !isPointed(filter)) {
    if (narrowing === null && rest.length === 0) {
      const hits = await run(prisma, walkSql(tenantId, filter, null, stretch, stretch.limit))
      return { hits, isSparse: false }
    }
    const rows = windowOf(stretch.limit)
    const hits = await run(prisma, walkSql(tenantId, filter, narrowing, stretch, rows))
    if (hits.length >= stretch.limit) return { hits, isSparse: false }
    if (await isShort(prisma, windowSql(tenantId, filter, served, stretch, rows), rows))
      return { hits, isSparse: false }
  }
  return { hits: await gatherHits(prisma, tenantId, filter, narrowing, stretch), isSparse: true }
}

/** The customers of `filter` in this order, by an index that leads to all of them. */
export async function gatherHits(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  stretch: Stretch,
): Promise<Hit[]> {
  const sql = gatherSql(tenantId, filter, narrowing, stretch)
  return narrowing === null || narrowing.plan.isSure ? run(prisma, sql) : byIndex<Hit>(prisma, sql)
}

/**
 * As {@link gatherHits}, for a search without conditions that name few, but those that also meet `first` come first, all in one go;
 * `stretch.after` is a place among these.
 */
export function gatherRanked(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  first: Prisma.Sql,
  { order, limit, after }: Stretch,
): Promise<(Hit & { isFirst: boolean })[]> {
  const conditions = and(listConditions(tenantId, filter, narrowing))
  const found = Prisma.sql`(
    select found.*, ${first} as is_first from (select s.* from ${foundSql(tenantId, narrowing)} offset 0) as found
  )`
  const from = isKeptBySearch(filter, order)
    ? Prisma.sql`${found} as l where ${conditions}`
    : Prisma.sql`${found} as found cross join lateral (
        select * from user_list l where l.user_id = found.user_id and ${conditions} offset 0
      ) as l where true`
  const beyond = after === null ? Prisma.empty : Prisma.sql`and (not is_first or ${beyondSql(order, after)})`
  const sql = Prisma.sql`
    select ${hitSql(order)}, is_first as "isFirst" from ${from} ${beyond}
    order by is_first desc, ${orderKeysSql(order)} limit ${limit}`
  return narrowing.plan.isSure ? prisma.$queryRaw(sql) : byIndex(prisma, sql)
}

/** Whether a filter names one user, or few, by itself. */
export function isPointed({ email, phone, stripeCustomerId }: CustomerFilter): boolean {
  return [email, phone, stripeCustomerId].some((value) => value !== undefined)
}

/** How many customers there are of `filter`, counted no further than `most`. */
export async function countHits(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  most: number,
): Promise<number> {
  const sql = Prisma.sql`
    select count(*)::int as count from (${countedSql(tenantId, filter, narrowing, most)} limit ${most}) as matches`
  const rows = await (narrowing === null || narrowing.plan.isSure
    ? prisma.$queryRaw<{ count: number }[]>(sql)
    : byIndex<{ count: number }>(prisma, sql))
  return rows[0]?.count ?? 0
}

/** How many customers of `filter` the planner expects, by its statistics. */
export async function estimateHits(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
): Promise<number> {
  const rows = await prisma.$queryRaw<{ 'QUERY PLAN': { Plan: { 'Plan Rows': number } }[] }[]>`
    explain (format json) ${matchesSql(tenantId, filter, narrowing)}`
  return rows[0]?.['QUERY PLAN'][0]?.Plan['Plan Rows'] ?? 0
}

/** Rows of `user_list` in order: those that the order's own index leads to, no further than `rows`. */
function windowSql(
  tenantId: string,
  filter: CustomerFilter,
  served: Prisma.Sql[],
  { order, after }: Pick<Stretch, 'order' | 'after'>,
  rows: number,
): Prisma.Sql {
  const beyond = after === null ? [] : [beyondSql(order, after)]
  // Each state by itself: only then is its part of the index in order.
  const states = filter.state === undefined ? USER_STATES : [filter.state]
  const parts = states.map((state) => {
    const where = [tenantSql('l', tenantId), Prisma.sql`l.state = ${state}`, ...served, ...beyond]
    return Prisma.sql`(select l.* from user_list l where ${and(where)} ${orderSql(order)} limit ${rows})`
  })
  if (parts.length === 1) return parts[0] ?? Prisma.empty
  return Prisma.sql`(select l.* from (${Prisma.join(parts, ' union all ')}) l ${orderSql(order)} limit ${rows})`
}

/** The matches among the next `rows` rows in order. */
function walkSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  stretch: Stretch,
  rows: number,
): Prisma.Sql {
  const { order, limit } = stretch
  const { served, rest } = conditionsOf(filter, order)
  const where = [...rest, ...(narrowing?.list ?? [])]
  const matching = where.length === 0 ? Prisma.empty : Prisma.sql`where ${and(where)}`
  return Prisma.sql`
    select ${hitSql(order)} from ${windowSql(tenantId, filter, served, stretch, rows)} l
    ${lookUpSql(tenantId, narrowing)} ${matching} ${orderSql(order)} limit ${limit}`
}

/** All matches, found by the index of what names them, then put in order. */
function gatherSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  stretch: Stretch,
): Prisma.Sql {
  const { order, limit, after } = stretch
  const conditions = and(listConditions(tenantId, filter, narrowing))
  const points = pointConditions(tenantId, filter)
  const hasPoints = points.length > 0
  const isLedBySearch = !hasPoints && narrowing !== null && !narrowing.isPointed
  const end = Prisma.sql`${orderSql(order)} limit ${limit}`
  const beyond = after === null ? Prisma.empty : Prisma.sql`and ${beyondSql(order, after)}`
  if (!hasPoints && !isLedBySearch) {
    return Prisma.sql`
      with found as materialized (select l.* from user_list l where ${conditions} ${beyond})
      select ${hitSql(order)} from found as l ${lookUpSql(tenantId, narrowing)} ${end}`
  }
  // Row by row, by the primary key: a join of everything would read everything. `offset 0` keeps it so.
  const rows = Prisma.sql`cross join lateral (
    select l.* from user_list l where l.user_id = found.user_id and ${conditions} ${beyond} offset 0
  ) as l`
  if (hasPoints || narrowing === null) {
    const lookUp = lookUpSql(tenantId, narrowing)
    return Prisma.sql`
      with found as materialized (select u.id as user_id from users u where ${and(points)})
      select ${hitSql(order)} from found ${rows} ${lookUp} ${end}`
  }
  const found = foundSql(tenantId, narrowing)
  if (isKeptBySearch(filter, order)) {
    return Prisma.sql`
      select ${hitSql(order)} from (select * from ${found} offset 0) as l where ${conditions} ${beyond} ${end}`
  }
  if (order.column === 'updated_at') {
    return Prisma.sql`
      with found as materialized (select s.user_id from ${found}) select ${hitSql(order)} from found ${rows} ${end}`
  }
  // In order already, so that rows are looked up only until the page is full.
  const column = Prisma.raw(order.column)
  const direction = Prisma.raw(order.isDescending ? 'desc' : 'asc')
  return Prisma.sql`
    with found as materialized (select s.user_id, s.${column} as key from ${found})
    select ${hitSql(order)}
    from (select * from found order by key ${direction}, user_id ${direction}) as found ${rows}
    order by found.key ${direction}, found.user_id ${direction} limit ${limit}`
}

/** Matches in an order that lets the count stop at `most`. */
function countedSql(tenantId: string, filter: CustomerFilter, narrowing: Narrowing | null, most: number): Prisma.Sql {
  const points = pointConditions(tenantId, filter)
  const { served, rest } = conditionsOf(filter, LIST_ORDERS.createdAt)
  if (points.length === 0 && narrowing === null) {
    if (rest.length > 0) return matchesSql(tenantId, filter, narrowing)
    return Prisma.sql`select 1 from ${windowSql(tenantId, filter, served, { order: LIST_ORDERS.createdAt, after: null }, most)} l`
  }
  const rows = Prisma.sql`cross join lateral (
    select l.user_id from user_list l where l.user_id = found.user_id and ${and(listConditions(tenantId, filter, narrowing))} offset 0
  ) as l`
  if (points.length > 0 || narrowing === null) {
    const found = Prisma.sql`(select u.id as user_id from users u where ${and(points)}) as found`
    return Prisma.sql`select 1 from ${found} ${rows} ${lookUpSql(tenantId, narrowing)}`
  }
  const found = foundSql(tenantId, narrowing)
  if (isKeptBySearch(filter, LIST_ORDERS.createdAt)) {
    const conditions = and(listConditions(tenantId, filter, narrowing))
    return Prisma.sql`select 1 from (select * from ${found} offset 0) as l where ${conditions}`
  }
  return Prisma.sql`select 1 from (select s.user_id from ${found}) as found ${rows}`
}

/** All matches, in no order. */
function matchesSql(tenantId: string, filter: CustomerFilter, narrowing: Narrowing | null): Prisma.Sql {
  const where = and(listConditions(tenantId, filter, narrowing))
  const points = pointConditions(tenantId, filter)
  const from = [
    ...(points.length === 0 ? [] : [Prisma.sql`join users u on u.id = l.user_id and ${and(points)}`]),
    ...(narrowing === null
      ? []
      : [
          Prisma.sql`join user_search s on s.user_id = l.user_id and ${tenantSql('s', tenantId)} and ${narrowing.search}`,
        ]),
  ]
  const joins = from.length === 0 ? Prisma.empty : Prisma.join(from, ' ')
  return Prisma.sql`select 1 from user_list l ${joins} where ${where}`
}

/** The rows of the search, led to by its index. */
function foundSql(tenantId: string, { search, plan }: Narrowing): Prisma.Sql {
  // `is true` keeps the condition from the index.
  const own = plan.isMain ? Prisma.sql`(${tenantSql('s', tenantId)}) is true` : tenantSql('s', tenantId)
  return Prisma.sql`user_search s where ${own} and ${search}`
}

/** Asks of each row of `l` whether the search finds it. */
function lookUpSql(tenantId: string, narrowing: Narrowing | null): Prisma.Sql {
  if (narrowing === null) return Prisma.empty
  return Prisma.sql`cross join lateral (
    select from user_search s where s.user_id = l.user_id and ${tenantSql('s', tenantId)} and ${narrowing.search} offset 0
  ) as hit`
}

/** The conditions that an index in this order serves by itself, and the others, but for tenant, state and points. */
function conditionsOf(filter: CustomerFilter, order: ListOrder): { served: Prisma.Sql[]; rest: Prisma.Sql[] } {
  const { type, syncStatus, createdFrom, createdTo, updatedFrom, updatedTo } = filter
  const ranges = {
    created_at: rangeSql('created_at', createdFrom, createdTo),
    updated_at: rangeSql('updated_at', updatedFrom, updatedTo),
  }
  const byStatus = syncStatus === undefined ? [] : [Prisma.sql`l.sync_status = ${syncStatus}`]
  const byType = type === undefined ? [] : [Prisma.sql`l.type = ${type}`]
  const facets = [byType, byStatus].filter((facet) => facet.length > 0)
  // Status and type have an index in order of creation each, so one of them is served.
  const servedFacet = order.column === 'created_at' ? (facets.pop() ?? []) : []
  const servedRange = order.column === 'created_at' || order.column === 'updated_at' ? ranges[order.column] : []
  return {
    served: [...servedFacet, ...servedRange],
    rest: [
      ...facets.flat(),
      ...(order.column === 'created_at' ? [] : ranges.created_at),
      ...(order.column === 'updated_at' ? [] : ranges.updated_at),
    ],
  }
}

/** Every condition on `user_list l`. */
function listConditions(tenantId: string, filter: CustomerFilter, narrowing: Narrowing | null): Prisma.Sql[] {
  const { served, rest } = conditionsOf(filter, LIST_ORDERS.createdAt)
  const states = filter.state === undefined ? [...USER_STATES] : [filter.state]
  return [
    tenantSql('l', tenantId),
    Prisma.sql`l.state = any(${states}::text[])`,
    ...served,
    ...rest,
    ...(narrowing?.list ?? []),
  ]
}

/** Conditions on `users u` that name one user, or few. */
function pointConditions(tenantId: string, { email, phone, stripeCustomerId }: CustomerFilter): Prisma.Sql[] {
  const points = [
    ...(email === undefined ? [] : [Prisma.sql`lower(u.email) = lower(${email})`]),
    ...(phone === undefined ? [] : [Prisma.sql`u.phone = ${phone}`]),
    ...(stripeCustomerId === undefined ? [] : [Prisma.sql`u.stripe_customer_id = ${stripeCustomerId}`]),
  ]
  return points.length === 0 ? [] : [tenantSql('u', tenantId), ...points]
}

function rangeSql(column: 'created_at' | 'updated_at', from: Date | undefined, to: Date | undefined): Prisma.Sql[] {
  const name = Prisma.raw(`l.${column}`)
  return [
    ...(from === undefined ? [] : [Prisma.sql`${name} >= ${from.toISOString()}::timestamptz`]),
    ...(to === undefined ? [] : [Prisma.sql`${name} < ${to.toISOString()}::timestamptz`]),
  ]
}

function tenantSql(alias: 'l' | 's' | 'u', tenantId: string): Prisma.Sql {
  return Prisma.sql`${Prisma.raw(alias)}.tenant_id = ${tenantId}::uuid`
}

function orderSql(order: ListOrder): Prisma.Sql {
  return Prisma.sql`order by ${orderKeysSql(order)}`
}

function orderKeysSql({ column, isDescending }: ListOrder): Prisma.Sql {
  const direction = isDescending ? 'desc' : 'asc'
  return Prisma.raw(`l.${column} ${direction}, l.user_id ${direction}`)
}

/** Whether `user_search` has all that this list is filtered and ordered by. */
function isKeptBySearch({ syncStatus, updatedFrom, updatedTo }: CustomerFilter, order: ListOrder): boolean {
  const others = [syncStatus, updatedFrom, updatedTo]
  return order.column !== 'updated_at' && others.every((condition) => condition === undefined)
}

function beyondSql(order: ListOrder, { value, id }: Hit): Prisma.Sql {
  const { column, isDescending } = order
  const type = Prisma.raw(isTimeOrder(order) ? 'timestamptz' : 'text')
  return Prisma.sql`(l.${Prisma.raw(column)}, l.user_id) ${Prisma.raw(isDescending ? '<' : '>')} (${value}::${type}, ${id}::uuid)`
}

/** A row of `l` as a {@link Hit}. */
function hitSql(order: ListOrder): Prisma.Sql {
  const column = Prisma.raw(`l.${order.column}`)
  const value = isTimeOrder(order) ? Prisma.sql`to_char(${column} at time zone 'UTC', ${CURSOR_TIME_FORMAT})` : column
  return Prisma.sql`l.user_id::text as id, ${value} as value`
}

function and(conditions: Prisma.Sql[]): Prisma.Sql {
  return Prisma.join(conditions, ' and ')
}

function run(prisma: PrismaDb, sql: Prisma.Sql): Promise<Hit[]> {
  return prisma.$queryRaw<Hit[]>(sql)
}

/**
 * Runs a query that leads from `user_search`. The planner takes hashes and parts of words for many times as common as they are, and
 * might read the whole table instead.
 */
async function byIndex<Row>(prisma: PrismaDb, sql: Prisma.Sql): Promise<Row[]> {
  const work = async (tx: PrismaDb) => {
    await tx.$executeRaw`set local enable_seqscan = off`
    const rows = await tx.$queryRaw<Row[]>(sql)
    await tx.$executeRaw`set local enable_seqscan to default`
    return rows
  }
  return isClient(prisma) ? inTransaction(prisma, work) : work(prisma)
}

async function isShort(prisma: PrismaDb, window: Prisma.Sql, rows: number): Promise<boolean> {
  const [found] = await prisma.$queryRaw<{ count: number }[]>`select count(*)::int as count from ${window} as passed`
  return (found?.count ?? 0) < rows
}
