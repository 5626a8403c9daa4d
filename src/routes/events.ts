import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { maskEvent } from '../models/dtos/masking.js'
import { EventDetailSchema, EventPageSchema, EventParams, EventQuerySchema } from '../models/dtos/review.dto.js'
import type { Actor } from '../repositories/audit-log.js'
import type { ReviewService } from '../services/review.service.js'

/** What these routes ask of the sync. */
export interface EventReplay {
  /** Puts the event back into the inbox as if it had just come. Throws `NotFoundError`. */
  replayEvent(tenantId: string, eventId: string, by: Actor): Promise<void>
}

const base = { tags: ['Review'], ...SECURED }

/** The inbox: what Stripe told us, what became of it, and having it settled again. */
export const eventRoutes: FastifyPluginAsyncTypebox<{ review: ReviewService; sync: EventReplay }> = async (
  app,
  { review, sync },
) => {
  app.get(
    '/events',
    {
      config: { permission: 'events:read' },
      schema: {
        ...base,
        summary: 'List Stripe’s events, latest received first',
        querystring: EventQuerySchema,
        response: { 200: EventPageSchema, ...problems(400) },
      },
    },
    async (request) => review.events(principalOf(request).tenantId, request.query),
  )

  app.get(
    '/events/:id',
    {
      config: { permission: 'events:read', mask: maskEvent },
      schema: {
        ...base,
        summary: 'Read an event with what Stripe sent',
        params: EventParams,
        response: { 200: EventDetailSchema, ...problems(400, 404) },
      },
    },
    async (request) => review.event(principalOf(request).tenantId, request.params.id),
  )

  app.post(
    '/events/:id/replay',
    {
      config: { permission: 'events:replay', mask: maskEvent },
      schema: {
        ...base,
        summary: 'Settle an event again',
        description: 'Safe at any time: an event whose effect is there already changes nothing.',
        params: EventParams,
        response: { 202: withHeaders(EventDetailSchema, 'Location'), ...problems(400, 404, 409) },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { id } = request.params
      await sync.replayEvent(by.tenantId, id, by)
      return reply
        .code(202)
        .header('location', `/events/${id}`)
        .send(await review.event(by.tenantId, id))
    },
  )
}
