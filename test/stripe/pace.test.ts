import fc from 'fast-check'
import t from 'tap'
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
  type Wish,
} from '../../src/stripe/pace.js'

const LIST = { operation: 'customers.list', urgency: 'sweep' } as const
const UPDATE = { operation: 'customers.update', urgency: 'push' } as const
const READ = { operation: 'customers.retrieve', urgency: 'interactive' } as const
const START = 1_800_000_000_000
const TICK_MS = 5

interface Grant extends Wish {
  at: number
}

/** Processes that share a pace and look at it every few milliseconds, each with these calls always waiting. */
function play(limits: Limits, seconds: number, processes: Wish[][], at = (_ms: number): Wish[] => []): Grant[] {
  const grants: Grant[] = []
  let pace = freshPace(limits, START)
  for (let ms = 0; ms < seconds * 1000; ms += TICK_MS) {
    for (const wishes of [...processes, at(ms)]) {
      const decision = decide(pace, START + ms, wishes, limits)
      pace = decision.pace
      for (const { operation, urgency } of decision.granted) grants.push({ at: ms, operation, urgency })
    }
  }
  return grants
}

const of = (grants: Grant[], wish: Wish) => grants.filter(({ urgency }) => urgency === wish.urgency)
const many = (wish: Wish): Wish[] => Array.from({ length: 8 }, () => ({ ...wish }))

function mostInOneSecond(grants: Grant[]): number {
  return Math.max(...grants.map(({ at }) => grants.filter((grant) => grant.at >= at && grant.at < at + 1000).length))
}

t.test('a sweep with nobody else gets 95 % of the limit, and no second has more than that', async (t) => {
  for (const rate of [25, 80]) {
    const grants = play({ account: 80, operation: rate }, 60, [many(LIST)])
    t.ok(grants.length >= 0.95 * rate * 60, `${grants.length} of ${rate * 60}`)
    t.ok(mostInOneSecond(grants) <= rate, `${mostInOneSecond(grants)} in a second`)
  }
})

t.test('pushes of one process go before a sweep of another, which keeps a tenth', async (t) => {
  const limits = { account: 40, operation: 40 }
  const grants = play(limits, 60, [many(LIST), many(UPDATE)])
  t.ok(grants.length >= 0.95 * 40 * 60)
  const sweeps = of(grants, LIST).length / grants.length
  t.ok(sweeps > 0.09 && sweeps < 0.12, `a sweep has ${sweeps} of all`)
})

t.test('who is waited for finds a place at once, whatever others want', async (t) => {
  const limits = { account: 80, operation: 25 }
  const waits: number[] = []
  let since: number | null = null
  let pace = freshPace(limits, START)
  for (let ms = 0; ms < 30_000; ms += TICK_MS) {
    for (const wishes of [many(LIST), many(UPDATE), many({ ...UPDATE, operation: 'customers.create' })]) {
      pace = decide(pace, START + ms, wishes, limits).pace
    }
    if (ms % 250 === 0) since = ms
    if (since === null) continue
    const decision = decide(pace, START + ms, [READ], limits)
    pace = decision.pace
    if (decision.granted.length === 0) continue
    waits.push(ms - since)
    since = null
  }
  t.equal(waits.length, 120)
  t.ok(Math.max(...waits) <= 50, `waited ${Math.max(...waits)} ms at most`)
})

t.test('nobody starves', async (t) => {
  const grants = play({ account: 50, operation: 50 }, 60, [many(READ), many(UPDATE), many(LIST)])
  for (const wish of [UPDATE, LIST]) {
    const share = of(grants, wish).length / (50 * 60)
    t.ok(share >= 0.09 && share < 0.11, `${wish.urgency} has ${share}`)
  }
})

t.test('within a process too, the more urgent go first', async (t) => {
  const limits = { account: 20, operation: 20 }
  const { pace } = decide(freshPace(limits, START), START, many(READ), limits)
  const { granted } = decide(pace, START + 60, [READ, UPDATE, LIST], limits)
  t.strictSame(granted[0], READ)
  const grants = play(limits, 60, [[...many(READ), ...many(LIST)]])
  t.ok(of(grants, LIST).length / grants.length < 0.12)
})

