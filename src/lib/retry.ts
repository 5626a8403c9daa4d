/** Exponential backoff with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). */
export interface Backoff {
  /** The longest first wait, in milliseconds. */
  first: number
  /** The longest wait of all, in milliseconds. */
  max: number
}

/**
 * How long to wait before the next try, in milliseconds, after `attempts` failed ones (from 1). Half of the wait is
 * fixed and half is chance, so that a failed try is never followed at once by the next.
 *
 * @param random uniform in [0, 1)
 */
export function backoffDelay(backoff: Backoff, attempts: number, random: () => number): number {
  const ceiling = Math.min(backoff.max, backoff.first * 2 ** Math.min(attempts - 1, 30))
  return Math.round(ceiling / 2 + (ceiling / 2) * random())
}
