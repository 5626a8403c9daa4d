/** Does the work of several callers in one go. */
export interface GroupCommit<In, Out> {
  /** Does one item's work together with whatever else waits; resolves once it is done, and rejects if it was not. */
  add(item: In): Promise<Out>
}

interface Waiting<In, Out> {
  item: In
  resolve(result: Out): void
  reject(error: unknown): void
}

/**
 * Gathers what comes in while earlier work is under way and does it as one batch: alone, an item waits for nothing; under
 * load, batches grow by themselves. This is group commit as databases do it for their log: without a timer, since waiting
 * for company costs the first caller what it saves the second.
 *
 * @param options.work does all items or none of them, and answers a result for each, in order.
 * @param options.limit items in one batch at most.
 * @param options.size ends a batch early: with the item that takes the sum of their sizes to this limit.
 * @param options.lanes batches under way at once.
 * @param options.hitsAll whether an error would hit any item alike; after others each item of the batch is tried alone.
 */
export function makeGroupCommit<In, Out>(options: {
  work: (items: In[]) => Promise<Out[]>
  limit: number
  size?: { of(item: In): number; limit: number }
  lanes: number
  hitsAll?: (error: unknown) => boolean
}): GroupCommit<In, Out> {
  const { work, limit, size, lanes, hitsAll = () => false } = options
  let waiting: Waiting<In, Out>[] = []
  let busy = 0

  function start(): void {
    while (busy < lanes && waiting.length > 0) {
      const batch = waiting.slice(0, countOfNext())
      waiting = waiting.slice(batch.length)
      busy += 1
      void run(batch).finally(() => {
        busy -= 1
        start()
      })
    }
  }

  function countOfNext(): number {
    if (size === undefined) return limit
    let sum = 0
    const end = waiting.findIndex(({ item }) => {
      sum += size.of(item)
      return sum >= size.limit
    })
    return end < 0 ? limit : Math.min(limit, end + 1)
  }

  async function run(batch: Waiting<In, Out>[]): Promise<void> {
    try {
      const results = await work(batch.map(({ item }) => item))
      batch.forEach(({ resolve, reject }, index) => {
        if (index < results.length) resolve(results[index] as Out)
        else reject(new Error('The work answered fewer results than it was given items.'))
      })
    } catch (error) {
      if (batch.length === 1 || hitsAll(error)) for (const { reject } of batch) reject(error)
      // One bad item must not take the others down with it.
      else for (const one of batch) await run([one])
    }
  }

  return {
    add(item) {
      return new Promise<Out>((resolve, reject) => {
        waiting.push({ item, resolve, reject })
        // What arrives in the same turn of the event loop goes together.
        if (waiting.length === 1) setImmediate(start)
      })
    },
  }
}
