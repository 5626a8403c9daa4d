import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { quotaHeaders, RateLimitedError } from '../access/request-limits.js'
import { ConflictError, type FieldError, LockstepError, NotFoundError, ValidationError } from '../lib/errors.js'
import { fieldErrorsOf } from '../lib/field-errors.js'
import { OverloadedError } from '../lib/gate.js'
import { newId } from '../lib/ids.js'
import type { Problem } from '../models/dtos/problem.dto.js'

export const PROBLEM_TYPE = 'application/problem+json'

/**
 * The status of each code of ours whose class does not tell it: ValidationError is 400, NotFoundError 404, ConflictError 409,
 * any other 500, or 503 when it may pass by itself.
 */
const STATUS_BY_CODE: Readonly<Record<string, number>> = {
  api_key_required: 401,
  invalid_api_key: 401,
  permission_denied: 403,
  idempotency_key_reused: 422,
  revision_mismatch: 412,
  method_not_allowed: 405,
  not_acceptable: 406,
  rate_limited: 429,
  jwks_unavailable: 503,
  overloaded: 503,
  database_unavailable: 503,
  database_error: 500,
  users_constraint: 409,
  bad_signature: 400,
  timestamp_out_of_tolerance: 400,
  unparsable_body: 400,
  wrong_mode: 400,
  unknown_tenant: 400,
  upload_interrupted: 400,
  upload_too_slow: 408,
  file_too_large: 413,
  unsupported_file: 415,
  stripe_unavailable: 502,
  stripe_rate_limited: 503,
  stripe_auth_failed: 502,
  stripe_invalid_request: 422,
  stripe_key_refused: 422,
  stripe_not_found: 404,
  stripe_duplicate: 409,
  stripe_idempotency_mismatch: 409,
}

/** The kinds of problem, in words; a kind that is not here bears the name of its status. */
const TITLE_BY_CODE: Readonly<Record<string, string>> = {
  validation_failed: 'The request is not valid',
  invalid_json: 'The body is not JSON',
  invalid_cursor: 'The cursor is not valid',
  invalid_file: 'The file cannot be read',
  file_too_large: 'The file is too large',
  unsupported_file: 'The file is of a kind that is not understood',
  not_found: 'There is no such thing',
  route_not_found: 'There is no such path',
  revision_mismatch: 'The customer has changed',
  idempotency_key_reused: 'The Idempotency-Key was used for another request',
  users_constraint: 'The database has a rule against it',
  idempotency_key_in_use: 'A request with this Idempotency-Key is at work',
  rate_limited: 'Too many requests',
  overloaded: 'The service is busy',
  api_key_required: 'An API key is needed',
  invalid_api_key: 'The API key is not valid',
  permission_denied: 'The API key may not do this',
  stripe_key_refused: 'The Stripe account cannot be used',
  internal_error: 'Something went wrong here',
}

/** What Fastify refuses by itself. `path` is the field that the client has to look at. */
const FASTIFY_ERRORS: Readonly<Record<string, { status: number; code: string; detail: string; path?: string }>> = {
  FST_ERR_CTP_INVALID_JSON_BODY: {
    status: 400,
    code: 'invalid_json',
    detail: 'The body is not valid JSON.',
    path: 'body',
  },
  FST_ERR_CTP_EMPTY_JSON_BODY: { status: 400, code: 'invalid_json', detail: 'The body is empty.', path: 'body' },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    status: 400,
    code: 'invalid_content_length',
    detail: 'The body is not as long as Content-Length says.',
    path: 'body',
  },
  FST_ERR_CTP_BODY_TOO_LARGE: { status: 413, code: 'body_too_large', detail: 'The body is too large.', path: 'body' },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    status: 415,
    code: 'unsupported_media_type',
    detail: 'Send the body as application/json, and say so in Content-Type.',
    path: 'Content-Type',
  },
  FST_ERR_BAD_URL: { status: 400, code: 'invalid_url', detail: 'The path is not a valid URL.', path: 'url' },
  FST_ERR_MAX_PARAM_LENGTH: {
    status: 414,
    code: 'uri_too_long',
    detail: 'A part of the path is too long.',
    path: 'url',
  },
  FST_ERR_HANDLER_TIMEOUT: { status: 503, code: 'timeout', detail: 'The answer took too long; try again.' },
}

/** How long a client should wait before it tries again what may pass by itself, in seconds. */
const RETRY_AFTER_SECONDS = 1

/** Makes every error of `app` an RFC 9457 answer. This is the only place that chooses a status for an error. */
export function answerProblems(app: FastifyInstance, allowedMethods: (path: string) => string[]): void {
  app.setErrorHandler(sendProblem)
  app.setNotFoundHandler((request, reply) => {
    const path = request.raw.url?.split('?', 1)[0] ?? '/'
    const allowed = allowedMethods(path)
    if (allowed.length === 0) {
      const bare = path.replace(/\/+$/, '')
      const hint =
        bare !== path && allowedMethods(bare).length > 0 ? `there is ${bare}, without the slash` : 'see /api/docs'
      return send(request, reply, problem(404, 'route_not_found', `There is no ${request.method} ${path}; ${hint}.`))
    }
    reply.header('allow', allowed.join(', '))
    return send(
      request,
      reply,
      problem(405, 'method_not_allowed', `${request.method} is not for this path; it takes ${allowed.join(', ')}.`),
    )
  })
}

