import { LockstepError } from '../lib/errors.js'
import { inTime } from '../lib/in-time.js'
import { makeOwnState, type Shared, type SharedState } from '../lib/shared-state.js'
import {
  advance,
  blockedFor,
  decide,
  decodePace,
  encodePace,
  freshPace,
  type Limits,
  leastShare,
  type Pace,
  slowed,
  URGENCIES,
  type Urgency,
  type Wish,
} from './pace.js'

/** Longest wait for a place before a call is given back to the queue, in milliseconds. */
const LONGEST_WAIT_MS = 10_000
/** A store that has not answered by then has failed, in milliseconds. */
const STORE_PATIENCE_MS = 2_000
/** How long a store that failed is left alone, in milliseconds. */
const STORE_REST_MS = 1_000
/** Those who wait in several processes do not all come at the same moment, in milliseconds. */
const SPREAD_MS = 5
/** Tries to note an answer of 429: others may note theirs at the same time, which says the same. */
const SLOW_TRIES = 5
/** Accounts that a process keeps in mind. */
const KNOWN_ACCOUNTS = 1_000

/** The calls that all processes together may make to one Stripe account. */
export interface RateLimiter {
  /** Resolves when this call to `account` may be made. Throws {@link RateLimitWaitError} after 10 s without a place. */
  take(account: string, operation: string, urgency: Urgency): Promise<void>
  /**
   * Stripe answered 429 and means all of us: every process calls more slowly, and not before what Stripe asked for.
   *
   * @param refusal.operation what is called too often; null: the account is
   */
  slow(account: string, refusal: { operation: string | null; retryAfterSeconds: number | null }): Promise<void>
}

/** No place within the longest wait: the queue tries again later, which costs no attempt. */
export class RateLimitWaitError extends LockstepError {
  constructor() {
    super('No call to Stripe was free within 10 s at the permitted rate; it will be made later.', {
      code: 'stripe_rate_limited',
      retryable: true,
    })
  }
}

interface Waiter extends Wish {
  deadline: number
  resolve(): void
  reject(error: Error): void
}

/** One store, and what it was last seen to hold about an account. */
interface Side {
  state: SharedState
  limits: Limits
  seen: { text: string | null; pace: Pace } | null
  /** What to add to `performance.now()` for the store's time. */
  offset: number
}

/** The calls of this process to one account. */
interface Lane {
  waiting: Record<Urgency, Waiter[]>
  shared: Side
  own: Side
  /** Until when the shared store is left alone. */
  ownUntil: number
  isRunning: boolean
  interrupt(): void
}

/**
 * Lets calls go at the pace that `pace.ts` decides. Its state lives in a store that all processes share; a place counts as taken once it
 * was taken there. Should the store fail, each process goes on with a quarter of the rate by itself: slower, never silent.
 *
 * @param options.limits by all processes together
 * @param options.onError the store failed
 */
