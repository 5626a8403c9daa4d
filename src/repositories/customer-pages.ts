import type { CustomerSort, CustomerTotal } from '../models/dtos/customer.dto.js'
import type { Page } from './cursor.js'
import { type CursorScope, decodeCustomerCursor, encodeCustomerCursor, fingerprintOf } from './customer-cursor.js'
import {
  type CustomerFilter,
  type Hit,
  isPointed,
  isTimeOrder,
  LIST_ORDERS,
  type Narrowing,
  type SearchPlan,
  type Stretch,
} from './customer-filter.js'
import {
  countHits,
  estimateHits,
  findHits,
  gatherCounted,
  gatherHits,
  gatherRanked,
  isCountedAtOnce,
  windowOf,
} from './customer-list.js'
import { planSearch, readSearch, type Search, type SearchRequest } from './customer-search.js'
import { type CustomerRow, findCustomers } from './customers.js'
import { Prisma } from './generated/client.js'
import { withoutRowSecurity } from './isolation.js'
import { isClient, type PrismaDb } from './prisma.js'
import { walkZones, zonesOf } from './zone-walk.js'

/** Which customers: all conditions together. */
export interface CustomerSelection extends CustomerFilter {
  search?: SearchRequest
}

/** In which order, from where, how many, and whether to count all. */
export interface CustomerPageRequest {
  /** `relevance` counts as newest first where there is no search. */
  sort: CustomerSort
  limit: number
  /** `nextCursor` of the page before. */
  cursor?: string | undefined
  count?: 'exact' | 'estimate' | undefined
}

/** A page of customers. */
export interface CustomerPage extends Page<CustomerRow> {
  /** How many there are on all pages, if that was asked. */
  total?: CustomerTotal
}

/** Counting goes no further than this: what it takes grows with it. */
const MOST_COUNTED = 10_000

/** Where an estimate will do and it expects more than this, nothing is counted: there are surely more than {@link MOST_COUNTED}. */
const SURELY_MORE = 2 * MOST_COUNTED

/** The parts of a search, one after the other; a cursor names the one that its page ended in. */
const TIER = { plain: 0, whole: 1, begun: 2, anywhere: 3, forgiven: 4 } as const

const NO_PLAN: SearchPlan = { found: 0, all: 0, spelled: 0, isThin: false, isRare: false, isSure: false, isMain: false }

interface TieredHit extends Hit {
  tier: number
}

/**
 * A page of the tenant's customers.
 *
 * A search finds what has all its words as typed; only if nothing has, one slip in each word is forgiven. By relevance come first
 * those whose name or e-mail is the text, then those with words that begin so, then the others, newest first in each.
 *
 * @throws {ValidationError} `invalid_cursor` for a cursor of another list, and for a search of too many words
 */
export async function listCustomers(
  prisma: PrismaDb,
  tenantId: string,
  selection: CustomerSelection,
  request: CustomerPageRequest,
): Promise<CustomerPage> {
  // It names the tenant in every condition, and under row-level security few of its indexes could be used. What it finds are ids: the
  // customers themselves are read as everything else is.
  const { ids, ...page } = await withoutRowSecurity(prisma, () => findPage(prisma, tenantId, selection, request))
  return { ...page, data: await findCustomers(prisma, tenantId, ids) }
}

