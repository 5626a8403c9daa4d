import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import pg from 'pg'
import t, { type Test } from 'tap'
import { makeRedisState, type SharedState } from '../../src/lib/shared-state.js'
import { makeDb } from '../../src/repositories/database.js'
import { makePaceState } from '../../src/repositories/stripe-pace.js'
import type { Urgency } from '../../src/stripe/pace.js'
import { makeRateLimiter, type RateLimiter, RateLimitWaitError } from '../../src/stripe/rate-limiter.js'
import { cloneDatabase } from '../helpers/database.js'
import { eventually } from '../helpers/wait.js'

const RATE = 40

/** A store, and what makes it forget everything, as a restart does. */
interface Store {
  state: SharedState
  forget(): Promise<void>
}

/** Where the pace of a test can be. Redis only where there is one. */
const stores: Record<string, (t: Test) => Promise<Store>> = {
  async Postgres(t) {
    const { pool } = await cloneDatabase(t)
    return { state: makePaceState(makeDb(pool)), forget: async () => void (await pool.query('truncate stripe_pace')) }
  },
  ...(process.env.TEST_REDIS_URL === undefined
    ? {}
    : {
        async Redis(t: Test) {
          const redis = new Redis(process.env.TEST_REDIS_URL ?? '')
          t.teardown(() => redis.disconnect())
          const prefix = `test-${randomBytes(6).toString('hex')}`
          return {
            state: makeRedisState(redis, prefix),
            forget: async () => void (await redis.del(await redis.keys(`${prefix}:*`))),
          }
        },
      }),
}

function limiters(state: SharedState, count: number, rate = RATE) {
  return Array.from({ length: count }, () =>
    makeRateLimiter({ limits: { account: rate, operation: rate }, store: state, random: Math.random }),
  )
}

/** Calls that always wait for a place, until it is told to stop. Answers how many got one. */
function crowd(limiter: RateLimiter | undefined, account: string, urgency: Urgency) {
  let isStopped = false
  let count = 0
  const loops = Array.from({ length: 6 }, async () => {
    while (!isStopped) {
      await limiter?.take(account, 'x', urgency)
      count += 1
    }
  })
  return {
    count: () => count,
    async stop() {
      isStopped = true
      await Promise.all(loops)
    },
  }
}

for (const [name, open] of Object.entries(stores)) {
  t.test(`the pace is in ${name}`, async (t) => {
    const { state, forget } = await open(t)

    t.test('processes together keep to the rate, and everybody gets a place', async (t) => {
      const processes = limiters(state, 2)
      const begun = Date.now()
      const times: number[] = []
      await Promise.all(
        Array.from({ length: 2.5 * RATE }, async (_, n) => {
          await processes[n % 2]?.take('acct', 'x', 'sweep')
          times.push(Date.now())
        }),
      )
      t.equal(times.length, 2.5 * RATE)
      const took = Date.now() - begun
      t.ok(took >= 2_300, `no faster than the rate: ${took} ms`)
      const most = Math.max(...times.map((at) => times.filter((time) => time >= at && time < at + 1_000).length))
      t.ok(most <= 1.25 * RATE, `${most} in one second`)
    })

    t.test('accounts do not wait for each other', async (t) => {
      const [limiter] = limiters(state, 1)
      const begun = Date.now()
      await Promise.all(['a', 'b', 'c'].map((account) => limiter?.take(account, 'x', 'sweep')))
      t.ok(Date.now() - begun < 1_000)
    })

    t.test('a sweep of one process keeps pushes of another waiting no more than its tenth', async (t) => {
      const [sweeping, pushing] = limiters(state, 2)
      const sweep = crowd(sweeping, 'busy', 'sweep')
      await eventually(() => sweep.count() > 10)
      const before = sweep.count()
      await Promise.all(Array.from({ length: 60 }, () => pushing?.take('busy', 'x', 'push')))
      const meanwhile = sweep.count() - before
      t.ok(meanwhile >= 1, 'it goes on')
      t.ok(meanwhile <= 20, `${meanwhile} calls of the sweep beside 60 pushes`)
      const begun = Date.now()
      await pushing?.take('busy', 'x', 'interactive')
      t.ok(Date.now() - begun < 500, 'who is waited for goes at once')
      await sweep.stop()
    })

    t.test('an answer of 429 slows every process down', async (t) => {
      const [one, other] = limiters(state, 2)
      await other?.take('slow', 'x', 'push')
      t.equal(other?.leastShare(), 1)
      await one?.slow('slow', { operation: null, retryAfterSeconds: null })
      await other?.take('slow', 'x', 'push')
      const share = other?.leastShare() ?? 1
      t.ok(share >= 0.7 && share < 1, `the other one calls at ${share} of the rate`)
    })

    t.test('Retry-After holds for every process, and ends', async (t) => {
      const [one, other] = limiters(state, 2)
      await other?.take('acct-429', 'x', 'push')
      await one?.slow('acct-429', { operation: null, retryAfterSeconds: 1 })
      const begun = Date.now()
      await other?.take('acct-429', 'x', 'interactive')
      t.ok(Date.now() - begun >= 900, 'waited it out')
      await other?.take('else', 'x', 'interactive')
    })

    t.test('who would have to wait too long is told at once', async (t) => {
      const [limiter] = limiters(state, 1)
      await limiter?.slow('silent', { operation: 'x', retryAfterSeconds: 30 })
      const begun = Date.now()
      await t.rejects(limiter?.take('silent', 'x', 'interactive') ?? Promise.resolve(), RateLimitWaitError)
      await t.rejects(limiter?.take('silent', 'x', 'sweep') ?? Promise.resolve(), {
        code: 'stripe_rate_limited',
        retryable: true,
      })
      await limiter?.take('silent', 'y', 'interactive')
      t.ok(Date.now() - begun < 1_000)
    })

    t.test('a store that forgets everything stops nobody', async () => {
      const [limiter] = limiters(state, 1)
      const calls = crowd(limiter, 'forgotten', 'sweep')
      for (let times = 0; times < 3; times += 1) {
        const before = calls.count()
        await eventually(() => calls.count() >= before + 10)
        await forget()
      }
      const before = calls.count()
      await eventually(() => calls.count() >= before + 10)
      await calls.stop()
    })
  })
}

t.test('without its store each process goes on, slower', async (t) => {
  const pool = new pg.Pool({ connectionString: 'postgres://nobody@127.0.0.1:1/nowhere' })
  t.teardown(() => pool.end())
  const errors: unknown[] = []
  const limiter = makeRateLimiter({
    limits: { account: RATE, operation: RATE },
    store: makePaceState(makeDb(pool)),
    random: Math.random,
    onError: (error) => errors.push(error),
  })
  const begun = Date.now()
  await Promise.all(Array.from({ length: RATE / 2 }, () => limiter.take('acct', 'x', 'interactive')))
  const took = Date.now() - begun
  t.ok(took >= 1_500 && took < 8_000, `a quarter of the rate: ${took} ms`)
  t.ok(errors.length > 0, 'and it is told')
  await limiter.slow('acct', { operation: null, retryAfterSeconds: 30 })
  await t.rejects(limiter.take('acct', 'x', 'push'), RateLimitWaitError)
})

t.test('a store that does not answer is not waited for', async (t) => {
  const silent = new Promise<never>(() => {})
  const limiter = makeRateLimiter({
    limits: { account: RATE, operation: RATE },
    store: { read: () => silent, swap: () => silent },
    random: Math.random,
  })
  const begun = Date.now()
  await limiter.take('acct', 'x', 'push')
  t.ok(Date.now() - begun < 8_000)
})
