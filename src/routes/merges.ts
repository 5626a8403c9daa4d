import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { problems, SECURED } from '../http/openapi.js'
import {
  MergeInputSchema,
  MergePageSchema,
  MergeQuerySchema,
  MergeSchema,
  toMerge,
} from '../models/dtos/customer-merge.dto.js'
import { maskMerge, maskMergePage } from '../models/dtos/masking.js'
import { DEFAULT_LIMIT, IdParams } from '../models/dtos/parts.js'
import type { Permission } from '../models/roles.js'
import type { Merges } from '../sync/merges.js'

/** What these routes, and those of duplicates, ask of the merges. */
export type MergeRequests = Pick<Merges, 'mergeCustomers' | 'mergeDuplicate' | 'list'>

const base = { tags: ['Review'], ...SECURED }

/** Deleting a Stripe customer cannot be undone, so it needs what erasing needs. */
export function needsOfMerge(body: unknown): Permission | null {
  return (body as { deleteLoser?: boolean } | undefined)?.deleteLoser === true ? 'customers:erase' : null
}

/** Customers of whom someone says that they are one person. */
export const mergeRoutes: FastifyPluginAsyncTypebox<{ merges: MergeRequests }> = async (app, { merges }) => {
  app.post(
    '/customers/:id/merge',
    {
      config: {
        permission: 'reviews:write',
        mask: maskMerge,
        alsoNeeds: (request) => needsOfMerge(request.body),
      },
      schema: {
        ...base,
        summary: 'Merge another customer into this one',
        description:
          'What this one lacks it takes from the other; nothing is overwritten, and `conflicts` shows where both had a value. Orders and ' +
          'consents come over; the other is archived, and cannot be restored. If only the other has a Stripe customer, this one takes it; ' +
          'else that one is parted from for good: marked, or deleted if you ask. What Stripe cannot move is in `notMoved`. Done twice ' +
          'it does nothing more.',
        params: IdParams,
        body: MergeInputSchema,
        response: { 200: MergeSchema, ...problems(400, 404, 409, 413, 415, 502) },
      },
    },
    async (request) => {
      const { from, deleteLoser = false } = request.body
      return toMerge(await merges.mergeCustomers(actorOf(request), request.params.id, { from, deleteLoser }))
    },
  )

  app.get(
    '/customers/:id/merges',
    {
      config: { permission: 'reviews:read', mask: maskMergePage },
      schema: {
        ...base,
        summary: 'The merges that a customer came out of, or was lost in',
        description: 'Newest first.',
        params: IdParams,
        querystring: MergeQuerySchema,
        response: { 200: MergePageSchema, ...problems(400, 404) },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, cursor } = request.query
      const page = await merges.list(principalOf(request).tenantId, request.params.id, { limit, cursor })
      return { ...page, data: page.data.map(toMerge) }
    },
  )
}
