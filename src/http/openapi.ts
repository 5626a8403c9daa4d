import swagger from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { type TSchema, Type } from 'typebox'
import { INVALID_EXAMPLE, type Problem, ProblemSchema } from '../models/dtos/problem.dto.js'
import { type AnswerHeader, describeCommonHeaders, withHeaders } from './answer-headers.js'
import { PROBLEM_TYPE, problem } from './problem.js'
import { serveSwaggerUi } from './swagger-ui.js'

/** Where the documentation is; open to all. */
export const DOCS_PATH = '/api/docs'

const PROBLEMS = {
  400: 'The request is not valid; `errors` names the fields.',
  401: 'No API key, or one that is wrong, revoked or expired.',
  403: 'The key lacks the permission that `detail` names.',
  404: 'This tenant has no such thing.',
  409: 'It does not fit the present state; `code` says how.',
  412: '`If-Match` names another revision than the present one.',
  413: 'The body is too large.',
  415: 'The body is of a type that is not understood.',
  422: 'It is understood, but cannot be done: `code` and `errors` say why, such as an `Idempotency-Key` that came with another request.',
  429: 'The key has sent its requests of a minute, or its address too many with wrong keys; `Retry-After` says when it may go on.',
  500: 'Our fault; it was logged.',
  502: 'Stripe did not answer as it should; try again.',
  503: 'Something needed cannot be reached, or there is too much to do (`overloaded`); try again after `Retry-After` seconds.',
} as const
type ProblemStatus = keyof typeof PROBLEMS

/** A code and a `detail` that an answer of each status may have. */
const EXAMPLES: Readonly<Record<Exclude<ProblemStatus, 400>, readonly [code: string, detail: string]>> = {
  401: ['api_key_required', 'This needs an API key: send the header `Authorization: Bearer <key>`.'],
  403: ['permission_denied', "This key (role 'viewer') lacks the permission 'customers:write'."],
  404: ['not_found', "No customer with id '019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'."],
  409: ['customer_archived', 'The customer is archived; restore it first.'],
  412: ['revision_mismatch', 'The customer has another revision by now; read it again.'],
  413: ['body_too_large', 'The body is too large.'],
  415: ['unsupported_media_type', 'Send the body as application/json, and say so in Content-Type.'],
  422: ['idempotency_key_reused', 'The Idempotency-Key was used for another request.'],
  429: ['rate_limited', 'This key has sent its 6000 requests of a minute. Try again in 17 s.'],
  500: ['internal_error', 'Something went wrong here; the request id names it in the logs.'],
  502: ['stripe_unavailable', 'Stripe did not answer as it should; try again.'],
  503: ['overloaded', 'The service is busy; try again in a moment.'],
}

const PROBLEM_HEADERS: Partial<Record<ProblemStatus, readonly AnswerHeader[]>> = {
  401: ['WWW-Authenticate'],
  429: ['Retry-After'],
  503: ['Retry-After'],
}

/** What a response of @fastify/swagger with a media type of its own looks like. */
interface ProblemResponse {
  description: string
  content: Record<typeof PROBLEM_TYPE, { schema: TSchema; example: Problem }>
}

/** The error answers that a route may give, for its `response` schema. Every guarded route may also give 401, 403, 429, 500 and 503. */
export function problems<S extends ProblemStatus>(
  ...statuses: S[]
): Record<S | 401 | 403 | 429 | 500 | 503, ProblemResponse> {
  const all = [...new Set<ProblemStatus>([...statuses, 401, 403, 429, 500, 503])]
  return Object.fromEntries(all.map((status) => [status, problemResponse(status)])) as Record<
    S | 401 | 403 | 429 | 500 | 503,
    ProblemResponse
  >
}

