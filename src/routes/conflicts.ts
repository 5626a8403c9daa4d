import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { problems, SECURED } from '../http/openapi.js'
import { maskConflict, maskConflictPage } from '../models/dtos/masking.js'
import { IdParams } from '../models/dtos/parts.js'
import {
  ConflictPageSchema,
  ConflictQuerySchema,
  ConflictSchema,
  type ConflictSource,
  ResolveSchema,
  toConflict,
  type Winner,
} from '../models/dtos/review.dto.js'
import type { Actor } from '../repositories/audit-log.js'
import type { ReviewService } from '../services/review.service.js'

/** What these routes ask of the sync. */
export interface ConflictResolver {
  /** Sets the winner of an open conflict and marks its user dirty. Throws `NotFoundError`, or `ConflictError` when it is settled. */
  resolveConflict(tenantId: string, conflictId: string, winner: Winner, by: Actor): Promise<ConflictSource>
}

const base = { tags: ['Review'], ...SECURED }

/** Conflicts: both values, and deciding those that policy left open. */
export const conflictRoutes: FastifyPluginAsyncTypebox<{ review: ReviewService; sync: ConflictResolver }> = async (
  app,
  { review, sync },
) => {
  app.get(
    '/conflicts',
    {
      config: { permission: 'reviews:read', mask: maskConflictPage },
      schema: {
        ...base,
        summary: 'List conflicts, newest first',
        querystring: ConflictQuerySchema,
        response: { 200: ConflictPageSchema, ...problems(400) },
      },
    },
    async (request) => review.conflicts(principalOf(request).tenantId, request.query),
  )

  app.post(
    '/conflicts/:id/resolve',
    {
      config: { permission: 'reviews:write', mask: maskConflict },
      schema: {
        ...base,
        summary: 'Decide an open conflict',
        description: 'The winner’s value goes to the other side moments later, and the field is free again.',
        params: IdParams,
        body: ResolveSchema,
        response: { 200: ConflictSchema, ...problems(400, 404, 409, 413, 415) },
      },
    },
    async (request) => {
      const by = actorOf(request)
      return toConflict(await sync.resolveConflict(by.tenantId, request.params.id, request.body.winner, by))
    },
  )
}
