import { LockstepError } from '../lib/errors.js'

/** SQLSTATE classes that mean "try again": https://www.postgresql.org/docs/current/errcodes-appendix.html */
const CONTENTION = new Set(['40001', '40P01', '55P03'])
const UNAVAILABLE = /^(08|53|57P)/
const UNIQUE_VIOLATION = '23505'
/** What a trigger raises that says no more (`raise exception`): none of ours does. */
const RAISED = 'P0001'
/** What a value is too long for: no column of ours that a request can fill is. */
const TOO_LONG = '22001'
/** Constraints on `users` that came with it. */
const OWN_RULES =
  /^(users_pkey|users_tenant_id_fkey|users_(address|metadata|shipping|state|type)_check|idx_users_stripe_customer_id)$/

/** The SQLSTATE of a lock that was not to be had in time: whoever set that time wants to know of it. */
export const LOCK_NOT_AVAILABLE = '55P03'

/** Whether the database could not be reached or is shutting down, so that any other statement would fail as well. */
export function isOutage(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === 'database_unavailable'
}

/** What the server says of an error, beyond its message, which may quote values. */
interface Reported {
  sqlState: string | null
  table: string | null
  column: string | null
  constraint: string | null
}

/**
 * The database refused a statement, or could not be reached. `sqlState` is null when it was not the server that spoke. The code
 * `users_constraint` stands for a rule that the application has put on `users`: what breaks it is nobody's fault here, and is refused again.
 */
export class DatabaseError extends LockstepError {
  readonly sqlState: string | null
  /** The constraint that was broken, if one was. */
  readonly constraint: string | null

  private constructor(reported: Reported, cause: unknown) {
    const { sqlState, constraint } = reported
    const unavailable = sqlState === null || UNAVAILABLE.test(sqlState)
    const rule = applicationRule(reported)
    super(
      unavailable
        ? 'The database cannot be reached or is shutting down; check DATABASE_URL and the server.'
        : rule !== null
          ? `A rule of the application's on the table users stands against it: ${rule}.`
          : `The database refused a statement (SQLSTATE ${sqlState}${constraint === null ? '' : `, constraint ${constraint}`}).`,
      {
        code: unavailable ? 'database_unavailable' : rule !== null ? 'users_constraint' : 'database_error',
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

  /** Maps what `pg` threw, or what has its names; passes on what is mapped already. */
  static from(error: unknown): DatabaseError {
    if (error instanceof DatabaseError) return error
    const { code, table, column, constraint } = (error ?? {}) as Partial<Record<string, unknown>>
    const sqlState = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : null
    const reported = {
      sqlState,
      table: nameOrNull(table),
      column: nameOrNull(column),
      constraint: nameOrNull(constraint),
    }
    return new DatabaseError(reported, error)
  }
}

/** Whether a rule that the application has put on `users` was broken. */
export function breaksUsersRule(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && error.code === 'users_constraint'
}

/** The rule, in words without values; null when it is none of the application's. */
function applicationRule({ sqlState, table, column, constraint }: Reported): string | null {
  if (sqlState === RAISED) return 'a trigger raised an exception'
  if (sqlState === TOO_LONG) return 'a value is too long for its column'
  if (table !== 'users' || sqlState?.startsWith('23') !== true) return null
  if (constraint !== null) return OWN_RULES.test(constraint) ? null : `constraint ${constraint}`
  return column === null ? null : `column ${column} must have a value`
}

function nameOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null
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
