import Stripe from 'stripe'
import { LockstepError } from '../lib/errors.js'
import { headerOf, isReplay } from './headers.js'

/** What Stripe said, apart from its message, which may quote personal data and therefore stays in `cause`. */
interface StripeFacts {
  code: string
  retryable: boolean
  /** Whether the change was certainly not made. `false`: it may have been, so look before acting on it. */
  notApplied: boolean
  cause: unknown
}

/** A call to Stripe that failed. Branch on the subclass or on `code`; `requestId` is what Stripe's support asks for. */
export class StripeCallError extends LockstepError {
  readonly notApplied: boolean
  readonly statusCode: number | null
  readonly requestId: string | null
  /** Stripe's own error code, such as `resource_missing`. */
  readonly stripeCode: string | null
  /** The parameter that Stripe complains of, such as `shipping[address][country]`. */
  readonly param: string | null
  /** Stripe repeated the failure of an earlier call with the same idempotency key: that call is over. */
  readonly isReplay: boolean

  constructor(message: string, facts: StripeFacts) {
    super(message, facts)
    const raw = facts.cause instanceof Stripe.errors.StripeError ? facts.cause : undefined
    this.notApplied = facts.notApplied
    this.statusCode = raw?.statusCode ?? null
    this.requestId = raw?.requestId ?? null
    this.stripeCode = raw?.code ?? null
    this.param = raw?.param ?? null
    this.isReplay = isReplay(raw?.headers)
  }
}

/** A parameter that Stripe does not take, or would not (our own check before the call). Wrong until it is changed. */
export class StripeValidationError extends StripeCallError {}
/** The object does not exist at Stripe, or no longer. Absence alone is no proof of a deletion. */
export class StripeNotFoundError extends StripeCallError {}
/** The customer would be a second one for the same user. */
export class DuplicateCustomerError extends StripeCallError {}
/** Too many calls, or the object is locked by another one. */
export class StripeRateLimitError extends StripeCallError {
  /** What is asked for too often: this operation, or the account by all calls together. `object`: it is locked, for a moment. */
  readonly limit: 'account' | 'operation' | 'object'
  /** How long Stripe asks for no calls; null: it does not say. */
  readonly retryAfterSeconds: number | null

  constructor(message: string, facts: StripeFacts) {
    super(message, facts)
    const headers = facts.cause instanceof Stripe.errors.StripeError ? facts.cause.headers : undefined
    // docs.stripe.com/rate-limits: global-rate, global-concurrency, endpoint-rate, endpoint-concurrency, resource-specific.
    const reason = headerOf(headers, 'stripe-rate-limited-reason') ?? 'global-rate'
    this.limit = this.stripeCode === 'lock_timeout' ? 'object' : reason.startsWith('global') ? 'account' : 'operation'
    this.retryAfterSeconds = secondsOf(headerOf(headers, 'retry-after'))
  }
}
/** The key is wrong, expired, of the wrong mode, or may not do this: every call of the account will fail alike. */
export class StripeAuthError extends StripeCallError {}
/** The tenant has no Stripe account yet, or its key cannot be opened: no call was made. */
export class StripeNotConnectedError extends StripeAuthError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'stripe_not_connected', retryable: true, notApplied: true, cause })
  }
}
/** The idempotency key was used before with other parameters. */
export class StripeIdempotencyError extends StripeCallError {}
/** Stripe could not be reached, did not answer in time, or failed on its side; the change may have been made. */
export class StripeUnavailableError extends StripeCallError {}

/** Ends every message about a id of the other mode (no code tells it); the id says nothing about a deletion then. */
const WRONG_MODE = /a similar object exists in (live|test) mode/

/**
 * Maps what the SDK threw onto ours, by status and code (docs.stripe.com/error-low-level). The SDK surfaces 409 as a
 * StripeAPIError and derives its other classes from the status, so the status decides.
 */
