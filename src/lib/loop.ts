/** Work that goes on in the background until it is stopped. */
export interface Loop {
  /** Runs now instead of at the next tick; a wake during a run makes another run follow. */
  wake(): void
  /** Stops after the run under way; resolves when it has ended. */
  stop(): Promise<void>
}

/**
 * Runs `work` again and again: at once while it answers that there is more, else after `idleMs` or a wake. What it throws
 * goes to `onError` and costs a longer pause: the loop itself never ends by an error.
 */
export function startLoop(options: {
  work: () => Promise<{ more: boolean }>
  idleMs: number
  onError: (error: unknown) => void
}): Loop {
  const { work, idleMs, onError } = options
  let stopped = false
  let woken = false
  let interrupt: (() => void) | null = null

  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      const timer = setTimeout(done, ms)
      function done() {
        clearTimeout(timer)
        interrupt = null
        resolve()
      }
      interrupt = done
    })

  const running = (async () => {
    while (!stopped) {
      woken = false
      let more = false
      let wait = idleMs
      try {
        more = (await work()).more
      } catch (error) {
        onError(error)
        wait = Math.max(idleMs, 1_000)
      }
      if (!more && !woken && !stopped) await pause(wait)
    }
  })()

  return {
    wake() {
      woken = true
      interrupt?.()
    },
    async stop() {
      stopped = true
      interrupt?.()
      await running
    },
  }
}
