import { LockstepError } from '../lib/errors.js'

/** SQLSTATE classes that mean "try again": https://www.postgresql.org/docs/current/errcodes-appendix.html */
const CONTENTION = new Set(['40001', '40P01', '55P03'])
const UNAVAILABLE = /^(08|53|57P)/
const UNIQUE_VIOLATION = '23505'

/** The SQLSTATE of a lock that was not to be had in time: whoever set that time wants to know of it. */
export const LOCK_NOT_AVAILABLE = '55P03'

/** Whether the database could not be reached or is shutting down, so that any other statement would fail as well. */
export function isOutage(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === 'database_unavailable'
}

/** The database refused a statement, or could not be reached. `sqlState` is null when it was not the server that spoke. */
export class DatabaseError extends LockstepError {
  readonly sqlState: string | null
  /** The constraint that was broken, if one was. */
  readonly constraint: string | null

  private constructor(sqlState: string | null, constraint: string | null, cause: unknown) {
    const unavailable = sqlState === null || UNAVAILABLE.test(sqlState)
    super(
      unavailable
        ? 'The database cannot be reached or is shutting down; check DATABASE_URL and the server.'
        : `The database refused a statement (SQLSTATE ${sqlState}${constraint === null ? '' : `, constraint ${constraint}`}).`,
      {
        code: unavailable ? 'database_unavailable' : 'database_error',
        retryable: unavailable || CONTENTION.has(sqlState ?? ''),
        cause,
      },
    )
    this.sqlState = sqlState
    this.constraint = constraint
  }

  /** Whether another transaction stood in the way: the same work may pass when tried again. */
  get isContention(): boolean {
    return this.sqlState !== null && CONTENTION.has(this.sqlState)
  }

  get isUniqueViolation(): boolean {
    return this.sqlState === UNIQUE_VIOLATION
  }

  /** Maps what `pg` threw; passes on what is mapped already. */
  static from(error: unknown): DatabaseError {
    if (error instanceof DatabaseError) return error
    const { code, constraint } = (error ?? {}) as { code?: unknown; constraint?: unknown }
    const sqlState = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : null
    return new DatabaseError(sqlState, typeof constraint === 'string' ? constraint : null, error)
  }
}

/** Someone else has been given the lease on this user, or run, since: whatever this worker still holds is out of date. */
export class LeaseLostError extends LockstepError {
  /** @param on what the lease was on, such as `user 0197…` */
  constructor(on: string) {
    super(`The lease on ${on} has passed to another worker; nothing was written.`, {
      code: 'lease_lost',
      retryable: true,
    })
  }
}

/** What was decided was decided on a state that another transaction has changed since: nothing was written; read it again. */
export class MovedOnError extends LockstepError {
  constructor(what: string) {
    super(`The state of ${what} has moved on since it was read.`, { code: 'moved_on', retryable: true })
  }
}
