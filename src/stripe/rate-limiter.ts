import type { Redis } from 'ioredis'
import type pg from 'pg'
import { RateLimiterMemory, RateLimiterPostgres, RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import { LockstepError } from '../lib/errors.js'

/** Longest wait for a place before a call is given back to the queue, in milliseconds. */
const LONGEST_WAIT_MS = 10_000

/** The calls that all processes together may make to one Stripe account. */
export interface RateLimiter {
  /** Resolves when one call to `account` may be made. Throws {@link RateLimitWaitError} after 10 s without a place. */
  take(account: string): Promise<void>
  /** Lets nobody call `account` for a while: Stripe answered 429 and means all of us. */
  block(account: string, seconds: number): Promise<void>
}

/** No place within the longest wait: the queue tries again later, which costs no attempt. */
export class RateLimitWaitError extends LockstepError {
  constructor(cause?: unknown) {
    super('No call to Stripe was free within 10 s at the configured rate; it will be made later.', {
      code: 'stripe_rate_limited',
      retryable: true,
      cause,
    })
  }
}

/**
 * A limiter whose counts live in Redis when there is one, else in Postgres, so that all processes share them. Should that
 * store fail, each process goes on with a quarter of the rate from its own memory: slower, never silent.
 *
 * @param callsPerSecond to one account, all processes together
 */
export function makeRateLimiter(options: {
  callsPerSecond: number
  store: { redis: Redis } | { pool: pg.Pool }
  /** Comes before the keys in the store. */
  prefix?: string
  random: () => number
}): RateLimiter {
  const common = {
    points: options.callsPerSecond,
    duration: 1,
    keyPrefix: `${options.prefix ?? 'lockstep'}:stripe`,
    insuranceLimiter: new RateLimiterMemory({
      points: Math.max(1, Math.floor(options.callsPerSecond / 4)),
      duration: 1,
    }),
  }
  const limiter =
    'redis' in options.store
      ? new RateLimiterRedis({ ...common, storeClient: options.store.redis, rejectIfRedisNotReady: true })
      : new RateLimiterPostgres({
          ...common,
          storeClient: options.store.pool,
          storeType: 'pool',
          tableName: 'rate_limits',
          tableCreated: true,
          clearExpiredByTimeout: false,
        })
  return {
    async take(account) {
      const deadline = Date.now() + LONGEST_WAIT_MS
      for (;;) {
        const wait = await consume(limiter, account)
        if (wait === 0) return
        if (Date.now() + wait > deadline) throw new RateLimitWaitError()
        // Spread the waiters over the next window: all at its first millisecond would be a burst.
        await new Promise((resolve) => setTimeout(resolve, wait + options.random() * 100))
      }
    },
    async block(account, seconds) {
      await limiter.block(account, seconds)
    },
  }
}

/** Takes a place: 0 when there was one, else how many milliseconds until there may be. */
async function consume(limiter: RateLimiterRedis | RateLimiterPostgres, account: string): Promise<number> {
  try {
    await limiter.consume(account)
    return 0
  } catch (reason) {
    if (reason instanceof RateLimiterRes) return Math.max(10, reason.msBeforeNext)
    throw new RateLimitWaitError(reason)
  }
}
