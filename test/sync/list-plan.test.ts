import t from 'tap'
import type { ListPlan, ListWindow } from '../../src/models/reconciliation.js'
import { isRead, restingPlan, startPlan, takePage, takeWindow } from '../../src/sync/list-plan.js'

const PAGE = 100
const NOW = 1_790_000_000
const YEAR = 31_536_000

interface Item {
  id: string
  created: number
}

/** Small seeded generator (mulberry32), so that a failure can be had again. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Stripe's list: newest first, by second and then by when it was made. */
function makeList(times: number[]) {
  const all: Item[] = times
    .sort((a, b) => b - a)
    .map((created, at) => ({ id: `cus_${at.toString().padStart(8, '0')}`, created }))
  return {
    all,
    page({ from, until, cursor }: ListWindow): { items: Item[]; hasMore: boolean } {
      const start = cursor === null ? firstAtMost(all, until) : Number(cursor.slice(4)) + 1
      const items: Item[] = []
      let at = start
      for (; at < all.length && items.length < PAGE; at += 1) {
        const item = all[at]
        if (item === undefined || item.created < from) break
        items.push(item)
      }
      const next = all[at]
      return { items, hasMore: next !== undefined && next.created >= from }
    },
  }
}

function firstAtMost(all: Item[], until: number): number {
  let [low, high] = [0, all.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((all[middle]?.created ?? 0) > until) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * Reads it all by so many lanes that answer in any order; while one waits for its page, others split its window. Answers what was
 * seen, calls, turns (all lanes at once), and whether each page told rightly what it covers.
 */
function readAll(
  list: ReturnType<typeof makeList>,
  lanes: number,
  random: () => number,
  options: { known?: (frontier: number) => number; breakOff?: number } = {},
) {
  let plan: ListPlan = startPlan(NOW)
  const seen = new Map<string, number>()
  let calls = 0
  let turns = 0
  let isCovered = true
  let reading = new Map<ListWindow, ReturnType<typeof list.page>>()
  const begin = () => {
    while (reading.size < lanes) {
      const known = plan.frontier === null ? 0 : (options.known?.(plan.frontier) ?? 0)
      const window = takeWindow(plan, (one) => reading.has(one), known, PAGE)
      if (window === null) return
      calls += 1
      reading.set(window, list.page(window))
    }
  }
  while (!isRead(plan)) {
    turns += 1
    begin()
    for (const [window, page] of [...reading].sort(() => random() - 0.5)) {
      const range = takePage(plan, window, page, PAGE)
      const items = page.items.slice(0, range.count)
      for (const { id } of items) seen.set(id, (seen.get(id) ?? 0) + 1)
      const shown = new Set([...range.boundaryIds, ...items.map(({ id }) => id)])
      for (
        let at = firstAtMost(list.all, range.until);
        (list.all[at]?.created ?? Number.NEGATIVE_INFINITY) > range.above;
        at += 1
      ) {
        if (!shown.has(list.all[at]?.id ?? '')) isCovered = false
      }
      reading.delete(window)
      if (options.breakOff !== undefined && random() < options.breakOff) {
        // What is stored does not know of the pages that are under way, nor of this one if it was not worked off.
        const untaken = random() < 0.5 ? new Map([[window, [{ until: range.until }]]]) : new Map()
        if (untaken.size > 0) for (const { id } of items) seen.set(id, (seen.get(id) ?? 0) - 1)
        plan = JSON.parse(JSON.stringify(restingPlan(plan, untaken)))
        reading = new Map()
        break
      }
      if (random() < 0.3) begin()
    }
  }
  return {
    seen: new Set([...seen].flatMap(([id, n]) => (n > 0 ? [id] : []))),
    seenTwice: twice(seen),
    calls,
    turns,
    isCovered,
  }
}

const twice = (seen: Map<string, number>) => [...seen.values()].filter((n) => n > 1).length

const shapes: Record<string, (random: () => number) => number[]> = {
  'spread over three years': (random) => Array.from({ length: 50_000 }, () => NOW - Math.floor(random() * 3 * YEAR)),
  'all within ten minutes': (random) =>
    Array.from({ length: 50_000 }, () => NOW - 40 * 86_400 - Math.floor(random() * 600)),
  'all in one second': () => Array.from({ length: 5_000 }, () => NOW - 1_000),
  'growing, with a gap of two years': (random) =>
    Array.from({ length: 30_000 }, (_, n) =>
      n % 3 === 0
        ? NOW - 5 * YEAR - Math.floor(random() * YEAR)
        : NOW - Math.floor(-Math.log(1 - random()) * 0.3 * YEAR),
    ),
  few: () => [NOW, NOW - 1, NOW - 3 * YEAR],
  none: () => [],
}

for (const [name, times] of Object.entries(shapes)) {
  t.test(name, async (t) => {
    for (const lanes of [1, 8]) {
      const random = randomFrom(lanes)
      const list = makeList(times(random))
      const needed = Math.ceil(list.all.length / PAGE)
      const { seen, seenTwice, calls, turns, isCovered } = readAll(list, lanes, random, {})
      t.equal(seen.size, list.all.length, `${lanes} lanes: all were seen`)
      t.equal(seenTwice, 0, 'each once')
      t.ok(isCovered, 'each page told what it covers')
      t.comment(`${lanes} lanes: ${calls} calls where ${needed} are needed, ${turns} turns`)
      t.ok(calls <= needed * 1.06 + 10, `${calls} calls where ${needed} are needed`)
      if (name !== 'all in one second') t.ok(turns <= (calls / lanes) * 1.05 + 10, `${turns} turns`)

      const broken = readAll(list, lanes, random, { breakOff: 0.05 })
      t.equal(broken.seen.size, list.all.length, 'broken off again and again, nothing is missed')
      t.ok(broken.isCovered)
    }
  })
}

t.test('where we know the times, hardly a call is wasted', async (t) => {
  for (const name of ['spread over three years', 'all within ten minutes']) {
    const random = randomFrom(1)
    const list = makeList(shapes[name]?.(random) ?? [])
    const needed = list.all.length / PAGE
    const known = (frontier: number) => list.all[firstAtMost(list.all, frontier) + 20 * PAGE - 1]?.created ?? 0
    const { seen, calls, turns } = readAll(list, 8, random, { known })
    t.equal(seen.size, list.all.length)
    t.ok(calls <= needed * 1.1, `${name}: ${calls} calls where ${needed} are needed`)
    t.ok(turns <= (calls / 8) * 1.1 + 10, `${turns} turns`)
  }
})

t.test(
  "a page that was asked for before its window was split is the window's only as far as that still goes",
  async (t) => {
    const items = (from: number, count: number) =>
      Array.from({ length: count }, (_, n) => ({ id: `cus_${from - n}`, created: from - n }))
    const plan: ListPlan = { windows: [], frontier: NOW }
    const upper = takeWindow(plan, () => false, 0, PAGE)
    if (upper === null) throw new Error('no window')
    takePage(plan, upper, { items: items(NOW, PAGE), hasMore: true }, PAGE)
    const lower = takeWindow(plan, (window) => window === upper, 0, PAGE)
    if (lower === null) throw new Error('nothing was split off')
    t.equal(upper.from, lower.until + 1)
    // Behind the dense second page there is a gap that reaches into the lower window.
    const late = [...items(NOW - PAGE, 40), ...items(lower.until - 10, 60)]
    const range = takePage(plan, upper, { items: late, hasMore: true }, PAGE)
    t.match(range, { count: 40, above: lower.until, until: NOW - PAGE + 1 })
    t.strictSame(plan.windows, [lower], 'the upper one is read, and the lower one is still to be read from its end on')
  },
)
