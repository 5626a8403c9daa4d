/** What a thrower knows about an error beyond its message. */
export interface ErrorDetails {
  /** Stable, machine-readable, `snake_case`; part of the API contract. */
  code: string
  /** Whether the same call may succeed later without anyone changing anything. */
  retryable?: boolean
  /** The error underneath, for logs only: it may hold what must not reach a client. */
  cause?: unknown
}

/**
 * The root of every error that Lockstep throws on purpose. `message` says which input or dependency, what was
 * expected and what to do, and is safe to show: it holds neither secrets nor personal data.
 */
export class LockstepError extends Error {
  readonly code: string
  readonly retryable: boolean

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = new.target.name
    this.code = details.code
    this.retryable = details.retryable ?? false
  }
}

/** One rejected field of an input. `path` is dotted, as in the JSON body: `address.country`, `metadata.tier`. */
export interface FieldError {
  path: string
  code: string
  message: string
}

/** The input breaks a rule that its sender can mend. */
export class ValidationError extends LockstepError {
  readonly errors: FieldError[]

  constructor(errors: FieldError[], code = 'validation_failed') {
    super(errors.map((error) => `${error.path}: ${error.message}`).join('; '), { code })
    this.errors = errors
  }
}

/** The thing named does not exist for this tenant. */
export class NotFoundError extends LockstepError {
  constructor(what: string, id: string, code = 'not_found') {
    super(`No ${what} with id '${id}'.`, { code })
  }
}

/** A thing that stands against what was asked. */
export interface Blocker {
  kind: 'order'
  id: string
  /** What people call it. */
  reference: string | null
}

/** The request is well-formed but does not fit the present state. */
export class ConflictError extends LockstepError {
  /** What has to be seen to first. */
  readonly blockers: readonly Blocker[]

  constructor(message: string, code: string, blockers: readonly Blocker[] = []) {
    super(message, { code })
    this.blockers = blockers
  }
}

/** The message of anything thrown, for a log line or `last_error`. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The customer has changed since the caller read it. */
export class RevisionMismatchError extends LockstepError {
  constructor(revision: number) {
    super(`The customer is at revision ${revision} now. Read it again, and apply your change to that.`, {
      code: 'revision_mismatch',
    })
  }
}
