import fc from 'fast-check'
import t from 'tap'
import { backoffDelay } from '../../src/lib/retry.js'

const BACKOFF = { first: 1_000, max: 60_000 }

t.test('it doubles up to the longest wait; half of it is chance', async (t) => {
  const waits = (random: number) => [1, 2, 3, 7, 50].map((attempts) => backoffDelay(BACKOFF, attempts, () => random))
  t.strictSame(waits(0), [500, 1_000, 2_000, 30_000, 30_000])
  t.strictSame(waits(0.5), [750, 1_500, 3_000, 45_000, 45_000])
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (n, r) => {
        const wait = backoffDelay(BACKOFF, n, () => r)
        return Number.isInteger(wait) && wait >= BACKOFF.first / 2 && wait <= BACKOFF.max
      },
    ),
  )
})
