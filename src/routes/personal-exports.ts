import { Readable } from 'node:stream'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { IdParams } from '../models/dtos/parts.js'
import { PersonalExportSchema } from '../models/dtos/personal-export.dto.js'
import type { PersonalExportService } from '../services/personal-export.service.js'

/** What is held about a person, as a file of theirs. */
export const personalExportRoutes: FastifyPluginAsyncTypebox<{ exports: PersonalExportService }> = async (
  app,
  { exports },
) => {
  app.get(
    '/customers/:id/export',
    {
      // Streamed, so nothing could be masked: who may not see personal data gets none of it.
      config: { permission: 'privacy:export', alsoNeeds: () => 'pii:read' },
      schema: {
        tags: ['Privacy'],
        ...SECURED,
        summary: 'All that is held about a person, as one JSON file',
        description:
          'Streamed. The audit log notes that it was asked for. A file that does not end in `}` was cut short: ask again.',
        params: IdParams,
        response: { 200: withHeaders(PersonalExportSchema, 'Content-Disposition'), ...problems(400, 404) },
      },
    },
    async (request, reply) => {
      const pieces = await exports.open(actorOf(request), request.params.id)
      reply
        .type('application/json; charset=utf-8')
        .header('content-disposition', `attachment; filename="customer-${request.params.id.toLowerCase()}.json"`)
        .header('cache-control', 'no-store')
      // The schema is for the documentation: a stream is passed on as it is.
      return reply.send(Readable.from(pieces) as never)
    },
  )
}
