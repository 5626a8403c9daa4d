import { createHash } from 'node:crypto'
import { isId } from '../lib/ids.js'
import { cursorParts, invalidCursor, isCursorTime } from './cursor.js'

/** Where a page of customers ended. */
export interface CustomerPosition {
  /** Which part of a search it was in; 0 for a plain list. */
  tier: number
  /** The sort column's value: a time to the microsecond, or folded text. */
  value: string
  id: string
}

/** What a cursor is good for: the same list only, since a place in one list means nothing in another. */
export interface CursorScope {
  sort: string
  /** Of all conditions of the list; see {@link fingerprintOf}. */
  fingerprint: string
  /** Whether the sort column is a time. */
  isTime: boolean
}

/** What Postgres cannot hold: U+0000 and halves of characters. */
const UNSTORABLE = /\0|\p{Cs}/u

/** The highest tier that a search has. */
const LAST_TIER = 9

/** The conditions of a list as a short text that differs when they do, whatever order they are named in. */
export function fingerprintOf(conditions: object): string {
  const entries = Object.entries(conditions)
    .filter(([, value]) => value !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
  return createHash('sha256').update(JSON.stringify(entries)).digest('base64url').slice(0, 12)
}

/** An opaque cursor for the customers after `position`. */
export function encodeCustomerCursor({ sort, fingerprint }: CursorScope, position: CustomerPosition): string {
  return Buffer.from(JSON.stringify([sort, fingerprint, position.tier, position.value, position.id])).toString(
    'base64url',
  )
}

/**
 * Reads a cursor that {@link encodeCustomerCursor} made for the same list.
 *
 * @throws {ValidationError} with code `invalid_cursor` when it was made up, altered, or made for another order or other filters.
 */
export function decodeCustomerCursor(cursor: string, scope: CursorScope): CustomerPosition {
  const [sort, fingerprint, tier, value, id, ...rest] = cursorParts(cursor)
  const isSound =
    rest.length === 0 &&
    typeof sort === 'string' &&
    typeof fingerprint === 'string' &&
    typeof tier === 'number' &&
    Number.isInteger(tier) &&
    tier >= 0 &&
    tier <= LAST_TIER &&
    typeof value === 'string' &&
    !UNSTORABLE.test(value) &&
    typeof id === 'string' &&
    isId(id)
  if (!isSound || encodeCustomerCursor({ ...scope, sort, fingerprint }, { tier, value, id }) !== cursor) {
    throw invalidCursor('is not one that a list answered')
  }
  if (sort !== scope.sort) throw invalidCursor(`belongs to another order than '${scope.sort}'; start without it`)
  if (fingerprint !== scope.fingerprint) throw invalidCursor('belongs to a list with other filters; start without it')
  if (scope.isTime && !isCursorTime(value)) throw invalidCursor('is not one that a list answered')
  return { tier, value, id }
}
