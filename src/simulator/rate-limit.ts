import type { Clock } from '../lib/clock.js'
import type { RateLimitReason } from './errors.js'

/** Calls per second that an account may make; undefined is without limit. */
export interface RateLimits {
  /** In all: 100 live, 25 in test mode at Stripe. */
  rateLimit: number | undefined
  /** Per operation (method and route): 25 at Stripe, search 20 (stripe-facts section 5). */
  operationRateLimit: number | undefined
}

/** Counts the calls of the last second by the simulator's clock; a refused call doesn't count. */
export class RateLimiter {
  readonly #clock: Clock
  readonly #limits: RateLimits
  readonly #calls = new Map<string, number[]>()

  constructor(clock: Clock, limits: RateLimits) {
    this.#clock = clock
    this.#limits = limits
  }

  /** Why the call is refused, or undefined where it may go on (and is counted). */
  take(namespace: string, operation: string): RateLimitReason | undefined {
    const { rateLimit, operationRateLimit } = this.#limits
    if (rateLimit === undefined && operationRateLimit === undefined) return undefined
    const now = this.#clock.now()
    const all = this.#recent(namespace, now)
    const own = this.#recent(`${namespace} ${operation}`, now)
    if (rateLimit !== undefined && all.length >= rateLimit) return 'global-rate'
    if (operationRateLimit !== undefined && own.length >= operationRateLimit) return 'endpoint-rate'
    all.push(now)
    own.push(now)
    return undefined
  }

  #recent(key: string, now: number): number[] {
    const calls = this.#calls.get(key) ?? []
    const young = calls.findIndex((at) => at > now - 1000 && at <= now)
    calls.splice(0, young === -1 ? calls.length : young)
    this.#calls.set(key, calls)
    return calls
  }
}
