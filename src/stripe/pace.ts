/**
 * How fast a Stripe account may be called, as a pure function of what happened. One state per account, shared by all processes;
 * {@link decide} says who may call now.
 *
 * - **Two limits** hold at once, as at Stripe (docs.stripe.com/rate-limits): of all calls, and of each operation. Each is a token
 *   bucket of a few places: calls go out evenly, not in bursts at the beginning of each second.
 * - **Priority by reserve** (trunk reservation, as in telephone networks): a sweep may take only what stands above the places that
 *   pushes may take, and these only what stands above the last ones, which are for people. So it holds across processes, though
 *   none knows of the others' waiters: where a higher class uses up what flows in, the level stays below what a lower one needs;
 *   where none does, the level stands there, and the lower class gets all that flows in.
 * - **Nobody starves**: a lower class is owed a tenth of what flows in, and may go into debt for it.
 * - **429**: the rate of what was refused falls to 0.85 of what it was, at most once a second, to 0.6 when it fell lately already, and
 *   grows back by a twentieth of the whole each second: additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the
 *   increase and decrease algorithms for congestion avoidance in computer networks", 1989). A single call too many costs little so,
 *   and a limit that others use up as well is left to them within seconds.
 * - **The rate that was refused is remembered**: near it the rate grows slowly, and beyond it as before, since then the limit is there
 *   no longer (after CUBIC, RFC 9438). So a limit below the configured one is used, not run into again and again.
 */

/** Who is served first: a person who waits, the push of a change, a pass over everything. */
export const URGENCIES = ['interactive', 'push', 'sweep'] as const
export type Urgency = (typeof URGENCIES)[number]

/** Calls per second that may be made. */
export interface Limits {
  /** To the account, whatever they are. */
  account: number
  /** Of one operation. */
  operation: number
}

/** A call that waits for its place. */
export interface Wish {
  /** Such as `customers.list`. */
  operation: string
  urgency: Urgency
}

/** Where one limit stands. Times are milliseconds by the store's clock. */
interface Bucket {
  /** Below 0: lent to a class that was owed. */
  places: number
  /** Of the configured rate, what is permitted: 1, or less after answers of 429. */
  share: number
  /** The share that was refused last; 1 if none was. */
  refused: number
  /** When it was last lowered. */
  loweredAt: number
  /** Nobody calls before. */
  blockedUntil: number
  /** Places that pushes, and sweeps, are owed. */
  owed: [push: number, sweep: number]
}

/** Where an account stands. */
export interface Pace {
  at: number
  account: Bucket
  operations: Record<string, Bucket>
}

/** Of the configured rate, what flows in: calls do not arrive as evenly as they are let go. */
const HEADROOM = 0.97
/** What each higher class has in reserve before a lower one, as a part of the rate; one place at least. */
const RESERVE = 0.05
/**
 * What may gather above the reserves, so that who comes a little late loses nothing. With what flows in, it is no more than the limit
 * lets through in any second.
 */
const SLACK = { part: 0.01, least: 1.5 }
/** Of what flows in, what each lower class gets in any case. */
const OWED_PART = 0.1
const MOST_OWED = 1
/** How far the places may be lent out. */
const MOST_LENT = 1

const DECREASE = { first: 0.85, again: 0.6 }
/** A rate that fell within this time fell lately. */
const LATELY_MS = 5_000
const INCREASE_PER_SECOND = 0.05
/** What is near the share that was refused last, and by what part of it the share grows there in a second. */
const NEAR = { from: 0.97, to: 1.03, increasePerSecond: 0.005 }
const LEAST_SHARE = 0.1
/** Answers of 429 within this time speak of the same crowd. */
const ONE_CROWD_MS = 1_000
/** The longest that a `Retry-After` is heeded. */
const LONGEST_BLOCK_MS = 60_000
const LONGEST_WAIT_MS = 1_000

/** An account that was not called lately. */
export function freshPace(limits: Limits, now: number): Pace {
  return { at: now, account: fullBucket(limits.account, now), operations: {} }
}

/** The pace at a later time. A clock that was set back costs what would have flowed in meanwhile, no more. */
export function advance(pace: Pace, now: number, limits: Limits): Pace {
  const operations: Record<string, Bucket> = {}
  for (const [name, bucket] of Object.entries(pace.operations)) {
    operations[name] = flow(bucket, pace.at, now, limits.operation)
  }
  return { at: now, account: flow(pace.account, pace.at, now, limits.account), operations }
}