/** A page of ids. */
async function findPage(
  prisma: PrismaDb,
  tenantId: string,
  selection: CustomerSelection,
  { sort, limit, cursor, count }: CustomerPageRequest,
): Promise<Omit<CustomerPage, 'data'> & { ids: string[] }> {
  const { search: request, ...filter } = selection
  const order = LIST_ORDERS[sort]
  const scope: CursorScope = { sort, fingerprint: fingerprintOf(selection), isTime: isTimeOrder(order) }
  const after = cursor === undefined ? null : decodeCustomerCursor(cursor, scope)

  const search = request === undefined ? null : await readSearch(prisma, tenantId, request)
  if (request !== undefined && search === null) {
    return { ids: [], hasMore: false, nextCursor: null, ...(count && { total: { value: 0, relation: 'exact' } }) }
  }
  const plan =
    search === null
      ? NO_PLAN
      : await planSearch(
          prisma,
          tenantId,
          // Only counts ask for it.
          { search: search.typed, spelled: count === 'exact' ? search.spelled : null },
          { order, limit, window: windowOf(limit) },
        )
  const list = {
    prisma,
    tenantId,
    filter,
    search,
    plan,
    isByRelevance: sort === 'relevance',
    count,
  }
  const from = after === null ? null : { ...after }
  const [{ found, counted }, countedApart] = await Promise.all([
    findTiered(list, { order, limit: limit + 1, after: from }, from?.tier ?? null),
    countApart(list),
  ])
  const hits = found.slice(0, limit)
  const last = hits.at(-1)
  const hasMore = found.length > limit
  const isForgiven = (last?.tier ?? from?.tier) === TIER.forgiven
  return {
    ids: hits.map(({ id }) => id),
    hasMore,
    nextCursor: hasMore && last !== undefined ? encodeCustomerCursor(scope, last) : null,
    ...(count && { total: await totalOf(list, isForgiven, counted ?? (isForgiven ? undefined : countedApart)) }),
  }
}

interface List {
  prisma: PrismaDb
  tenantId: string
  filter: CustomerFilter
  search: Search | null
  /** For what is found as typed. */
  plan: SearchPlan
  isByRelevance: boolean
  count: CustomerPageRequest['count']
}

interface Found {
  found: TieredHit[]
  /** How many there are on all pages, where that came with the page. */
  counted?: number | undefined
}

/** The next hits from `fromTier` on, which `stretch.after` is in. */
async function findTiered(list: List, stretch: Stretch, fromTier: number | null): Promise<Found> {
  const { prisma, tenantId, filter, search, plan, isByRelevance } = list
  const hits: TieredHit[] = []
  if (search === null) {
    const found = await findHits(prisma, tenantId, filter, null, stretch)
    return { found: found.hits.map((hit) => ({ ...hit, tier: TIER.plain })) }
  }
  const tiers = isByRelevance ? [TIER.whole, TIER.begun, TIER.anywhere] : [TIER.plain]
  let isSparse = plan.isRare
  let counted: number | undefined
  for (const tier of tiers) {
    if (fromTier !== null && tier < fromTier) continue
    const after = tier === fromTier ? stretch.after : null
    const part = { ...stretch, after, limit: stretch.limit - hits.length }
    if (isSparse && tier === TIER.begun && !isPointed(filter)) {
      hits.push(...(await gatherByRank(list, search, part)))
      break
    }
    const narrowing = narrowingOf(search, plan, tier)
    // Where the tier before was rare, so most likely is this: no use in looking through the newest again.
    const found = await findTier(list, tier, narrowing, part, isSparse)
    isSparse ||= found.isSparse && !narrowing.isPointed
    counted = found.counted
    hits.push(...found.hits.map((hit) => ({ ...hit, tier })))
    if (hits.length >= stretch.limit) break
  }
  if (hits.length > 0 || (fromTier !== null && fromTier !== TIER.forgiven)) return { found: hits, counted }
  const forgiven = await search.forgiven()
  if (forgiven === null && fromTier === null) return { found: hits, counted }
  const scope = { order: stretch.order, limit: stretch.limit, window: windowOf(stretch.limit) }
  const wanted = { search: forgiven ?? search.typed, spelled: null }
  const narrowing = forgivingOf(search, await planSearch(prisma, tenantId, wanted, scope), forgiven)
  const found = await findTier(list, TIER.forgiven, narrowing, stretch, narrowing.plan.isRare)
  return { found: found.hits.map((hit) => ({ ...hit, tier: TIER.forgiven })), counted: found.counted }
}

