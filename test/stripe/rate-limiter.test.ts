import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import pg from 'pg'
import t, { type Test } from 'tap'
import { makeRateLimiter, RateLimitWaitError } from '../../src/stripe/rate-limiter.js'
import { cloneDatabase } from '../helpers/database.js'

const RATE = 10
type Store = Parameters<typeof makeRateLimiter>[0]['store']

/** Where the counts of a test can be. Redis only where there is one. */
const stores: Record<string, (t: Test) => Promise<Store>> = {
  Postgres: async (t) => ({ pool: (await cloneDatabase(t)).pool }),
  ...(process.env.TEST_REDIS_URL === undefined
    ? {}
    : {
        Redis: async (t: Test) => {
          const redis = new Redis(process.env.TEST_REDIS_URL ?? '')
          t.teardown(() => redis.disconnect())
          await redis.ping()
          return { redis }
        },
      }),
}

function limiters(store: Store, count: number) {
  const prefix = `test-${randomBytes(6).toString('hex')}`
  return Array.from({ length: count }, () =>
    makeRateLimiter({ callsPerSecond: RATE, store, prefix, random: Math.random }),
  )
}

/** The most of these times that lie within one window of `length`, windows beginning at any of them. */
function mostWithin(times: number[], length: number): number {
  return Math.max(...times.map((start) => times.filter((time) => time >= start && time < start + length).length))
}

for (const [name, open] of Object.entries(stores)) {
  t.test(`counts in ${name}`, async (t) => {
    const store = await open(t)

    t.test('processes together keep to the rate, and everybody gets a place', async (t) => {
      const processes = limiters(store, 2)
      const begun = Date.now()
      const times: number[] = []
      await Promise.all(
        Array.from({ length: 3 * RATE }, async (_, n) => {
          await processes[n % 2]?.take('acct')
          times.push(Date.now())
        }),
      )
      t.equal(times.length, 3 * RATE)
      t.ok(Date.now() - begun >= 1_900, 'three windows of places take two seconds at least')
      // Windows are fixed: a second that spans two of them may see both, never more. Within half of one there is one rate.
      t.ok(mostWithin(times, 1_000) <= 2 * RATE)
      t.equal(times.filter((time) => time < begun + 900).length, RATE)
    })

    t.test('accounts do not wait for each other', async (t) => {
      const [limiter] = limiters(store, 1)
      const begun = Date.now()
      await Promise.all(
        ['a', 'b', 'c'].flatMap((account) => Array.from({ length: RATE }, () => limiter?.take(account))),
      )
      t.ok(Date.now() - begun < 1_000)
    })

    t.test('a block holds for every process, and ends', async (t) => {
      const [one, other] = limiters(store, 2)
      await one?.block('acct', 1)
      const begun = Date.now()
      await other?.take('acct')
      t.ok(Date.now() - begun >= 900, 'waited it out')
      await other?.take('else')
    })

    t.test('who would have to wait too long is told at once', async (t) => {
      const [limiter] = limiters(store, 1)
      await limiter?.block('acct', 30)
      const begun = Date.now()
      const take = async () => limiter?.take('acct')
      await t.rejects(take(), RateLimitWaitError)
      await t.rejects(take(), { code: 'stripe_rate_limited', retryable: true })
      t.ok(Date.now() - begun < 1_000)
    })
  })
}

t.test('without its store each process goes on, slower', async (t) => {
  const pool = new pg.Pool({ connectionString: 'postgres://nobody@127.0.0.1:1/nowhere' })
  t.teardown(() => pool.end())
  const limiter = makeRateLimiter({ callsPerSecond: RATE, store: { pool }, random: Math.random })
  const begun = Date.now()
  const places = 2 * Math.floor(RATE / 4)
  await Promise.all(Array.from({ length: places + 1 }, () => limiter.take('acct')))
  const took = Date.now() - begun
  t.ok(took >= 1_900 && took < 8_000, `a quarter of the rate: ${took} ms`)
  await limiter.block('acct', 30)
  await t.rejects(limiter.take('acct'), RateLimitWaitError)
})
