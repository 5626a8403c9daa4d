import { Readable } from 'node:stream'
import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import { actorOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { ExportQuerySchema } from '../models/dtos/import.dto.js'
import type { ExportService } from '../services/export.service.js'

const CONTENT_TYPES = { csv: 'text/csv; charset=utf-8', ndjson: 'application/x-ndjson' } as const

/** Customers as a file. */
export const customerExportRoutes: FastifyPluginAsyncTypebox<{ exports: ExportService; closing: AbortSignal }> = async (
  app,
  { exports, closing },
) => {
  app.get(
    '/customers/export',
    {
      config: { permission: 'customers:export', alsoNeeds: () => 'pii:read', load: 'long' },
      // Without a body there is nothing to export, and nothing to note in the audit log.
      exposeHeadRoute: false,
      schema: {
        tags: ['Import and export'],
        ...SECURED,
        summary: 'Export customers as a file',
        description:
          'CSV (RFC 4180, UTF-8) or a JSON object in each line, oldest customer first, in the form that POST /customers/import reads. It takes the ' +
          'filters of GET /customers: active customers unless `state` says otherwise. A CSV cell that a spreadsheet would take for a formula has ' +
          "`'` before it; an import takes that away again. Needs `customers:export` and `pii:read`. A file that breaks off is not complete: " +
          'the connection ends without the end of the body.',
        querystring: ExportQuerySchema,
        response: {
          200: withHeaders(
            {
              description: 'The file.',
              content: {
                'text/csv': {
                  schema: Type.String({
                    examples: ['id,state,type,email,…\r\n019a…,active,regular,ada@example.com,…\r\n'],
                  }),
                },
                'application/x-ndjson': {
                  schema: Type.String({ examples: ['{"id":"019a…","state":"active","type":"regular",…}\n'] }),
                },
              },
            },
            'Content-Disposition',
          ),
          ...problems(400),
        },
      },
    },
    async (request, reply) => {
      const { format = 'csv' } = request.query
      const pieces = await exports.start(actorOf(request), request.query, closing)
      const day = new Date().toISOString().slice(0, 10)
      reply
        .type(CONTENT_TYPES[format])
        .header('content-disposition', `attachment; filename="customers-${day}.${format}"`)
        .header('cache-control', 'no-store')
      return reply.send(Readable.from(pieces, { objectMode: false, highWaterMark: 64 * 1024 }))
    },
  )
}
