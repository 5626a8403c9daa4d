import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { problems, SECURED } from '../http/openapi.js'
import { ValidationError } from '../lib/errors.js'
import { toMerge } from '../models/dtos/customer-merge.dto.js'
import { maskDuplicate } from '../models/dtos/masking.js'
import { IdParams } from '../models/dtos/parts.js'
import {
  DuplicatePageSchema,
  DuplicateQuerySchema,
  DuplicateSchema,
  ResolveDuplicateSchema,
} from '../models/dtos/review.dto.js'
import type { Actor } from '../repositories/audit-log.js'
import type { ReviewService } from '../services/review.service.js'
import { type MergeRequests, needsOfMerge } from './merges.js'

/** What these routes ask of the sync. */
export interface DuplicateResolver {
  /** Links or ignores it. Throws `NotFoundError`, `ValidationError`, or `ConflictError` when it cannot be linked or is decided. */
  resolveDuplicate(
    tenantId: string,
    id: string,
    decision: { action: 'link'; customerId?: string | undefined } | { action: 'ignore' },
    by: Actor,
  ): Promise<unknown>
}

const base = { tags: ['Review'], ...SECURED }

/** Stripe customers that look like a customer we already have. */
export const duplicateRoutes: FastifyPluginAsyncTypebox<{
  review: ReviewService
  sync: DuplicateResolver
  merges: MergeRequests
}> = async (app, { review, sync, merges }) => {
  app.get(
    '/duplicates',
    {
      config: { permission: 'reviews:read' },
      schema: {
        ...base,
        summary: 'List Stripe customers that look like one we have, newest first',
        querystring: DuplicateQuerySchema,
        response: { 200: DuplicatePageSchema, ...problems(400) },
      },
    },
    async (request) => review.duplicates(principalOf(request).tenantId, request.query),
  )

  app.post(
    '/duplicates/:id/resolve',
    {
      config: {
        permission: 'reviews:write',
        mask: maskDuplicate,
        alsoNeeds: (request) => needsOfMerge(request.body),
      },
      schema: {
        ...base,
        summary: 'Link, merge or ignore a Stripe customer that looks like one we have',
        description:
          'Nothing is merged by guess: a customer has one Stripe customer, so one that has a live one keeps it, and linking another is ' +
          'a 409. With `merge` you say which of the two stays. The other one’s values fill its gaps, and nothing is overwritten; a customer ' +
          'that was made of the duplicate goes into yours. The Stripe customer that loses is parted from for good: marked, or deleted if you ask.',
        params: IdParams,
        body: ResolveDuplicateSchema,
        response: { 200: DuplicateSchema, ...problems(400, 404, 409, 413, 415, 502) },
      },
    },
    async (request) => {
      const by = actorOf(request)
      const { id } = request.params
      const { action, customerId, survivor, deleteLoser } = request.body
      if (action === 'merge') {
        if (survivor === undefined) throw misplaced('survivor', 'required', 'is needed to merge')
        const merge = await merges.mergeDuplicate(by, id, { survivor, customerId, deleteLoser: deleteLoser ?? false })
        return { ...(await review.duplicate(by.tenantId, id)), merge: toMerge(merge) }
      }
      if (survivor !== undefined) throw misplaced('survivor', 'not_allowed', 'goes with merge only')
      if (deleteLoser === true) throw misplaced('deleteLoser', 'not_allowed', 'goes with merge only')
      await sync.resolveDuplicate(by.tenantId, id, action === 'link' ? { action, customerId } : { action }, by)
      return review.duplicate(by.tenantId, id)
    },
  )
}

function misplaced(path: string, code: string, message: string): ValidationError {
  return new ValidationError([{ path, code, message }])
}
