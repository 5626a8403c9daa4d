import { LockstepError } from './errors.js'

/** More came in than can be served soon. Nothing was done. */
export class OverloadedError extends LockstepError {
  constructor(
    message = 'There is more to do than can be done soon. Nothing of this request was done; send it again later.',
  ) {
    super(message, { code: 'overloaded', retryable: true })
  }
}

/** Bounds how many are inside at a time. */
export interface Gate {
  /**
   * Lets one in that takes up so many bytes. Answers how it leaves; to leave twice is to leave once.
   *
   * @throws {OverloadedError} when it is full.
   */
  enter(bytes?: number): () => void
  /** Lets one in that was inside before, full or not. */
  reenter(): () => void
}

/**
 * A gate that never makes anybody wait: who would have to is told so at once, and costs nothing more.
 *
 * @param options.onShed somebody was turned away
 */
export function makeGate(options: { most: number; mostBytes?: number; onShed(): void }): Gate {
  const { most, mostBytes = Number.POSITIVE_INFINITY, onShed } = options
  let inside = 0
  let bytesInside = 0

  function admit(bytes: number): () => void {
    let isInside = true
    inside += 1
    bytesInside += bytes
    return () => {
      if (!isInside) return
      isInside = false
      inside -= 1
      bytesInside -= bytes
    }
  }

  return {
    enter(bytes = 0) {
      if (inside >= most || bytesInside + bytes > mostBytes) {
        onShed()
        throw new OverloadedError()
      }
      return admit(bytes)
    },
    reenter: () => admit(0),
  }
}
