import { ValidationError } from './errors.js'

/** What both JavaScript and Postgres can tell, in UTC. */
const YEARS = { first: 1, last: 9_999 }

/**
 * The time that ISO 8601 text of a request names. It allows what cannot be told here: a leap second, the year 0, and times that an offset
 * takes beyond the last year.
 *
 * @throws {ValidationError} `wrong_format`, naming `path`
 */
export function timeOf(path: string, text: string): Date {
  const time = new Date(text)
  const year = time.getUTCFullYear()
  // NaN is neither.
  if (year >= YEARS.first && year <= YEARS.last) return time
  throw new ValidationError([{ path, code: 'wrong_format', message: 'is not a time that can be told' }])
}
