/** The source of "now" for code whose behaviour depends on time, so that a simulation can own it. */
export interface Clock {
  /** Now, as milliseconds since the Unix epoch. */
  now(): number
}

/** A clock that can be waited on. */
export interface Timer extends Clock {
  /** Resolves after `milliseconds`, or as soon as `signal` aborts. Never rejects. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>
}

/** The machine's clock. */
export const systemClock: Timer = {
  now: () => Date.now(),
  sleep: (milliseconds, signal) =>
    new Promise((resolve) => {
      const timer = setTimeout(done, milliseconds)
      function done() {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      signal?.addEventListener('abort', done)
      if (signal?.aborted === true) done()
    }),
}

/** A clock that moves only when told to. Times are milliseconds since the Unix epoch. */
export class ManualClock implements Clock {
  #now: number

  constructor(start: number) {
    this.#now = start
  }

  now(): number {
    return this.#now
  }

  /** Moves the clock forward by `milliseconds`; returns the new time. */
  advance(milliseconds: number): number {
    this.#now += milliseconds
    return this.#now
  }

  /** Sets the clock to `time`, which may be in the past: real clocks jump too. */
  set(time: number): void {
    this.#now = time
  }
}