/**
 * Who of those that wait may call now: `granted`, with the pace after them. Nobody: `waitMs` says after how long somebody may.
 *
 * @param wishes the most urgent first, and of the same urgency who came first
 */
export function decide<W extends Wish>(
  before: Pace,
  now: number,
  wishes: readonly W[],
  limits: Limits,
): { pace: Pace; granted: W[]; waitMs: number } {
  const pace = advance(before, now, limits)
  const granted: W[] = []
  const refused = new Set<string>()
  let waitMs = LONGEST_WAIT_MS
  for (const wish of wishes) {
    const kind = `${wish.urgency} ${wish.operation}`
    if (refused.has(kind)) continue
    const operation = pace.operations[wish.operation] ?? fullBucket(limits.operation, now)
    const wait = Math.max(
      timeUntil(pace.account, limits.account, wish.urgency, now),
      timeUntil(operation, limits.operation, wish.urgency, now),
    )
    if (wait > 0) {
      refused.add(kind)
      waitMs = Math.min(waitMs, wait)
      continue
    }
    granted.push(wish)
    pace.account = taken(pace.account, wish.urgency)
    pace.operations[wish.operation] = taken(operation, wish.urgency)
  }
  return { pace, granted, waitMs }
}

/**
 * The pace after an answer of 429.
 *
 * @param refusal.operation the operation that is called too often; null: the account is
 */
export function slowed(
  before: Pace,
  now: number,
  refusal: { operation: string | null; retryAfterMs: number },
  limits: Limits,
): Pace {
  const pace = advance(before, now, limits)
  const { operation } = refusal
  if (operation === null) return { ...pace, account: lowered(pace.account, now, refusal.retryAfterMs) }
  const bucket = pace.operations[operation] ?? fullBucket(limits.operation, now)
  return { ...pace, operations: { ...pace.operations, [operation]: lowered(bucket, now, refusal.retryAfterMs) } }
}

/** How long nobody may make this call, in milliseconds; 0 unless Stripe asked for silence. */
export function blockedFor(pace: Pace, operation: string, now: number): number {
  return Math.max(0, pace.account.blockedUntil - now, (pace.operations[operation]?.blockedUntil ?? 0) - now)
}

/** Of the configured rates, the least that is permitted. */
export function leastShare({ account, operations }: Pace): number {
  return Math.min(account.share, ...Object.values(operations).map(({ share }) => share))
}

/** As the store keeps it: operations that are as if never called are left out. */
export function encodePace({ at, account, operations }: Pace, limits: Limits): string {
  const kept = Object.entries(operations).filter(([, bucket]) => !isFull(bucket, limits.operation, at))
  return JSON.stringify([at, packed(account), Object.fromEntries(kept.map(([name, bucket]) => [name, packed(bucket)]))])
}

/** Null for what no version of this wrote. */
export function decodePace(text: string | null): Pace | null {
  if (text === null) return null
  try {
    const [at, account, operations] = JSON.parse(text) as [number, Packed, Record<string, Packed>]
    const buckets = Object.entries(operations).map(([name, bucket]) => [name, unpacked(bucket)] as const)
    return { at: numeric(at), account: unpacked(account), operations: Object.fromEntries(buckets) }
  } catch {
    return null
  }
}

/** What one class has to leave for those above it. */
function floorOf(rate: number, urgency: Urgency): number {
  return URGENCIES.indexOf(urgency) * Math.max(1, rate * RESERVE)
}

function capacityOf(rate: number): number {
  return floorOf(rate, 'sweep') + Math.max(SLACK.least, rate * SLACK.part)
}

function fullBucket(rate: number, now: number): Bucket {
  return {
    places: capacityOf(rate),
    share: 1,
    refused: 1,
    loweredAt: now - LATELY_MS,
    blockedUntil: 0,
    owed: [0, 0],
  }
}

function isFull(bucket: Bucket, rate: number, now: number): boolean {
  return bucket.places >= capacityOf(rate) && bucket.share >= 1 && bucket.blockedUntil <= now
}

