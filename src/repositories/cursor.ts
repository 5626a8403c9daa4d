import { ValidationError } from '../lib/errors.js'

/** One page of a list, and how to ask for the next one. */
export interface Page<T> {
  data: T[]
  /** What to send as `cursor`; null on the last page. */
  nextCursor: string | null
  hasMore: boolean
}

/** Where a page ended: the sort column's value, to the microsecond that Postgres has and `Date` has not, and the id. */
export interface Position {
  value: string
  id: string
}

/** The SQL template for the sort value of a `timestamptz` column, in the form that {@link Position} has. */
export const CURSOR_TIME_FORMAT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'

const TIME = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})\.\d{6}Z$/

/** An opaque cursor for the rows after `position` of a list ordered by `sort`. */
export function encodeCursor(sort: string, position: Position): string {
  return Buffer.from(JSON.stringify([sort, position.value, position.id])).toString('base64url')
}

/**
 * Reads a cursor that {@link encodeCursor} made for the same order.
 *
 * @param isId whether a text can be an id of this list
 * @throws {ValidationError} with code `invalid_cursor` when it was made up, altered, or made for another order.
 */
export function decodeCursor(cursor: string, sort: string, isId: (id: string) => boolean): Position {
  const [madeFor, value, id, ...rest] = cursorParts(cursor)
  const sound =
    rest.length === 0 && typeof value === 'string' && isCursorTime(value) && typeof id === 'string' && isId(id)
  if (!sound || encodeCursor(String(madeFor), { value, id }) !== cursor)
    throw invalidCursor('is not one that a list answered')
  if (madeFor !== sort) throw invalidCursor(`belongs to another order than '${sort}'; start without it`)
  return { value, id }
}

/**
 * Makes a page of rows that were read one beyond `limit`.
 *
 * @param position the row's place in the order
 */
export function pageOf<Row>(rows: Row[], limit: number, sort: string, position: (row: Row) => Position): Page<Row> {
  const hasMore = rows.length > limit
  const data = hasMore ? rows.slice(0, limit) : rows
  const last = data.at(-1)
  return { data, hasMore, nextCursor: hasMore && last !== undefined ? encodeCursor(sort, position(last)) : null }
}

/** What an opaque cursor holds; empty when it is none. */
export function cursorParts(cursor: string): unknown[] {
  try {
    const parsed: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'))
    return Array.isArray(parsed) ? parsed : []
  } catch {
    return []
  }
}

/** Whether the text is a time as {@link CURSOR_TIME_FORMAT} writes it. JavaScript reads 30 February as 2 March, Postgres refuses it: only what comes back unchanged is a time. */
export function isCursorTime(value: string): boolean {
  const seconds = TIME.exec(value)?.[1]
  if (seconds === undefined) return false
  const time = Date.parse(`${seconds}Z`)
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(seconds)
}

/** What to throw at a cursor that cannot be used. */
export function invalidCursor(why: string): ValidationError {
  return new ValidationError(
    [{ path: 'cursor', code: 'invalid_cursor', message: `The cursor ${why}.` }],
    'invalid_cursor',
  )
}