t.test('an operation that is full holds up no other', async (t) => {
  const grants = play({ account: 80, operation: 25 }, 60, [many({ ...LIST, urgency: 'interactive' }), many(UPDATE)])
  t.ok(of(grants, UPDATE).length >= 0.95 * 25 * 60)
})

t.test('in no span of time more than what flowed in, the store of places and what was lent', async () => {
  const step = fc.record({
    ms: fc.integer({ min: 0, max: 3_000 }),
    wishes: fc.array(fc.record({ operation: fc.constantFrom('a', 'b', 'c'), urgency: fc.constantFrom(...URGENCIES) }), {
      maxLength: 40,
    }),
    refusal: fc.option(
      fc.record({ operation: fc.constantFrom(null, 'a'), retryAfterMs: fc.integer({ min: 0, max: 2_000 }) }),
      { freq: 10 },
    ),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), fc.integer({ min: 1, max: 200 }), (steps, rate) => {
      const limits = { account: rate, operation: Math.ceil(rate / 3) }
      const step = Math.max(1, rate * 0.05)
      const store = 2 * step + Math.max(1.5, rate * 0.05) + 2
      let pace = freshPace(limits, START)
      let now = START
      const counts: { at: number; count: number }[] = []
      for (const { ms, wishes, refusal } of steps) {
        now += ms
        const decision = decide(pace, now, wishes, limits)
        const text = encodePace(decision.pace, limits)
        pace = decodePace(text) as Pace
        counts.push({ at: now, count: decision.granted.length })
        if (refusal !== null) pace = slowed(pace, now, refusal, limits)
      }
      return counts.every((from, index) => {
        let sum = 0
        return counts.slice(index).every(({ at, count }) => {
          sum += count
          return sum <= store + (rate * (at - from.at)) / 1000 + 0.01
        })
      })
    }),
  )
})

t.test('429: the rate falls once for one crowd, down to a tenth, and grows back', async (t) => {
  const limits = { account: 80, operation: 25 }
  const refusal = { operation: null, retryAfterMs: 0 }
  const shareAt = (pace: Pace, ms: number) => leastShare(advance(pace, START + ms, limits))
  let pace = freshPace(limits, START)
  for (const ms of [0, 10, 999]) pace = slowed(pace, START + ms, refusal, limits)
  t.ok(Math.abs(shareAt(pace, 1_000) - 0.9) < 0.001, 'three answers of one second: 0.85, grown by a second')
  const again = slowed(pace, START + 2_000, refusal, limits)
  t.ok(Math.abs(shareAt(again, 2_000) - 0.57) < 0.001, 'soon after: 0.6 of what it had grown to')
  t.equal(shareAt(pace, 8_500), 1)
  t.equal(decide(pace, START + 999, [READ], limits).granted.length, 0, 'what was gathered is gone')

  for (let ms = 1_000; ms < 30_000; ms += 1_000) pace = slowed(pace, START + ms, refusal, limits)
  t.ok(shareAt(pace, 29_000) >= 0.1 && shareAt(pace, 29_000) < 0.12, 'at the floor')
  let before = 0
  for (let ms = 29_000; ms <= 60_000; ms += 500) {
    const now = shareAt(pace, ms)
    t.ok(now >= before)
    before = now
  }
  t.equal(before, 1, 'all of it within half a minute')
})

