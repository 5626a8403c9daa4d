import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Customer } from '../models/dtos/customer.dto.js'
import { waitAside } from './admission.js'
import { etagOf } from './etag.js'

/** What waiting asks of the sync. */
export interface Settling {
  /** Waits until the user has nothing to be carried either way, or `timeoutMs` have passed, or `signal` aborts. */
  waitUntilSettled(
    tenantId: string,
    userId: string,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<'settled' | 'timeout'>
}

/** The longest that a request may wait, in seconds. */
export const MAX_WAIT_SECONDS = 30

/** The seconds of `Prefer: wait=N` (RFC 7240), at most {@link MAX_WAIT_SECONDS}; null when not asked for, or not a number. */
export function preferredWait(request: FastifyRequest): number | null {
  const header = request.headers.prefer
  const preferences = (Array.isArray(header) ? header.join(',') : (header ?? '')).split(',')
  for (const preference of preferences) {
    const seconds = /^\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?$/i.exec(preference)?.[1]
    if (seconds !== undefined) return Math.min(Number(seconds), MAX_WAIT_SECONDS)
  }
  return null
}

/**
 * Answers a write. With `Prefer: wait=N` it first waits until both sides agree and answers what is then; when that
 * takes longer, or too many wait already, 202 with where to look. Without, it answers at once.
 *
 * @param status of a write that is done: 200 or 201
 * @param again reads the customer anew
 */
export async function answerWrite(
  {
    request,
    reply,
    sync,
    closing,
  }: { request: FastifyRequest; reply: FastifyReply; sync: Settling; closing: AbortSignal },
  { tenantId, status, customer }: { tenantId: string; status: 200 | 201; customer: Customer },
  again: () => Promise<Customer>,
): Promise<Customer> {
  const seconds = preferredWait(request)
  const path = `/customers/${customer.id}`
  if (status === 201) reply.header('location', path)
  if (seconds === null) {
    reply.code(status).header('etag', etagOf(customer))
    return customer
  }
  const signal = AbortSignal.any([request.signal, closing])
  const wait = () => sync.waitUntilSettled(tenantId, customer.id, seconds * 1000, signal)
  const outcome = await waitAside(request, wait)
  const now = await again()
  const syncPath = `${path}/sync`
  reply.header('preference-applied', `wait=${seconds}`).header('etag', etagOf(now))
  if (outcome === 'settled') reply.code(status)
  else reply.code(202).header('location', syncPath).header('link', `<${syncPath}>; rel="monitor"`)
  return now
}
