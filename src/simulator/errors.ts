/** Stripe's errors as the wire has them (stripe-facts sections 5 and 6). */

export type WireErrorType = 'api_error' | 'card_error' | 'idempotency_error' | 'invalid_request_error'

export interface ErrorDetail {
  code?: string
  param?: string
  type?: WireErrorType
  headers?: Record<string, string>
  /** A 401 for a bad key and a lock timeout carry no Request-Id. */
  withoutRequestId?: boolean
}

/** An error that an API call answers with. */
export class ApiError extends Error {
  readonly status: number
  readonly detail: ErrorDetail

  constructor(status: number, message: string, detail: ErrorDetail = {}) {
    super(message)
    this.status = status
    this.detail = detail
  }

  /** The JSON body; `logUrl` is the dashboard's page for the request, which a 401 lacks. */
  body(logUrl: string): { error: Record<string, string> } {
    const { code, param, type, withoutRequestId } = this.detail
    return {
      error: {
        ...(code && { code, doc_url: `https://stripe.com/docs/error-codes/${code.replaceAll('_', '-')}` }),
        message: this.message,
        ...(param && { param }),
        ...(!withoutRequestId && { request_log_url: logUrl }),
        type: type ?? 'invalid_request_error',
      },
    }
  }
}

/** A 400 about one parameter. */
export function invalid(message: string, param?: string, code?: string): ApiError {
  return new ApiError(400, message, { ...(param && { param }), ...(code && { code }) })
}

export const unknownParameter = (param: string) =>
  invalid(`Received unknown parameter: ${param}`, param, 'parameter_unknown')

export const missingParameter = (param: string) =>
  invalid(`Missing required param: ${param}.`, param, 'parameter_missing')

export const emptyParameter = (param: string) =>
  invalid(
    `You passed an empty string for '${param}'. We assume empty values are an attempt to unset a parameter; however '${param}' cannot be unset. You should remove '${param}' from your request or supply a non-empty value.`,
    param,
    'parameter_invalid_empty',
  )

export const invalidInteger = (param: string, raw: string) =>
  invalid(`Invalid integer: ${raw}`, param, 'parameter_invalid_integer')

/**
 * No such object. 404 where the URL names it, 400 where a parameter does or where the customer was deleted; with the other
 * mode's suffix when a similar object exists there (stripe-facts sections 1, 6 and 7).
 */
export function missing(
  kind: string,
  id: string,
  param: string,
  options: { status?: 400 | 404; otherMode?: 'live' | 'test' } = {},
): ApiError {
  const mine = options.otherMode === 'live' ? 'test' : 'live'
  const suffix = options.otherMode
    ? `; a similar object exists in ${options.otherMode} mode, but a ${mine} mode key was used to make this request.`
    : ''
  return new ApiError(options.status ?? 404, `No such ${kind}: '${id}'${suffix}`, { code: 'resource_missing', param })
}

/** Missing or unacceptable key: no Request-Id, no code. */
export function unauthorized(key: string | undefined): ApiError {
  const message = key
    ? `Invalid API Key provided: ${redactKey(key)}`
    : "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication for details, or we can help at https://support.stripe.com/."
  return new ApiError(401, message, {
    withoutRequestId: true,
    headers: { 'WWW-Authenticate': 'Bearer realm="Stripe"' },
  })
}

/** A restricted key without the permission. */
export function forbidden(key: string, account: string, resource: string, access: 'Read' | 'Write'): ApiError {
  const scope = `${resource.toLowerCase().replaceAll(' ', '_')}_${access.toLowerCase()}`
  return new ApiError(
    403,
    `The provided key '${redactKey(key)}' does not have the required permissions for this endpoint on account '${account}'. Enabling "${resource} ${access}" ('${scope}') permissions on this key would allow this request to continue.`,
  )
}

export type RateLimitReason = 'global-rate' | 'endpoint-rate'

export const rateLimited = (reason: RateLimitReason) =>
  new ApiError(
    429,
    'Request rate limit exceeded. You can learn more about rate limits here https://stripe.com/docs/rate-limits.',
    { code: 'rate_limit', headers: { 'Stripe-Rate-Limited-Reason': reason } },
  )

/** An object's lock was held: no reason header, no Request-Id, and the SDK is told to retry. */
export const lockTimeout = () =>
  new ApiError(
    429,
    'This object cannot be accessed right now because another API request or Stripe process is currently accessing it. If you see this error intermittently, retry the request. If you see this error frequently and are making multiple concurrent requests to a single object, make your requests serially or at a lower rate. For more details, see https://stripe.com/docs/rate-limits#object-lock-timeouts.',
    { code: 'lock_timeout', headers: { 'Stripe-Should-Retry': 'true' }, withoutRequestId: true },
  )

/** Indeterminate: with a key it is stored and replayed (stripe-facts section 4). */
export const serverError = () =>
  new ApiError(
    500,
    'An error occurred while processing your request. You can contact our support team if the problem persists.',
    {
      type: 'api_error',
      headers: { 'Stripe-Should-Retry': 'false' },
    },
  )

export const keyInUse = (key: string) =>
  new ApiError(
    409,
    `There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): ${key}. Please try again later.`,
    { code: 'idempotency_key_in_use' },
  )

export const keyReused = (key: string) =>
  new ApiError(
    400,
    `Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '${key}' if you meant to execute a different request.`,
    { type: 'idempotency_error' },
  )

function redactKey(key: string): string {
  const tail = key.slice(-4)
  const prefix = /^([a-z]+_(?:test|live)_)/.exec(key)?.[1] ?? ''
  return `${prefix}${'*'.repeat(Math.max(3, key.length - prefix.length - 4))}${tail}`
}