export function makeRateLimiter(options: {
  limits: Limits
  store: SharedState
  random: () => number
  onError?: (error: unknown) => void
}): RateLimiter & {
  /** Of the configured rates, the least that an account which this process called is permitted now. */
  leastShare(): number
} {
  const { limits, random } = options
  const quarter = (rate: number) => Math.max(1, Math.floor(rate / 4))
  const ownState = makeOwnState()
  const lanes = new Map<string, Lane>()

  function laneOf(account: string): Lane {
    const known = lanes.get(account)
    if (known !== undefined) return known
    const side = (state: SharedState, sideLimits: Limits): Side => ({
      state,
      limits: sideLimits,
      seen: null,
      offset: 0,
    })
    const lane: Lane = {
      waiting: { interactive: [], push: [], sweep: [] },
      shared: side(options.store, limits),
      own: side(ownState, { account: quarter(limits.account), operation: quarter(limits.operation) }),
      ownUntil: 0,
      isRunning: false,
      interrupt() {},
    }
    if (lanes.size >= KNOWN_ACCOUNTS) {
      for (const [name, { isRunning }] of lanes) if (!isRunning) lanes.delete(name)
    }
    lanes.set(account, lane)
    return lane
  }

  async function run(account: string, lane: Lane): Promise<void> {
    for (;;) {
      rejectLate(lane)
      if (waitersOf(lane).length === 0) break
      const isShared = performance.now() >= lane.ownUntil
      try {
        const pause = await turn(account, lane, isShared ? lane.shared : lane.own)
        if (pause > 0) await rest(lane, pause)
      } catch (error) {
        giveUpStore(lane, error)
      }
    }
    lane.isRunning = false
  }

  /** Serves whom it can. Answers after how many milliseconds to look again. */
  async function turn(account: string, lane: Lane, side: Side): Promise<number> {
    const { pace: before, text } = side.seen ?? adopt(side, await answered(side.state.read(account)))
    rejectBlocked(lane, before, side)
    const { pace, granted, waitMs } = decide(before, timeOf(side), waitersOf(lane), side.limits)
    if (granted.length === 0) return waitMs + random() * SPREAD_MS
    const answer = await answered(side.state.swap(account, text, encodePace(pace, side.limits)))
    adopt(side, answer)
    if (!answer.isSwapped) return 0
    for (const waiter of granted) {
      remove(lane, waiter)
      waiter.resolve()
    }
    return 0
  }

  function giveUpStore(lane: Lane, error: unknown): void {
    lane.ownUntil = performance.now() + STORE_REST_MS
    lane.shared.seen = null
    options.onError?.(error)
  }

  async function note(account: string, side: Side, refusal: Parameters<typeof slowed>[2]): Promise<void> {
    for (let tries = 0; tries < SLOW_TRIES; tries += 1) {
      const { text, pace } = side.seen ?? adopt(side, await answered(side.state.read(account)))
      const next = encodePace(slowed(pace, timeOf(side), refusal, side.limits), side.limits)
      const answer = await answered(side.state.swap(account, text, next))
      adopt(side, answer)
      if (answer.isSwapped) return
    }
  }

  return {
    take(account, operation, urgency) {
      return new Promise((resolve, reject) => {
        const lane = laneOf(account)
        const deadline = performance.now() + LONGEST_WAIT_MS
        lane.waiting[urgency].push({ operation, urgency, deadline, resolve, reject })
        if (lane.isRunning) {
          lane.interrupt()
        } else {
          lane.isRunning = true
          void run(account, lane)
        }
      })
    },

    async slow(account, { operation, retryAfterSeconds }) {
      const lane = laneOf(account)
      const refusal = { operation, retryAfterMs: (retryAfterSeconds ?? 0) * 1000 }
      await note(account, lane.own, refusal)
      try {
        if (performance.now() >= lane.ownUntil) await note(account, lane.shared, refusal)
      } catch (error) {
        giveUpStore(lane, error)
      }
    },

    leastShare() {
      const shares = [...lanes.values()].flatMap((lane) => {
        const side = performance.now() < lane.ownUntil ? lane.own : lane.shared
        if (side.seen === null) return []
        // As it has grown since it was seen.
        return [leastShare(advance(side.seen.pace, timeOf(side), side.limits))]
      })
      return Math.min(1, ...shares)
    },
  }
}

function waitersOf(lane: Lane): Waiter[] {
  return URGENCIES.flatMap((urgency) => lane.waiting[urgency])
}

function remove(lane: Lane, waiter: Waiter): void {
  lane.waiting[waiter.urgency] = lane.waiting[waiter.urgency].filter((other) => other !== waiter)
}

function rejectIf(lane: Lane, isHopeless: (waiter: Waiter) => boolean): void {
  for (const waiter of waitersOf(lane).filter(isHopeless)) {
    remove(lane, waiter)
    waiter.reject(new RateLimitWaitError())
  }
}

function rejectLate(lane: Lane): void {
  const now = performance.now()
  rejectIf(lane, ({ deadline }) => deadline <= now)
}

/** Who would have to wait too long is told at once. */
function rejectBlocked(lane: Lane, pace: Pace, side: Side): void {
  const now = performance.now()
  rejectIf(lane, ({ deadline, operation }) => now + blockedFor(pace, operation, timeOf(side)) > deadline)
}

function timeOf(side: Side): number {
  return performance.now() + side.offset
}

function adopt(side: Side, { text, now }: Shared): { text: string | null; pace: Pace } {
  side.offset = now - performance.now()
  side.seen = { text, pace: decodePace(text) ?? freshPace(side.limits, now) }
  return side.seen
}

/** Waits for so long, or until somebody else comes. */
function rest(lane: Lane, ms: number): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      lane.interrupt = () => {}
      resolve()
    }
    const timer = setTimeout(done, ms)
    lane.interrupt = done
  })
}

function answered<T>(answer: Promise<T>): Promise<T> {
  return inTime(answer, STORE_PATIENCE_MS, () => {
    return new LockstepError('The store of the rate limits does not answer.', { code: 'store_late', retryable: true })
  })
}