/** The next hits of one tier; with their number, where it is asked for and the tier has all there is. */
async function findTier(
  { prisma, tenantId, filter, count }: List,
  tier: number,
  narrowing: Narrowing,
  stretch: Stretch,
  isSparse: boolean,
): Promise<{ hits: Hit[]; isSparse: boolean; counted?: number }> {
  const hasAll = tier === TIER.plain || tier === TIER.forgiven
  if (count !== undefined && hasAll && isCountedAtOnce(filter, narrowing)) {
    return { ...(await gatherCounted(prisma, tenantId, filter, narrowing, stretch)), isSparse: true }
  }
  const zones = await zonesOf(prisma, tenantId, filter, narrowing, stretch)
  const hits = zones === null ? null : await walkZones(prisma, tenantId, filter, narrowing, stretch, zones)
  if (hits !== null) return { hits, isSparse: false }
  if (isSparse || zones !== null) {
    return { hits: await gatherHits(prisma, tenantId, filter, narrowing, stretch), isSparse: true }
  }
  return findHits(prisma, tenantId, filter, narrowing, stretch)
}

/** What words begin so, and then what else has them, in one go. */
async function gatherByRank(list: List, search: Search, stretch: Stretch): Promise<TieredHit[]> {
  const { prisma, tenantId, filter, plan } = list
  const narrowing = { ...narrowingOf(search, plan, TIER.plain), list: narrowingOf(search, plan, TIER.begun).list }
  const found = await gatherRanked(prisma, tenantId, filter, narrowing, search.begun('found'), stretch)
  return found.map(({ isFirst, ...hit }) => ({ ...hit, tier: isFirst ? TIER.begun : TIER.anywhere }))
}

function forgivingOf({ typed }: Search, plan: SearchPlan, forgiven: Prisma.Sql | null): Narrowing {
  return { search: forgiven ?? typed, pieces: null, spelled: null, list: [], isPointed: false, plan }
}

function narrowingOf({ typed, pieces, spelled, begun, whole }: Search, plan: SearchPlan, tier: number): Narrowing {
  const others = { pieces, spelled: null, list: [Prisma.sql`not ${whole}`], isPointed: false, plan }
  if (tier === TIER.whole) return { search: typed, pieces, spelled: null, list: [whole], isPointed: true, plan }
  if (tier === TIER.begun) return { search: Prisma.sql`(${typed} and ${begun('s')})`, ...others }
  if (tier === TIER.anywhere) return { search: Prisma.sql`(${typed} and not ${begun('s')})`, ...others }
  return { search: typed, pieces, spelled, list: [], isPointed: false, plan }
}

/** Counts very many while the page is looked for, on another connection; by far the most of the time goes there. */
async function countApart({ prisma, tenantId, filter, search, plan, count }: List): Promise<number | undefined> {
  if (count === undefined || search === null || !isClient(prisma)) return undefined
  if (count === 'estimate' && plan.found > SURELY_MORE) return undefined
  const narrowing = narrowingOf(search, plan, TIER.plain)
  if (isCountedAtOnce(filter, narrowing) || isPointed(filter)) return undefined
  return countHits(prisma, tenantId, filter, narrowing, MOST_COUNTED + 1)
}

/** @param known how many there are, where that is known already */
async function totalOf(list: List, isForgiven: boolean, known: number | undefined): Promise<CustomerTotal> {
  if (known !== undefined && known <= MOST_COUNTED) return { value: known, relation: 'exact' }
  const { prisma, tenantId, filter, search, plan, count } = list
  const narrowing =
    search === null
      ? null
      : isForgiven
        ? forgivingOf(search, plan, await search.forgiven())
        : narrowingOf(search, plan, TIER.plain)
  const estimate = count === 'estimate' ? await estimateHits(prisma, tenantId, filter, narrowing) : null
  if (estimate !== null && estimate > SURELY_MORE) return { value: estimate, relation: 'estimate' }
  const counted = known ?? (await countHits(prisma, tenantId, filter, narrowing, MOST_COUNTED + 1))
  if (counted <= MOST_COUNTED) return { value: counted, relation: 'exact' }
  if (estimate === null) return { value: MOST_COUNTED, relation: 'at_least' }
  return { value: Math.max(estimate, MOST_COUNTED + 1), relation: 'estimate' }
}
