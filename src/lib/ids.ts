import { v7 } from 'uuid'
import { randomBytes } from './random.js'

/** A new UUIDv7 (RFC 9562): time-ordered, so that inserts stay at the end of an index. */
export function newId(): string {
  return v7({ random: randomBytes(16) })
}

/** Whether `value` has the form of a UUID, of whatever version: other programs insert ids of their own. */
export function isId(value: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)
}
