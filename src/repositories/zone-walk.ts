import {
  type CustomerFilter,
  type Hit,
  isPointed,
  type KeyRange,
  type ListOrder,
  type Narrowing,
  type Stretch,
} from './customer-filter.js'
import { countRows, run } from './customer-list.js'
import { conditionsOf, pickedSql, walkSql, windowSql } from './customer-list-sql.js'
import type { PrismaDb } from './prisma.js'
import { findZones, type SearchZones } from './search-zones.js'
import { compareBytes } from './zone-map.js'

/** Rows that are looked through in zones where a match may be, and pieces of the order that they lie in, before gathering is quicker. */
const MOST_IN_ZONES = { rows: 12_000, ranges: 12 }

/** What a zone map says of a search in this order; null where there is none, or it would be no help. */
export async function zonesOf(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  { pieces, isPointed: isNamed, plan }: Narrowing,
  { order: { column } }: Stretch,
): Promise<SearchZones | null> {
  const isInZones = column === 'name' || column === 'email'
  if (!isInZones || pieces === null || plan.isThin || isNamed || isPointed(filter)) return null
  return findZones(prisma, tenantId, column, pieces)
}

/** The first `limit` matches, looked for where they may be only; null when they are not found so in reasonable time. */
export async function walkZones(
  prisma: PrismaDb,
  tenantId: string,
  filter: CustomerFilter,
  narrowing: Narrowing,
  stretch: Stretch,
  { changed, ...zones }: SearchZones,
): Promise<Hit[] | null> {
  const { order, limit, after } = stretch
  const ranges = possibleRanges(zones, order.isDescending, after?.value ?? null)
  const { served } = conditionsOf(filter, order)
  const hits: Hit[] = []
  let left = MOST_IN_ZONES.rows
  for (const [nth, within] of ranges.entries()) {
    if (nth >= MOST_IN_ZONES.ranges) return null
    const part = { ...stretch, within, limit: limit - hits.length }
    hits.push(...(await run(prisma, walkSql(tenantId, filter, narrowing, part, left))))
    if (hits.length >= limit) break
    left -= await countRows(prisma, windowSql(tenantId, filter, served, part, left))
    if (left <= 0) return null
  }
  const others = changed.length === 0 ? [] : await run(prisma, pickedSql(tenantId, filter, narrowing, stretch, changed))
  return mergeHits(hits, others, order).slice(0, limit)
}

/** Both, each of which is in order, in order, and whoever is in both once. */
function mergeHits(some: Hit[], others: Hit[], { isDescending }: ListOrder): Hit[] {
  const all = new Map([...some, ...others].map((hit) => [hit.id, hit]))
  const sign = isDescending ? -1 : 1
  return [...all.values()].sort((a, b) => sign * (compareBytes(a.value, b.value) || compareBytes(a.id, b.id)))
}

/** The parts of the order that may have a match, in this direction and from `after` on; zones that lie side by side as one. */
function possibleRanges(
  { bounds, isPossible }: Omit<SearchZones, 'changed'>,
  isDescending: boolean,
  after: string | null,
): KeyRange[] {
  const ranges: KeyRange[] = []
  for (let zone = 0; zone <= bounds.length; zone += 1) {
    if (isPossible[zone] !== true) continue
    const range = { from: bounds[zone - 1] ?? null, to: bounds[zone] ?? null }
    const last = ranges.at(-1)
    if (last !== undefined && last.to === range.from) last.to = range.to
    else ranges.push(range)
  }
  const isAhead = ({ from, to }: KeyRange) =>
    after === null ||
    (isDescending ? from === null || compareBytes(from, after) <= 0 : to === null || compareBytes(to, after) > 0)
  const ahead = ranges.filter(isAhead)
  return isDescending ? ahead.reverse() : ahead
}
