import { hash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Customer } from '../models/dtos/customer.dto.js'
import { maskCustomer } from '../models/dtos/masking.js'
import type { RevisionCheck } from '../services/customer.service.js'

const ANY = '*'
/** `"<revision>"`, or `"<revision>.<hash>"` as we answer it. */
const OURS = /^"(\d{1,10})(?:\.[\w-]{1,64})?"$/

/**
 * The entity tag of a customer: its revision, which guards writes, and a hash of the rest, since the link and the sync
 * status change without a new revision and a cached copy must not hide that. Of what is masked for some the hash has only the mask, since
 * else it would confirm a guess of it; no such value changes without a new revision.
 */
export function etagOf(customer: Customer): string {
  const seenByAll = JSON.stringify(maskCustomer(customer))
  return `"${customer.revision}.${hash('sha256', seenByAll, 'base64url').slice(0, 12)}"`
}

/** Sets `ETag`; answers whether the client holds this very representation (`If-None-Match`), so that 304 will do. */
export function isUnchanged(request: FastifyRequest, reply: FastifyReply, customer: Customer): boolean {
  const etag = etagOf(customer)
  reply.header('etag', etag)
  return tagsOf(request.headers['if-none-match']).some((tag) => tag === ANY || tag.replace(/^W\//, '') === etag)
}

/** What `If-Match` demands of the revision; null when it is absent. A tag that is not ours matches nothing. */
export function revisionCheck(request: FastifyRequest): RevisionCheck | null {
  const header = request.headers['if-match']
  if (header === undefined) return null
  const tags = tagsOf(header)
  if (tags.includes(ANY)) return null
  const revisions = new Set(tags.map((tag) => OURS.exec(tag)?.[1]).filter((revision) => revision !== undefined))
  return (revision) => revisions.has(String(revision))
}

function tagsOf(header: string | undefined): string[] {
  return (header ?? '')
    .split(',')
    .map((tag) => tag.trim())
    .filter((tag) => tag !== '')
}
