import { USER_STATES } from '../models/user.js'
import { CURSOR_TIME_FORMAT } from './cursor.js'
import {
  type CustomerFilter,
  type Hit,
  isTimeOrder,
  type KeyRange,
  LIST_ORDERS,
  type ListOrder,
  type Narrowing,
  type Stretch,
} from './customer-filter.js'
import { Prisma } from './generated/client.js'

/** Rows of `user_list` in order: those that the order's own index leads to, no further than `rows`. */
export function windowSql(
  tenantId: string,
  filter: CustomerFilter,
  served: Prisma.Sql[],
  { order, after, within }: Omit<Stretch, 'limit'>,
  rows: number,
): Prisma.Sql {
  const beyond = [...(after === null ? [] : [beyondSql(order, after)]), ...withinSql(order, within)]
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
export function walkSql(
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

/** The matches among these users. */
export function pickedSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  { order, limit, after }: Stretch,
  userIds: string[],
): Prisma.Sql {
  const where = [
    Prisma.sql`l.user_id = any(${userIds}::uuid[])`,
    ...listConditions(tenantId, filter, narrowing),
    ...(after === null ? [] : [beyondSql(order, after)]),
  ]
  return Prisma.sql`
    select ${hitSql(order)} from user_list l ${lookUpSql(tenantId, narrowing)}
    where ${and(where)} ${orderSql(order)} limit ${limit}`
}

/** All matches, found by the index of what names them, then put in order. */
export function gatherSql(
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
  const beyond = after === null ? Prisma.empty : Prisma.sql`and ${beyondSql(order, after)}`
  const first = (from: Prisma.Sql) => firstSql(order, limit, from)
  if (!hasPoints && !isLedBySearch) {
    return Prisma.sql`
      with found as materialized (select l.* from user_list l where ${conditions} ${beyond})
      ${first(Prisma.sql`found as l ${lookUpSql(tenantId, narrowing)}`)}`
  }
  // Row by row, by the primary key: a join of everything would read everything. `offset 0` keeps it so.
  const rows = Prisma.sql`cross join lateral (
    select l.* from user_list l where l.user_id = found.user_id and ${conditions} ${beyond} offset 0
  ) as l`
  if (hasPoints || narrowing === null) {
    const lookUp = lookUpSql(tenantId, narrowing)
    return Prisma.sql`
      with found as materialized (select u.id as user_id from users u where ${and(points)})
      ${first(Prisma.sql`found ${rows} ${lookUp}`)}`
  }
  const found = foundSql(tenantId, narrowing)
  if (isKeptBySearch(filter, order)) {
    return first(Prisma.sql`(select * from ${found} offset 0) as l where ${conditions} ${beyond}`)
  }
  if (order.column === 'updated_at') {
    return Prisma.sql`
      with found as materialized (select s.user_id from ${found}) ${first(Prisma.sql`found ${rows}`)}`
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

/** As {@link gatherSql} for a search, but those that also meet `first` come first; `stretch.after` is a place among these. */
export function rankedSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  first: Prisma.Sql,
  { order, limit, after }: Stretch,
): Prisma.Sql {
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
  const inOrder = Prisma.sql`order by is_first desc, ${orderKeysSql(order)}`
  return Prisma.sql`
    select ${hitSql(order)}, is_first as "isFirst" from (
      select l.user_id, ${Prisma.raw(`l.${order.column}`)}, is_first from ${from} ${beyond} ${inOrder} limit ${limit}
    ) as l ${inOrder}`
}

/**
 * All matches of a search without conditions that name few, found by its index and counted: as `total` on each row of the page, and on
 * one without a hit where there is none.
 */
export function countedGatherSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  { order, limit, after }: Stretch,
): Prisma.Sql {
  const conditions = and(listConditions(tenantId, filter, narrowing))
  const column = Prisma.raw(`l.${order.column}`)
  const from = isKeptBySearch(filter, order)
    ? Prisma.sql`(select * from ${foundSql(tenantId, narrowing)} offset 0) as l where ${conditions}`
    : Prisma.sql`(select s.user_id from ${foundSql(tenantId, narrowing)}) as found cross join lateral (
        select * from user_list l where l.user_id = found.user_id and ${conditions} offset 0
      ) as l`
  const beyond = after === null ? Prisma.empty : Prisma.sql`where ${beyondSql(order, after)}`
  return Prisma.sql`
    with found as materialized (select l.user_id, ${column} from ${from})
    select counted.total, ${hitSql(order)}
    from (select count(*)::int as total from found) as counted
    left join (select * from found as l ${beyond} ${orderSql(order)} limit ${limit}) as l on true
    ${orderSql(order)}`
}

/** The matches of a search among the rows of `user_search` in these pages of the table, from the first to before the second. */
export function denseSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  { from, to }: { from: number; to: number },
): Prisma.Sql {
  const conditions = and(listConditions(tenantId, filter, narrowing))
  const within = Prisma.sql`ctid >= ${`(${from},0)`}::tid and ctid < ${`(${to},0)`}::tid`
  // `offset 0` keeps the search from the index.
  return Prisma.sql`
    select 1 from (
      select s.* from (select * from user_search where ${within} offset 0) as s
      where ${tenantSql('s', tenantId)} and ${narrowing.search}
    ) as l where ${conditions}`
}

/** Matches in an order that lets the count stop at `most`. */
export function countedSql(
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  most: number,
): Prisma.Sql {
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
export function matchesSql(tenantId: string, filter: CustomerFilter, narrowing: Narrowing | null): Prisma.Sql {
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
export function conditionsOf(filter: CustomerFilter, order: ListOrder): { served: Prisma.Sql[]; rest: Prisma.Sql[] } {
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

function withinSql({ column }: ListOrder, within: KeyRange | undefined): Prisma.Sql[] {
  const key = Prisma.raw(`l.${column}`)
  return [
    ...(within === undefined || within.from === null ? [] : [Prisma.sql`${key} >= ${within.from}`]),
    ...(within === undefined || within.to === null ? [] : [Prisma.sql`${key} < ${within.to}`]),
  ]
}

/**
 * The first `limit` rows of `l` in this order as hits. Made of those only: the planner would write out all that it puts in order, which
 * for a time takes longer than to find it.
 */
function firstSql(order: ListOrder, limit: number, from: Prisma.Sql): Prisma.Sql {
  return Prisma.sql`
    select ${hitSql(order)} from (
      select l.user_id, ${Prisma.raw(`l.${order.column}`)} from ${from} ${orderSql(order)} limit ${limit}
    ) as l ${orderSql(order)}`
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
