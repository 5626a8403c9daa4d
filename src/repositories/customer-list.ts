import { type CustomerFilter, type Hit, isPointed, type Narrowing, type Stretch } from './customer-filter.js'
import {
  conditionsOf,
  countedGatherSql,
  countedSql,
  denseSql,
  gatherSql,
  matchesSql,
  rankedSql,
  walkSql,
  windowSql,
} from './customer-list-sql.js'
import { Prisma } from './generated/client.js'
import { inTransaction, isClient, type PrismaDb } from './prisma.js'

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
    if ((await countRows(prisma, windowSql(tenantId, filter, served, stretch, rows))) < rows)
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
  stretch: Stretch,
): Promise<(Hit & { isFirst: boolean })[]> {
  const sql = rankedSql(tenantId, filter, narrowing, first, stretch)
  return narrowing.plan.isSure ? prisma.$queryRaw(sql) : byIndex(prisma, sql)
}

/** Up to so many matches are gathered for the page and counted in one go: no page is found in much less than it takes to count them. */
const COUNTED_AT_ONCE = 20_000

/** Whether {@link gatherCounted} is the quickest way to a page with its count. */
export function isCountedAtOnce(filter: CustomerFilter, { plan }: Narrowing): boolean {
  return plan.found <= COUNTED_AT_ONCE && !isPointed(filter)
}

/** As {@link gatherHits} for a search, with the number of all that there are, before `stretch.after` too. */
export async function gatherCounted(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  stretch: Stretch,
): Promise<{ hits: Hit[]; counted: number }> {
  type Row = { total: number } & (Hit | { id: null; value: null })
  const sql = countedGatherSql(tenantId, filter, narrowing, stretch)
  const rows = await (narrowing.plan.isSure ? prisma.$queryRaw<Row[]>(sql) : byIndex<Row>(prisma, sql))
  const hits = rows.flatMap(({ id, value }) => (id === null ? [] : [{ id, value }]))
  return { hits, counted: rows[0]?.total ?? 0 }
}

/** How many customers there are of `filter`, counted no further than `most`. */
export async function countHits(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing | null,
  most: number,
): Promise<number> {
  if (narrowing !== null) {
    const share = shareToRead(filter, narrowing, most)
    if (share !== null && (await countDense(prisma, tenantId, filter, narrowing, share, most)) >= most) return most
    const { spelled, plan } = narrowing
    if (spelled !== null && isWide(filter) && plan.spelled > SPELLED_SURPLUS * most) {
      const counted = await countByIndex(prisma, tenantId, filter, { ...narrowing, search: spelled }, most)
      if (counted >= most) return most
    }
  }
  return countByIndex(prisma, tenantId, filter, narrowing, most)
}

async function countByIndex(
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

/** How many of them are in the first part of `user_search`, this share of it, as it lies in the table. May stop after `most`. */
async function countDense(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  share: number,
  most: number,
): Promise<number> {
  const end = Math.ceil((await searchPages(prisma)) * share)
  const middle = Math.floor(end / 2)
  const count = (from: number, to: number) => {
    const matches = denseSql(tenantId, filter, narrowing, { from, to })
    return countRows(prisma, Prisma.sql`(${matches} limit ${most})`)
  }
  // Two connections read at a time, which shortens the wait.
  const [first, second] = await Promise.all([count(0, middle), count(middle, end)])
  return first + second
}

/** What it takes, in microseconds, to read the next row of `user_search`, to find a match by its index, and to read that match. */
const COST = { row: 0.5, found: 0.25, match: 1.1 }

/** Rows read for each match that is expected among them, so that they hardly ever fall short. */
const SURPLUS = 1.25

/** What has a common word is expected that much more exactly: the statistics count it. */
const SPELLED_SURPLUS = 1.1

/**
 * The share of `user_search` among which `most` matches are found in less time than by the index, which finds all before the first can
 * be counted; null where there is none.
 */
function shareToRead(filter: CustomerFilter, { plan }: Narrowing, most: number): number | null {
  const share = (SURPLUS * most) / plan.found
  const isQuicker = share * plan.all * COST.row < plan.found * COST.found + most * COST.match
  return isWide(filter) && share < 0.5 && isQuicker ? share : null
}

/** Whether most customers are of `filter`. */
function isWide({ state, ...others }: CustomerFilter): boolean {
  return state !== 'archived' && state !== 'erased' && Object.values(others).every((value) => value === undefined)
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

/** Runs a query that answers hits. */
export function run(prisma: PrismaDb, sql: Prisma.Sql): Promise<Hit[]> {
  return prisma.$queryRaw<Hit[]>(sql)
}

/**
 * Runs a query that leads from `user_search`. The planner takes hashes and parts of words for many times as common as they are, and
 * might read the whole table instead.
 */
async function byIndex<Row>(prisma: PrismaDb, sql: Prisma.Sql): Promise<Row[]> {
  const work = async (tx: PrismaDb) => {
    await tx.$executeRaw`set local enable_seqscan = off`
    return tx.$queryRaw<Row[]>(sql)
  }
  if (isClient(prisma)) return inTransaction(prisma, work)
  const rows = await work(prisma)
  await prisma.$executeRaw`set local enable_seqscan to default`
  return rows
}

/** How many pages `user_search` has on the disk. */
async function searchPages(prisma: PrismaDb): Promise<number> {
  const [size] = await prisma.$queryRaw<{ pages: number }[]>`
    select (pg_relation_size('user_search') / current_setting('block_size')::int)::int as pages`
  return size?.pages ?? 0
}

/** How many rows a query has. */
export async function countRows(prisma: PrismaDb, rows: Prisma.Sql): Promise<number> {
  const [found] = await prisma.$queryRaw<{ count: number }[]>`select count(*)::int as count from ${rows} as passed`
  return found?.count ?? 0
}