export function mapStripeError(error: unknown): LockstepError {
  if (error instanceof LockstepError) return error
  if (!(error instanceof Stripe.errors.StripeError)) {
    return new StripeUnavailableError('The call to Stripe broke before an answer came; it will be tried again.', {
      code: 'stripe_unavailable',
      retryable: true,
      notApplied: false,
      cause: error,
    })
  }
  const status = error.statusCode
  const about = error.param === undefined || error.param === '' ? '' : ` (parameter '${error.param}')`
  if (status === 401 || status === 403 || WRONG_MODE.test(error.message)) {
    const hint =
      status === 403
        ? 'the key lacks a permission'
        : status === 401
          ? 'the key is wrong or expired'
          : 'the key is of the other mode (test or live) than the object'
    return new StripeAuthError(
      `Stripe refuses our key: ${hint}. Check STRIPE_SECRET_KEY, or the tenant's own key (PUT /tenant/stripe); the work is kept.`,
      {
        code: 'stripe_auth_failed',
        retryable: true,
        notApplied: true,
        cause: error,
      },
    )
  }
  if (error.rawType === 'idempotency_error') {
    return new StripeIdempotencyError('Stripe knows this idempotency key with other parameters.', {
      code: 'stripe_idempotency_mismatch',
      retryable: false,
      notApplied: true,
      cause: error,
    })
  }
  if (status === 429 || error.code === 'rate_limit' || error.code === 'lock_timeout') {
    return new StripeRateLimitError('Stripe asks for fewer calls; this one will be made later.', {
      code: 'stripe_rate_limited',
      retryable: true,
      notApplied: true,
      cause: error,
    })
  }
  if (error.code === 'resource_missing') {
    return new StripeNotFoundError(`Stripe has no such object${about}.`, {
      code: 'stripe_not_found',
      retryable: false,
      notApplied: true,
      cause: error,
    })
  }
  if (error.code === 'resource_already_exists') {
    return new DuplicateCustomerError(`Stripe has this object already${about}.`, {
      code: 'stripe_duplicate',
      retryable: false,
      notApplied: true,
      cause: error,
    })
  }
  if (status !== undefined && status >= 400 && status < 500 && status !== 409 && status !== 424) {
    return new StripeValidationError(
      `Stripe refuses a parameter${about}: ${error.code ?? error.rawType ?? 'invalid'}.`,
      {
        code: 'stripe_invalid_request',
        retryable: false,
        notApplied: true,
        cause: error,
      },
    )
  }
  return new StripeUnavailableError(
    `Stripe did not complete the call (status ${status ?? 'none'}); it will be tried again.`,
    {
      code: 'stripe_unavailable',
      retryable: true,
      notApplied: false,
      cause: error,
    },
  )
}

/**
 * What a request is told whose call to Stripe failed before anything was changed. What the sync says of it, that the work is kept and tried
 * again, holds for the sync alone. What Stripe refuses for a reason in the request passes through.
 */
export function nothingChanged(error: unknown): unknown {
  if (!(error instanceof StripeCallError) || !error.retryable) return error
  const why =
    error instanceof StripeAuthError
      ? "Stripe refuses the key of the tenant's account (see GET /tenant)"
      : error instanceof StripeRateLimitError
        ? 'Stripe asks for fewer calls just now'
        : 'Stripe did not answer as it should'
  const { code, retryable } = error
  return new LockstepError(`${why}. Nothing was changed: try again.`, { code, retryable, cause: error })
}

/** `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. */
function secondsOf(retryAfter: string | undefined): number | null {
  if (retryAfter === undefined) return null
  const seconds = /^\d+$/.test(retryAfter) ? Number(retryAfter) : (Date.parse(retryAfter) - Date.now()) / 1000
  return seconds > 0 ? seconds : null
}

/** Our own check found the parameter wrong before any call was made. */
export function invalidParameter(param: string, rule: string): StripeValidationError {
  const error = new StripeValidationError(`${param}: ${rule}`, {
    code: 'stripe_invalid_request',
    retryable: false,
    notApplied: true,
    cause: undefined,
  })
  return Object.assign(error, { param })
}
