import type { CustomerSort, CustomerTotal } from '../models/dtos/customer.dto.js'
import type { Page } from './cursor.js'
import { type CursorScope, decodeCustomerCursor, encodeCustomerCursor, fingerprintOf } from './customer-cursor.js'
import {
  type CustomerFilter,
  countHits,
  estimateHits,
  findHits,
  gatherHits,
  type Hit,
  isTimeOrder,
  LIST_ORDERS,
  type Narrowing,
  type Stretch,
} from './customer-list.js'
import { readSearch, type Search, type SearchRequest } from './customer-search.js'
import { type CustomerRow, findCustomers } from './customers.js'
import { Prisma } from './generated/client.js'
import { withoutRowSecurity } from './isolation.js'
import type { PrismaDb } from './prisma.js'

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

/** To compare the hashes of two words takes some ten times as long as to look for a word in a text. */
const FORGIVING_WINDOW = 1_000

/** The parts of a search, one after the other; a cursor names the one that its page ended in. */
const TIER = { plain: 0, whole: 1, begun: 2, anywhere: 3, forgiven: 4 } as const

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
  const list = { prisma, tenantId, filter, search, isByRelevance: sort === 'relevance' }
  const from = after === null ? null : { ...after }
  const found = await findTiered(list, { order, limit: limit + 1, after: from }, from?.tier ?? null)
  const hits = found.slice(0, limit)
  const last = hits.at(-1)
  const hasMore = found.length > limit
  const isForgiven = (last?.tier ?? from?.tier) === TIER.forgiven
  return {
    ids: hits.map(({ id }) => id),
    hasMore,
    nextCursor: hasMore && last !== undefined ? encodeCustomerCursor(scope, last) : null,
    ...(count && { total: await totalOf(list, isForgiven, count) }),
  }
}

interface List {
  prisma: PrismaDb
  tenantId: string
  filter: CustomerFilter
  search: Search | null
  isByRelevance: boolean
}

/** The next hits from `fromTier` on, which `stretch.after` is in. */
async function findTiered(list: List, stretch: Stretch, fromTier: number | null): Promise<TieredHit[]> {
  const { prisma, tenantId, filter, search, isByRelevance } = list
  const hits: TieredHit[] = []
  if (search === null) {
    const found = await findHits(prisma, tenantId, filter, null, stretch)
    return found.hits.map((hit) => ({ ...hit, tier: TIER.plain }))
  }
  const tiers = isByRelevance ? [TIER.whole, TIER.begun, TIER.anywhere] : [TIER.plain]
  let isSparse = false
  for (const tier of tiers) {
    if (fromTier !== null && tier < fromTier) continue
    const after = tier === fromTier ? stretch.after : null
    const part = { ...stretch, after, limit: stretch.limit - hits.length }
    const narrowing = narrowingOf(search, tier)
    // Where the tier before was rare, so most likely is this: no use in looking through the newest again.
    const found: { hits: Hit[]; isSparse: boolean } = isSparse
      ? { hits: await gatherHits(prisma, tenantId, filter, narrowing, part), isSparse }
      : await findHits(prisma, tenantId, filter, narrowing, part)
    isSparse = found.isSparse && !narrowing.isPointed
    hits.push(...found.hits.map((hit) => ({ ...hit, tier })))
    if (hits.length >= stretch.limit) return hits
  }
  if (hits.length > 0 || (fromTier !== null && fromTier !== TIER.forgiven)) return hits
  const forgiven = await findHits(prisma, tenantId, filter, narrowingOf(search, TIER.forgiven), stretch)
  return forgiven.hits.map((hit) => ({ ...hit, tier: TIER.forgiven }))
}

function narrowingOf(search: Search, tier: number): Narrowing {
  const { typed, begun, forgiven, whole } = search
  const others = [Prisma.sql`not ${whole}`]
  if (tier === TIER.whole) return { search: typed, list: [whole], isPointed: true }
  if (tier === TIER.begun) return { search: Prisma.sql`(${typed} and ${begun})`, list: others, isPointed: false }
  if (tier === TIER.anywhere) {
    return { search: Prisma.sql`(${typed} and not ${begun})`, list: others, isPointed: false }
  }
  if (tier === TIER.forgiven) return { search: forgiven, list: [], isPointed: false, window: FORGIVING_WINDOW }
  return { search: typed, list: [], isPointed: false }
}

async function totalOf(list: List, isForgiven: boolean, count: 'exact' | 'estimate'): Promise<CustomerTotal> {
  const { prisma, tenantId, filter, search } = list
  const narrowing = search === null ? null : narrowingOf(search, isForgiven ? TIER.forgiven : TIER.plain)
  const counted = await countHits(prisma, tenantId, filter, narrowing, MOST_COUNTED + 1)
  if (counted <= MOST_COUNTED) return { value: counted, relation: 'exact' }
  if (count === 'exact') return { value: MOST_COUNTED, relation: 'at_least' }
  const estimate = await estimateHits(prisma, tenantId, filter, narrowing)
  return { value: Math.max(estimate, MOST_COUNTED + 1), relation: 'estimate' }
}
