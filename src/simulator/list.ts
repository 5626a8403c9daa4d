import type Stripe from 'stripe'
import { invalid, invalidInteger, unknownParameter } from './errors.js'
import type { Param, Params } from './form.js'
import { beginning, compareKeys, end, type Key, type Ordered } from './timeline.js'

/** A list call's window: creation bounds (inclusive seconds) and a cursor. */
export interface Window {
  limit: number
  low: number
  high: number
  after?: Key
  before?: Key
}

/** Unknown parameters come before every other complaint (stripe-facts section 1). */
export function allowOnly(params: Params, names: readonly string[]): void {
  for (const name of Object.keys(params)) if (!names.includes(name)) throw unknownParameter(name)
}

/** `limit` is clamped to 1..100 rather than refused; default 10. */
export function limitOf(params: Params): number {
  const raw = params.limit
  if (raw === undefined || raw === '') return 10
  return Math.min(100, Math.max(1, integer(raw, 'limit')))
}

export function integer(value: Param, param: string): number {
  if (typeof value !== 'string') throw invalidInteger(param, JSON.stringify(value))
  if (!/^-?\d{1,15}$/.test(value.trim())) throw invalidInteger(param, value)
  return Number(value)
}

/** `created` as a second, or as a range of gt, gte, lt, lte. */
export function createdBounds(created: Param | undefined): { low: number; high: number } {
  const bounds = { low: beginning.at, high: end.at }
  if (created === undefined || created === '') return bounds
  if (typeof created === 'string') {
    const second = integer(created, 'created')
    return { low: second, high: second }
  }
  for (const [name, value] of Object.entries(created)) {
    if (!['gt', 'gte', 'lt', 'lte'].includes(name)) throw unknownParameter(`created[${name}]`)
    const second = integer(value, `created[${name}]`)
    if (name === 'gt') bounds.low = Math.max(bounds.low, second + 1)
    if (name === 'gte') bounds.low = Math.max(bounds.low, second)
    if (name === 'lt') bounds.high = Math.min(bounds.high, second - 1)
    if (name === 'lte') bounds.high = Math.min(bounds.high, second)
  }
  return bounds
}

/** Reads a list's window; `keyOf` finds a cursor's place and throws where there is none. */
export function windowOf(params: Params, keyOf: (id: string, param: string) => Key): Window {
  const window: Window = { limit: limitOf(params), ...createdBounds(params.created) }
  const { starting_after: after, ending_before: before } = params
  if (after && before) {
    throw invalid(
      'You may only specify one of these parameters: starting_after, ending_before.',
      'starting_after',
      'parameters_exclusive',
    )
  }
  if (typeof after === 'string' && after !== '') window.after = keyOf(after, 'starting_after')
  if (typeof before === 'string' && before !== '') window.before = keyOf(before, 'ending_before')
  return window
}

/** One page, newest first, of what `matches`. With `before` it is the page that ends just before that cursor. */
export function page<T>(
  source: Ordered<T>,
  window: Window,
  matches: (item: T) => boolean = () => true,
): { items: T[]; hasMore: boolean } {
  const found: T[] = []
  const upward = window.before !== undefined
  for (const item of upward ? source.ascend(lowest(window)) : source.descend(highest(window))) {
    const { at } = source.keyOf(item)
    if (upward ? at > window.high : at < window.low) break
    if (!matches(item)) continue
    if (found.length === window.limit) return { items: upward ? found.reverse() : found, hasMore: true }
    found.push(item)
  }
  return { items: upward ? found.reverse() : found, hasMore: false }
}

/** A few items that were found by another index, as an order. `sorted` is oldest first. */
export function orderedOf<T>(sorted: T[], keyOf: (item: T) => Key): Ordered<T> {
  return {
    keyOf,
    ascend: (above) => sorted.filter((item) => compareKeys(keyOf(item), above) > 0),
    descend: (below) => sorted.filter((item) => compareKeys(keyOf(item), below) < 0).reverse(),
  }
}

export function listOf<T>(url: string, data: T[], hasMore: boolean): Stripe.ApiList<T> {
  return { object: 'list', data, has_more: hasMore, url }
}

function highest({ after, high }: Window): Key {
  const bound = { at: high, seq: end.seq }
  return after && compareKeys(after, bound) < 0 ? after : bound
}

function lowest({ before, low }: Window): Key {
  const bound = { at: low, seq: beginning.seq }
  return before && compareKeys(before, bound) > 0 ? before : bound
}
