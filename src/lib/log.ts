import pino, { type Logger } from 'pino'
import { LockstepError } from './errors.js'

/** How deep a chain of causes is logged. */
const CAUSES = 4

/**
 * The service's logger: JSON lines on stderr, since people read stdout. Errors are written by {@link describeError}, so that
 * nobody's data gets into the log by way of another library's error.
 */
export function makeLogger(level: string): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime, serializers: { err: describeError } },
    pino.destination({ dest: 2, sync: true }),
  )
}

/**
 * What a log line may hold of an error: its kind, code, message and stack. Not the further properties of a foreign error,
 * where `pg` puts the values of the row, and not the messages of causes that are not ours, where Stripe quotes what it refuses.
 */
export function describeError(error: unknown, depth = 0): unknown {
  // A text is one that its writer chose to log.
  if (typeof error === 'string') return { message: error }
  if (!(error instanceof Error)) return { type: typeof error }
  const { code } = error as { code?: unknown }
  const isOurs = error instanceof LockstepError
  return {
    type: error.name,
    ...(depth === 0 || isOurs ? { message: error.message } : {}),
    ...(typeof code === 'string' ? { code } : {}),
    ...(depth === 0 ? { stack: error.stack } : {}),
    ...(error.cause !== undefined && depth < CAUSES ? { cause: describeError(error.cause, depth + 1) } : {}),
  }
}