t.test('a limit below the configured one is used, not run into again and again', async (t) => {
  const limits = { account: 80, operation: 80 }
  const wishes = many(UPDATE)
  const settledMs = 10_000
  for (const real of [25, 40]) {
    const taken: number[] = []
    const refused: number[] = []
    let pace = freshPace(limits, START)
    for (let ms = 0; ms < 120_000; ms += TICK_MS) {
      const decision = decide(pace, START + ms, wishes, limits)
      pace = decision.pace
      for (const _ of decision.granted) {
        if (taken.filter((at) => at > ms - 1_000).length < real) {
          taken.push(ms)
        } else {
          refused.push(ms)
          pace = slowed(pace, START + ms, { operation: UPDATE.operation, retryAfterMs: 0 }, limits)
        }
      }
    }
    const perSecond = taken.filter((at) => at >= settledMs).length / 110
    t.ok(perSecond >= 0.92 * real, `${perSecond} of ${real} a second`)
    t.ok(refused.filter((at) => at >= settledMs).length <= 22, 'refused less often than every fifth second')
  }
})

t.test('where the limit that refused is there no longer, the rate goes on to grow as fast as before', async (t) => {
  const limits = { account: 80, operation: 80 }
  let pace = freshPace(limits, START)
  for (const ms of [0, 2_000, 4_000]) pace = slowed(pace, START + ms, { operation: null, retryAfterMs: 0 }, limits)
  const shareAt = (ms: number) => leastShare(advance(pace, START + ms, limits))
  t.ok(shareAt(10_000) < 1.03 * pace.account.refused, 'slow where it was refused')
  const times = Array.from({ length: 61 }, (_, second) => 4_000 + second * 1_000)
  const all = times.find((ms) => shareAt(ms) === 1) ?? Number.NaN
  t.ok(all <= 34_000, `all of it after ${(all - 4_000) / 1_000} s`)
  t.ok(shareAt(all - 2_000) < shareAt(all - 1_000) - 0.045, 'a twentieth each second at the end')
})

t.test('a pace that an older version wrote is taken on', async (t) => {
  const limits = { account: 10, operation: 10 }
  const text = encodePace(slowed(freshPace(limits, START), START, { operation: null, retryAfterMs: 0 }, limits), limits)
  const [at, account] = JSON.parse(text) as [number, number[]]
  t.equal(account.length, 7)
  const pace = decodePace(JSON.stringify([at, account.slice(0, 6), {}]))
  t.match(pace, { account: { share: 0.85, refused: 1 } })
  t.match(decodePace(text), { account: { share: 0.85, refused: 1 } })
})

t.test('what is asked for too often is slowed, and nothing else', async (t) => {
  const limits = { account: 80, operation: 25 }
  const pace = slowed(freshPace(limits, START), START, { operation: LIST.operation, retryAfterMs: 0 }, limits)
  t.equal(pace.account.share, 1)
  t.equal(decide(pace, START, [LIST, READ], limits).granted[0], READ)
})

t.test('Retry-After is kept to, up to a minute', async (t) => {
  const limits = { account: 80, operation: 25 }
  const pace = slowed(freshPace(limits, START), START, { operation: null, retryAfterMs: 3_000 }, limits)
  t.equal(blockedFor(pace, 'any', START), 3_000)
  t.equal(decide(pace, START + 2_999, [READ], limits).granted.length, 0)
  t.equal(decide(pace, START + 3_100, [READ], limits).granted.length, 1)
  const long = slowed(pace, START, { operation: null, retryAfterMs: 3_600_000 }, limits)
  t.equal(blockedFor(long, 'any', START), 60_000)
})

t.test('a clock that was set back stops nobody; what is not ours is no pace', async (t) => {
  const limits = { account: 10, operation: 10 }
  let pace = slowed(freshPace(limits, START), START, { operation: null, retryAfterMs: 1_000 }, limits)
  pace = decide(pace, START - 3_600_000, [READ], limits).pace
  t.equal(decide(pace, START - 3_600_000 + 62_000, [READ], limits).granted.length, 1)
  for (const text of [null, '', '{}', '[1]', '[1,[null,1,1,1,1,1],{}]', '[1,[],{}]']) t.equal(decodePace(text), null)
  t.equal(
    encodePace(freshPace(limits, START), limits),
    encodePace(advance(freshPace(limits, START), START, limits), limits),
  )
})
