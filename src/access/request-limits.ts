import type { Redis } from 'ioredis'
import { type RateLimiterAbstract, RateLimiterMemory, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import { LockstepError } from '../lib/errors.js'

/** The window in which requests are counted, in seconds. */
const WINDOW_SECONDS = 60
/** Requests with wrong credentials that one address may send in a window: someone tries, or something is set up wrong. */
const MOST_FAILURES = 60

/** How much of its share a client has used. */
export interface Quota {
  /** Requests in a window. */
  limit: number
  remaining: number
  /** Until the window ends. */
  resetSeconds: number
  isExceeded: boolean
}

/** Too many requests, or too many with wrong credentials. */
export class RateLimitedError extends LockstepError {
  readonly quota: Quota
  constructor(what: string, quota: Quota) {
    super(`${what} Try again in ${quota.resetSeconds} s.`, { code: 'rate_limited', retryable: true })
    this.quota = quota
  }
}

/** What an answer says of how much of a share is left. */
export function quotaHeaders({ limit, remaining, resetSeconds }: Quota): Record<string, number> {
  return { 'ratelimit-limit': limit, 'ratelimit-remaining': remaining, 'ratelimit-reset': resetSeconds }
}

/** Counts what clients ask. */
export interface RequestLimits {
  /** Counts a request of whoever these credentials are. */
  countRequest(actor: string): Promise<Quota>
  /** Counts a request with wrong credentials. */
  countFailure(address: string): Promise<Quota>
}

/**
 * Limits that all processes share where there is a Redis; without one, or while it is gone, each process counts by itself: a write
 * to Postgres per request would cost more than the request.
 *
 * @param perMinute requests that one key may send in a minute
 */
export function makeRequestLimits(options: {
  perMinute: number
  redis: Redis | null
  /** Comes before the keys in Redis. */
  prefix?: string
}): RequestLimits {
  const { perMinute, redis, prefix = 'lockstep' } = options
  const limiterOf = (name: string, points: number): RateLimiterAbstract => {
    const common = { points, duration: WINDOW_SECONDS, keyPrefix: `${prefix}:${name}` }
    const memory = new RateLimiterMemory(common)
    if (redis === null) return memory
    return new RateLimiterRedis({
      ...common,
      storeClient: redis,
      rejectIfRedisNotReady: true,
      insuranceLimiter: memory,
    })
  }
  const requests = limiterOf('requests', perMinute)
  const failures = limiterOf('failures', MOST_FAILURES)
  return {
    countRequest: (actor) => count(requests, actor),
    countFailure: (address) => count(failures, address),
  }
}

async function count(limiter: RateLimiterAbstract, key: string): Promise<Quota> {
  const limit = limiter.points
  const quotaOf = (result: RateLimiterRes, isExceeded: boolean): Quota => ({
    limit,
    remaining: Math.max(0, result.remainingPoints),
    resetSeconds: Math.max(1, Math.ceil(result.msBeforeNext / 1000)),
    isExceeded,
  })
  try {
    return quotaOf(await limiter.consume(key), false)
  } catch (rejected) {
    if (rejected instanceof RateLimiterRes) return quotaOf(rejected, true)
    throw rejected
  }
}