/** Answers `error` as a problem, and logs it when the fault is ours. */
export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const answer = problemOf(error)
  // Who is turned away is counted; a line with a stack for each would be more work than the request.
  if (answer.status >= 500 && !(error instanceof OverloadedError)) request.log.error({ err: error }, 'request failed')
  if (answer.status === 401) reply.header('www-authenticate', challenge(answer.code))
  if (answer.status === 503 || answer.status === 429) {
    const quota = error instanceof RateLimitedError ? error.quota : null
    reply.header('retry-after', quota?.resetSeconds ?? RETRY_AFTER_SECONDS)
    if (quota !== null) reply.headers(quotaHeaders(quota))
  }
  return send(request, reply, answer)
}

/** Answers what is not HTTP enough for Fastify to make a request of. Such a connection cannot be used again. */
export function answerBrokenRequests(error: Error & { code?: string }, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy(error)
    return
  }
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
  const answer: Problem = {
    ...problem(status, 'malformed_request', 'This is not an HTTP request that can be read.'),
    requestId: newId(),
  }
  const body = JSON.stringify(answer)
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    `Content-Type: ${PROBLEM_TYPE}`,
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}

/** What an error comes to, but for the request it happened in. */
export function problemOf(error: unknown): Omit<Problem, 'requestId'> {
  if (error instanceof ValidationError) {
    const detail = error.errors.map(({ path, message }) => `${path}: ${message}`).join('; ')
    return problem(STATUS_BY_CODE[error.code] ?? 400, error.code, detail, error.errors)
  }
  if (error instanceof LockstepError) {
    const status = statusOf(error)
    // Ours, but of a kind nobody planned for a client to see.
    if (status === 500) return problem(500, 'internal_error', INTERNAL)
    const blockers = error instanceof ConflictError && error.blockers.length > 0 ? [...error.blockers] : undefined
    return { ...problem(status, error.code, error.message), ...(blockers && { blockers }) }
  }
  const { code = '', statusCode, validation, validationContext } = error as Partial<FastifyError>
  if (validation !== undefined) {
    return problemOf(new ValidationError(fieldErrorsOf(validation, validationContext ?? 'body')))
  }
  const known = FASTIFY_ERRORS[code]
  if (known !== undefined) {
    const { status, detail, path } = known
    return problem(
      status,
      known.code,
      detail,
      path === undefined ? undefined : [{ path, code: known.code, message: detail }],
    )
  }
  // The JSON parser's own errors (such as a `__proto__` key) carry a status, and a message that may quote the body.
  if (error instanceof SyntaxError && statusCode === 400) {
    return problemOf({ code: 'FST_ERR_CTP_INVALID_JSON_BODY' })
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    const title = STATUS_CODES[statusCode] ?? 'Bad request'
    return problem(statusCode, title.toLowerCase().replace(/[^a-z]+/g, '_'), `${title}.`)
  }
  return problem(500, 'internal_error', INTERNAL)
}

const INTERNAL = 'The request could not be completed. It was logged; quote the requestId when you ask for help.'

function statusOf(error: LockstepError): number {
  const listed = STATUS_BY_CODE[error.code]
  if (listed !== undefined) return listed
  if (error instanceof NotFoundError) return 404
  if (error instanceof ConflictError) return 409
  return error.retryable ? 503 : 500
}

/** An answer of this code, but for the id of its request. */
export function problem(
  status: number,
  code: string,
  detail: string,
  errors?: FieldError[],
): Omit<Problem, 'requestId'> {
  return {
    type: `urn:lockstep:problem:${code}`,
    title: TITLE_BY_CODE[code] ?? STATUS_CODES[status] ?? 'Error',
    status,
    detail,
    code,
    ...(errors === undefined ? {} : { errors }),
  }
}

function send(request: FastifyRequest, reply: FastifyReply, answer: Omit<Problem, 'requestId'>): FastifyReply {
  const { errors, blockers, ...kind } = answer
  const body: Problem = { ...kind, requestId: request.id, ...(errors && { errors }), ...(blockers && { blockers }) }
  // Errors of the framework come before any hook that would set it.
  reply.header('x-request-id', request.id)
  return reply.code(answer.status).type(PROBLEM_TYPE).serializer(JSON.stringify).send(body)
}

/** RFC 6750, section 3: without credentials no error is named. */
function challenge(code: string): string {
  return code === 'api_key_required' ? 'Bearer realm="lockstep"' : 'Bearer realm="lockstep", error="invalid_token"'
}
