import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { problems, SECURED } from '../http/openapi.js'
import {
  ConsentChangePageSchema,
  ConsentHistoryQuerySchema,
  ConsentInputSchema,
  ConsentListSchema,
  ConsentParams,
  ConsentSchema,
} from '../models/dtos/consent.dto.js'
import { maskConsent, maskConsentPage } from '../models/dtos/masking.js'
import { IdParams } from '../models/dtos/parts.js'
import type { ConsentService } from '../services/consent.service.js'

const base = { tags: ['Privacy'], ...SECURED }

/** What customers consented to, and took back. */
export const consentRoutes: FastifyPluginAsyncTypebox<{ consents: ConsentService }> = async (app, { consents }) => {
  app.get(
    '/customers/:id/consents',
    {
      config: { permission: 'customers:read', mask: maskConsentPage },
      schema: {
        ...base,
        summary: 'What a customer consents to now',
        description: 'The last word of each purpose that anything was recorded of.',
        params: IdParams,
        response: { 200: ConsentListSchema, ...problems(400, 404) },
      },
    },
    async (request) => consents.list(principalOf(request).tenantId, request.params.id),
  )

  app.get(
    '/customers/:id/consents/history',
    {
      config: { permission: 'customers:read', mask: maskConsentPage },
      schema: {
        ...base,
        summary: 'All that a customer ever consented to, and took back',
        description:
          'Latest recorded first. Entries are never changed; an erasure takes the values out of the evidence.',
        params: IdParams,
        querystring: ConsentHistoryQuerySchema,
        response: { 200: ConsentChangePageSchema, ...problems(400, 404) },
      },
    },
    async (request) => consents.history(principalOf(request).tenantId, request.params.id, request.query),
  )

  app.put(
    '/customers/:id/consents/:purpose',
    {
      config: { permission: 'customers:write', mask: maskConsent },
      schema: {
        ...base,
        summary: 'Record a consent, or its withdrawal',
        description:
          'Answers what holds then, which is what was said last, by `at`: a word that comes in late takes its place in the history. ' +
          'The same word again changes nothing. Of an erased customer a withdrawal is still recorded, without evidence.',
        params: ConsentParams,
        body: ConsentInputSchema,
        response: { 200: ConsentSchema, ...problems(400, 404, 409, 413, 415) },
      },
    },
    async (request) => {
      const { id, purpose } = request.params
      return consents.record(actorOf(request), id, purpose, request.body)
    },
  )
}