/** The same for a route that is open to all. */
export function openProblems<S extends ProblemStatus>(...statuses: S[]): Record<S | 500 | 503, ProblemResponse> {
  const all = [...new Set<ProblemStatus>([...statuses, 500, 503])]
  return Object.fromEntries(all.map((status) => [status, problemResponse(status)])) as Record<
    S | 500 | 503,
    ProblemResponse
  >
}

/** What a guarded route says of its key. */
export const SECURED = { security: [{ apiKey: [] }] }

/** Gives each operation a name for generators of clients: `getCustomersIdOrders` for `GET /customers/{id}/orders`. */
function nameOperations<D extends object>(document: D): D {
  const { paths = {} } = document as { paths?: Record<string, Record<string, { operationId?: string }>> }
  for (const [path, operations] of Object.entries(paths)) {
    const parts = path.split(/[^A-Za-z0-9]+/).filter((part) => part !== '')
    const name = parts.map((part) => `${part[0]?.toUpperCase()}${part.slice(1)}`).join('')
    for (const [method, operation] of Object.entries(operations)) operation.operationId = `${method}${name}`
  }
  return document
}

function problemResponse(status: ProblemStatus): ProblemResponse {
  const response = {
    description: PROBLEMS[status],
    content: { [PROBLEM_TYPE]: { schema: Type.Unsafe({ $ref: 'Problem#' }), example: exampleOf(status) } },
  }
  return withHeaders(response, ...(PROBLEM_HEADERS[status] ?? []))
}

function exampleOf(status: ProblemStatus): Problem {
  if (status === 400) return INVALID_EXAMPLE
  const [code, detail] = EXAMPLES[status]
  return { ...problem(status, code, detail), requestId: INVALID_EXAMPLE.requestId }
}

/** Serves Swagger UI at `/api/docs` and OpenAPI 3.1 at `/api/docs/json`. Register it before the routes that it describes. */
export async function serveDocs(app: FastifyInstance, version: string): Promise<void> {
  app.addSchema(ProblemSchema)
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Lockstep',
        version,
        description:
          'Keeps your users and your Stripe customers in step, both ways. A customer here is a row of your `users` table with its ' +
          'sync state; a write reaches Stripe moments later. `Prefer: wait=5` on a write answers once both sides agree. Beside what ' +
          'each operation names, any path may answer 405 (no such method), 414 or 431 (path or headers too long), as a problem like all others.',
        license: { name: 'MIT', url: 'https://opensource.org/license/mit' },
      },
      servers: [{ url: '/' }],
      tags: [
        { name: 'Customers', description: 'The users, and how each stands with Stripe.' },
        { name: 'Import and export', description: 'Customers from and to files.' },
        { name: 'Orders', description: 'Orders, whose attendees become customers.' },
        { name: 'Privacy', description: 'Consents, personal exports and retention.' },
        { name: 'Sync', description: 'What each side holds of a customer.' },
        { name: 'Reconciliations', description: 'Runs over all customers and events.' },
        { name: 'Review', description: 'Conflicts, duplicates and events that someone may want to look at.' },
        { name: 'Tenant', description: 'The own tenant: its Stripe account and settings.' },
        { name: 'Tenants', description: 'The tenants of the installation, for operators.' },
        { name: 'API keys', description: 'Who may ask, and what.' },
        { name: 'Webhooks', description: 'Where Stripe delivers.' },
        { name: 'Health', description: 'How the service is.' },
      ],
      components: {
        securitySchemes: {
          apiKey: {
            type: 'http',
            scheme: 'bearer',
            description: 'An API key of one tenant, `lsk_<prefix>_<secret>`, or a JWT.',
          },
        },
      },
    },
    transformObject: (described) =>
      'openapiObject' in described
        ? nameOperations(describeCommonHeaders(described.openapiObject))
        : described.swaggerObject,
    refResolver: { buildLocalReference: (json, _base, _fragment, index) => String(json.$id ?? `Schema${index}`) },
  })
  await serveSwaggerUi(app, DOCS_PATH)
}