function flow(bucket: Bucket, since: number, now: number, rate: number): Bucket {
  const blockedUntil = Math.min(bucket.blockedUntil, now + LONGEST_BLOCK_MS)
  const seconds = Math.max(0, now - Math.max(since, blockedUntil)) / 1000
  const share = grown(bucket, seconds)
  const flown = rate * HEADROOM * ((bucket.share + share) / 2) * seconds
  const [push, sweep] = bucket.owed.map((owed) => Math.min(MOST_OWED, owed + flown * OWED_PART)) as Bucket['owed']
  return {
    places: Math.min(capacityOf(rate), bucket.places + flown),
    share,
    refused: bucket.refused,
    loweredAt: Math.min(bucket.loweredAt, now),
    blockedUntil,
    owed: [push, sweep],
  }
}

/** The share after so many seconds without a refusal. */
function grown({ share: before, refused }: Bucket, seconds: number): number {
  const stretches = [
    { to: refused * NEAR.from, perSecond: INCREASE_PER_SECOND },
    { to: refused * NEAR.to, perSecond: refused * NEAR.increasePerSecond },
    { to: 1, perSecond: INCREASE_PER_SECOND },
  ]
  let share = before
  let left = seconds
  for (const { to, perSecond } of stretches) {
    const added = Math.max(0, Math.min(to - share, perSecond * left))
    share += added
    left -= added / perSecond
  }
  return Math.min(1, share)
}

/** How long until there is a place, in milliseconds; 0: there is one. */
function timeUntil(bucket: Bucket, rate: number, urgency: Urgency, now: number): number {
  const perMs = (rate * HEADROOM * bucket.share) / 1000
  const regular = Math.max(0, floorOf(rate, urgency) + 1 - bucket.places) / perMs
  const blocked = Math.max(0, bucket.blockedUntil - now)
  if (urgency === 'interactive') return blocked + regular
  const owed = bucket.owed[urgency === 'push' ? 0 : 1]
  const lent = Math.max(0, 1 - owed) / (perMs * OWED_PART)
  const solvent = Math.max(0, 1 - MOST_LENT - bucket.places) / perMs
  return blocked + Math.min(regular, Math.max(lent, solvent))
}

function taken(bucket: Bucket, urgency: Urgency): Bucket {
  const [push, sweep] = bucket.owed
  return {
    ...bucket,
    places: bucket.places - 1,
    owed: [urgency === 'push' ? Math.max(0, push - 1) : push, urgency === 'sweep' ? Math.max(0, sweep - 1) : sweep],
  }
}

function lowered(bucket: Bucket, now: number, retryAfterMs: number): Bucket {
  const since = now - bucket.loweredAt
  const isSameCrowd = since < ONE_CROWD_MS
  const decrease = since < LATELY_MS ? DECREASE.again : DECREASE.first
  return {
    ...bucket,
    places: Math.min(bucket.places, 0),
    share: isSameCrowd ? bucket.share : Math.max(LEAST_SHARE, bucket.share * decrease),
    refused: isSameCrowd ? bucket.refused : bucket.share,
    loweredAt: isSameCrowd ? bucket.loweredAt : now,
    blockedUntil: Math.max(bucket.blockedUntil, now + Math.min(retryAfterMs, LONGEST_BLOCK_MS)),
    // What was owed is not called in now: it would be the next answer of 429.
    owed: [0, 0],
  }
}

type Packed = [number, number, number, number, number, number, number?]

function packed({ places, share, refused, loweredAt, blockedUntil, owed }: Bucket): Packed {
  const rounded = (value: number) => Math.round(value * 1e5) / 1e5
  return [
    rounded(places),
    rounded(share),
    loweredAt,
    blockedUntil,
    rounded(owed[0]),
    rounded(owed[1]),
    rounded(refused),
  ]
}

/** `refused` is absent where an older version wrote it. */
function unpacked([places, share, loweredAt, blockedUntil, push, sweep, refused = 1]: Packed): Bucket {
  const within = (value: unknown) => Math.min(1, Math.max(LEAST_SHARE, numeric(value)))
  return {
    places: numeric(places),
    share: within(share),
    refused: within(refused),
    loweredAt: numeric(loweredAt),
    blockedUntil: numeric(blockedUntil),
    owed: [numeric(push), numeric(sweep)],
  }
}

function numeric(value: unknown): number {
  if (typeof value === 'number' && Number.isFinite(value)) return value
  throw new TypeError('not a pace')
}
