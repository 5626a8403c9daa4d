import Stripe from 'stripe'
import { isNestedWithin } from '../lib/json.js'

/** Why a delivery was refused. */
export type SignatureRefusal = 'bad_signature' | 'timestamp_out_of_tolerance' | 'unparsable_body'

/** The last second of the year 9999: what comes later is no time that Postgres and JavaScript agree on. */
const LATEST_TIME = 253_402_300_799

/** Stripe's deepest objects have some ten levels; what has thousands could be stored, but never be worked on. */
const DEEPEST = 200

/** The API version that the SDK speaks; an event comes in the version of its endpoint. */
export const SDK_API_VERSION: string = Stripe.API_VERSION

/**
 * What the check of a delivery found. `text` is the body, the event's JSON. `skew` is by how many seconds our clock is ahead of the signature's time (or the
 * delivery is old); null where no secret of ours signed, so that a stranger could have written any time.
 */
export type Verified =
  | { ok: true; event: Stripe.Event; text: string; skew: number }
  | { ok: false; reason: SignatureRefusal; skew: number | null }

/**
 * Checks Stripe's signature over the raw body and parses it (docs.stripe.com/webhooks#verify-manually). Any of the secrets
 * may have signed: while one rotates, both old and new do. A time too far in the past or the future is refused; the SDK
 * checks only the past, and throws other things than its own error for garbled headers, so all of it is caught here.
 *
 * @param tolerance seconds
 * @param now milliseconds since the Unix epoch
 */
export function verifyDelivery(options: {
  rawBody: Buffer
  header: string | undefined
  secrets: readonly string[]
  tolerance: number
  now: number
}): Verified {
  const { rawBody, header, secrets, tolerance, now } = options
  // Of several times the SDK signs the last: with another one checked for its age, an old delivery could pass as new.
  if (header === undefined || header.split(',').filter((part) => part.startsWith('t=')).length !== 1) {
    return { ok: false, reason: 'bad_signature', skew: null }
  }
  const text = rawBody.toString('utf8')
  if (!secrets.some((secret) => isSignedWith(text, header, secret))) {
    return { ok: false, reason: 'bad_signature', skew: null }
  }

  const timestamp = Number(/(?:^|,)t=(\d+)(?:,|$)/.exec(header)?.[1])
  if (!Number.isSafeInteger(timestamp)) return { ok: false, reason: 'timestamp_out_of_tolerance', skew: null }
  const skew = now / 1000 - timestamp
  if (Math.abs(skew) > tolerance) return { ok: false, reason: 'timestamp_out_of_tolerance', skew }
  const event = parseEvent(text)
  return event === null ? { ok: false, reason: 'unparsable_body', skew } : { ok: true, event, text, skew }
}

function isSignedWith(text: string, header: string, secret: string): boolean {
  try {
    return Stripe.webhooks.signature?.verifyHeader(text, header, secret, 0) ?? false
  } catch {
    return false
  }
}

/** The event in the body, if it has what the inbox must know of one; its object may have any shape. */
function parseEvent(text: string): Stripe.Event | null {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null) return null
    const { id, type, created, livemode, data } = value as Record<string, unknown>
    const isEvent =
      typeof id === 'string' &&
      /^evt_\w{1,250}$/.test(id) &&
      typeof type === 'string' &&
      typeof created === 'number' &&
      Number.isInteger(created) &&
      created >= 0 &&
      created <= LATEST_TIME &&
      typeof livemode === 'boolean' &&
      typeof data === 'object' &&
      data !== null &&
      typeof (data as Record<string, unknown>).object === 'object' &&
      (data as Record<string, unknown>).object !== null
    return isEvent && isNestedWithin(value, DEEPEST) ? (value as Stripe.Event) : null
  } catch {
    return null
  }
}
