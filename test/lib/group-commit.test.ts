import { setImmediate as nextTurn } from 'node:timers/promises'
import t from 'tap'
import { makeGroupCommit } from '../../src/lib/group-commit.js'

/** Work that ends when it is told to; an item that is negative is bad. */
function openWork() {
  const batches: number[][] = []
  const gates: (() => void)[] = []
  return {
    batches,
    async work(items: number[]): Promise<string[]> {
      batches.push(items)
      await new Promise<void>((resolve) => gates.push(resolve))
      if (items.some((item) => item < 0)) throw new Error('bad item')
      return items.map((item) => `done ${item}`)
    },
    /** Ends the oldest batch under way. */
    async end() {
      gates.shift()?.()
      await nextTurn()
      await nextTurn()
    },
  }
}

t.test('one alone goes at once; what comes meanwhile goes together', async (t) => {
  const { batches, work, end } = openWork()
  const group = makeGroupCommit({ work, limit: 100, lanes: 1 })
  const first = group.add(1)
  await nextTurn()
  t.strictSame(batches, [[1]])
  const others = [2, 3, 4].map((item) => group.add(item))
  await nextTurn()
  t.equal(batches.length, 1, 'they wait for the batch under way')
  await end()
  t.equal(await first, 'done 1')
  t.strictSame(batches[1], [2, 3, 4])
  await end()
  t.strictSame(await Promise.all(others), ['done 2', 'done 3', 'done 4'])
})

t.test('no batch is larger than the limit, no more are under way than there are lanes', async (t) => {
  const { batches, work, end } = openWork()
  const group = makeGroupCommit({ work, limit: 2, lanes: 2 })
  const all = [1, 2, 3, 4, 5].map((item) => group.add(item))
  await nextTurn()
  t.strictSame(batches, [
    [1, 2],
    [3, 4],
  ])
  await end()
  t.strictSame(batches.at(-1), [5])
  await end()
  await end()
  t.equal((await Promise.all(all)).length, 5)
})

t.test('what hits all fails all at once', async (t) => {
  let calls = 0
  const group = makeGroupCommit<number, string>({
    async work() {
      calls += 1
      throw new Error('away')
    },
    limit: 100,
    lanes: 1,
    hitsAll: (error) => error instanceof Error && error.message === 'away',
  })
  const all = await Promise.allSettled([1, 2, 3].map((item) => group.add(item)))
  t.strictSame(
    all.map(({ status }) => status),
    ['rejected', 'rejected', 'rejected'],
  )
  t.equal(calls, 1)
})

t.test('a bad item fails alone', async (t) => {
  const { work, end } = openWork()
  const group = makeGroupCommit({ work, limit: 100, lanes: 1 })
  const all = Promise.allSettled([1, -2, 3].map((item) => group.add(item)))
  for (let n = 0; n < 4; n += 1) {
    await nextTurn()
    await end()
  }
  t.match(await all, [
    { status: 'fulfilled', value: 'done 1' },
    { status: 'rejected', reason: { message: 'bad item' } },
    { status: 'fulfilled', value: 'done 3' },
  ])
})

t.test('what is large goes with less company', async (t) => {
  const { batches, work, end } = openWork()
  const group = makeGroupCommit({ work, limit: 4, size: { of: (item: number) => item, limit: 10 }, lanes: 1 })
  const all = [1, 2, 9, 20, 1, 1, 1, 1, 1].map((item) => group.add(item))
  for (const batch of [[1, 2, 9], [20], [1, 1, 1, 1], [1]]) {
    await nextTurn()
    t.strictSame(batches.at(-1), batch)
    await end()
  }
  await Promise.all(all)
})
