/** Runs the work when it is its turn; resolves and rejects as the work does. */
export type Turns = <T>(work: () => Promise<T>) => Promise<T>

/** Lets `most` pieces of work run at a time; the others wait, and whoever came first goes first. */
export function makeTurns(most: number): Turns {
  const waiting: (() => void)[] = []
  let running = 0
  return async (work) => {
    if (running < most) running += 1
    // Whoever ends hands its place on, so that nobody who comes later is faster.
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next === undefined) running -= 1
      else next()
    }
  }
}
