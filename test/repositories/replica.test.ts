import t from 'tap'
import { makeFreshness } from '../../src/repositories/replica.js'

t.test('a replica has everything up to the latest moment whose position it has reached', async (t) => {
  const freshness = makeFreshness()
  t.equal(freshness.asOf(), Number.NEGATIVE_INFINITY)
  freshness.written(1, 100n)
  freshness.written(2, 200n)
  freshness.written(3, 200n)
  freshness.replayed(99n)
  t.equal(freshness.asOf(), Number.NEGATIVE_INFINITY, 'nothing is known')
  freshness.replayed(150n)
  t.equal(freshness.asOf(), 1)
  freshness.replayed(200n)
  t.equal(freshness.asOf(), 3, 'nothing was written since the second')
})

t.test('after a restart a replica may have less than before', async (t) => {
  const freshness = makeFreshness()
  freshness.written(1, 100n)
  freshness.replayed(100n)
  freshness.written(2, 200n)
  freshness.replayed(90n)
  t.equal(freshness.asOf(), Number.NEGATIVE_INFINITY)
  freshness.replayed(210n)
  t.equal(freshness.asOf(), 2)
})

t.test('after a failover the positions are those of another server', async (t) => {
  const freshness = makeFreshness()
  freshness.written(1, 500n)
  freshness.written(2, 300n)
  freshness.replayed(300n)
  t.equal(freshness.asOf(), 2)
})

t.test(
  'however far a replica is behind, what is remembered is bounded, and no moment is named too early',
  async (t) => {
    const freshness = makeFreshness()
    freshness.replayed(0n)
    for (let at = 1; at <= 100_000; at += 1) freshness.written(at, BigInt(at))
    for (const position of [1_000, 50_000, 99_999, 100_000]) {
      freshness.replayed(BigInt(position))
      t.ok(freshness.asOf() <= position, `${freshness.asOf()} <= ${position}`)
    }
    t.equal(freshness.asOf(), 100_000)
  },
)
