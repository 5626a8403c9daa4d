import { createHash } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import { ValidationError } from '../lib/errors.js'
import type { IdempotencyKey } from '../repositories/idempotency-keys.js'

/** 1 to 255 visible ASCII characters. */
const KEY = /^[\x21-\x7e]{1,255}$/

/**
 * The `Idempotency-Key` of a request with a hash of what it asks; null when it has none. The key is stored with the work
 * itself (see `takeIdempotencyKey`), so that no crash comes between the two.
 *
 * @throws {ValidationError} when the key is blank, too long, or holds odd characters.
 */
export function idempotencyOf(request: FastifyRequest): IdempotencyKey | null {
  const key = request.headers['idempotency-key']
  if (key === undefined) return null
  if (typeof key !== 'string' || !KEY.test(key)) {
    throw new ValidationError([
      { path: 'Idempotency-Key', code: 'wrong_format', message: 'must be 1 to 255 visible ASCII characters' },
    ])
  }
  const asked = JSON.stringify([request.method, request.routeOptions.url, sorted(request.body)])
  return { key, fingerprint: createHash('sha256').update(asked).digest('hex') }
}

/** The same JSON whatever the order of its keys. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([key, entry]) => [key, sorted(entry)] as const)
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}
