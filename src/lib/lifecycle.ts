import { messageOf } from './errors.js'

/** What has been opened, to be closed in reverse order. */
export interface Lifecycle {
  /** Says how to close what was just opened. */
  onClose(name: string, close: () => Promise<void>): void
  /** Closes everything once, last opened first; one failure does not keep the others open. Answers the failures. */
  close(): Promise<Error[]>
}

/** Every opener pushes its closer here. */
export function makeLifecycle(report: (name: string, error: unknown) => void): Lifecycle {
  const closers: { name: string; close: () => Promise<void> }[] = []
  let closing: Promise<Error[]> | undefined

  async function closeAll(): Promise<Error[]> {
    const failures: Error[] = []
    for (const { name, close } of closers.reverse()) failures.push(...(await closeOne(name, close)))
    return failures
  }

  async function closeOne(name: string, close: () => Promise<void>): Promise<Error[]> {
    try {
      await close()
      return []
    } catch (error) {
      report(name, error)
      return [new Error(`${name}: ${messageOf(error)}`, { cause: error })]
    }
  }

  return {
    onClose(name, close) {
      if (closing === undefined) closers.push({ name, close })
      // Opened by something that was still starting when the rest was closed.
      else closing = closing.then(async (failures) => [...failures, ...(await closeOne(name, close))])
    },
    close() {
      closing ??= closeAll()
      return closing
    },
  }
}
