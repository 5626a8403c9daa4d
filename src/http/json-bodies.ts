import { isUtf8 } from 'node:buffer'
import type { FastifyInstance } from 'fastify'
import { ValidationError } from '../lib/errors.js'

/**
 * A JSON body that the route does not read is refused, since what it says would be lost, such as a `reason` that belongs into the query.
 * `{}` says nothing.
 */
export function refuseLostBodies(app: FastifyInstance): void {
  app.addHook('preValidation', (request, _reply, done) => {
    const { body, routeOptions } = request
    const isLost = routeOptions.schema?.body === undefined && isJsonValue(body) && !isEmptyObject(body)
    if (!isLost) return done()
    const message = 'is not read here: this request takes none, only parameters'
    done(new ValidationError([{ path: 'body', code: 'not_allowed', message }]))
  })
}

/** Whether a body was read as JSON: not raw bytes, nor a stream. */
function isJsonValue(body: unknown): boolean {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return body !== undefined
  return Object.getPrototypeOf(body) === Object.prototype
}

function isEmptyObject(body: unknown): boolean {
  return typeof body === 'object' && body !== null && !Array.isArray(body) && Object.keys(body).length === 0
}

/** Keys that could change how objects behave (secure-json-parse), in what is JSON otherwise. */
const FORBIDDEN_KEY = new ValidationError(
  [{ path: 'body', code: 'not_allowed', message: 'must not have a key `__proto__`, nor `prototype` in `constructor`' }],
  'invalid_json',
)

function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/**
 * JSON and JSON merge patch, which are UTF-8 (RFC 8259 section 8.1): anything else would be stored, and sent to Stripe, with other letters than
 * were meant. An empty body is no body: whether one is needed is for the route's schema to say.
 */
export function parseJson(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser('error', 'error')
  app.removeContentTypeParser(['application/json', 'text/plain'])
  app.addContentTypeParser<Buffer>(
    ['application/json', 'application/merge-patch+json'],
    { parseAs: 'buffer' },
    (request, body, done) => {
      if (!isUtf8(body)) {
        return done(
          new ValidationError([{ path: 'body', code: 'invalid_utf8', message: 'is not UTF-8' }], 'invalid_json'),
        )
      }
      const text = body.toString()
      if (text.trim() === '') done(null, undefined)
      else parse(request, text, (error, value) => done(error !== null && isJson(text) ? FORBIDDEN_KEY : error, value))
    },
  )
}
