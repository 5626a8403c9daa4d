import { setTimeout as sleep } from 'node:timers/promises'

/**
 * Waits until `probe` returns something truthy, and returns that. What it throws counts as "not yet", and is the cause of the
 * error if time runs out.
 *
 * @param timeout milliseconds; generous, because it only matters when the test fails.
 * @param interval milliseconds between probes.
 * @param what names the condition in the error.
 */
export async function eventually<T>(
  probe: () => T | Promise<T>,
  { timeout = 10_000, interval = 10, what = 'the condition' } = {},
): Promise<T> {
  const deadline = Date.now() + timeout
  let last: unknown
  let cause: unknown
  for (;;) {
    try {
      last = await probe()
      if (last) return last as T
      cause = undefined
    } catch (error) {
      cause = error
    }
    if (Date.now() > deadline) {
      throw new Error(`${what} did not come true within ${timeout} ms; last: ${JSON.stringify(last)}`, { cause })
    }
    await sleep(interval)
  }
}
