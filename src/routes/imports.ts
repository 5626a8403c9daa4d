import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { actorOf, principalOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { mediaTypeOf, takeFiles, uploadOf } from '../http/uploads.js'
import {
  ImportErrorPageSchema,
  ImportPageQuerySchema,
  ImportPageSchema,
  ImportQuerySchema,
  ImportSchema,
} from '../models/dtos/import.dto.js'
import { IdParams } from '../models/dtos/parts.js'
import { FILE_FORMATS, type FileFormat } from '../models/import.js'
import type { ImportService } from '../services/import.service.js'

const CONTENT_TYPES: Readonly<Record<FileFormat, readonly string[]>> = {
  csv: ['text/csv'],
  ndjson: ['application/x-ndjson', 'application/jsonl', 'application/jsonlines'],
}

const FILE_EXAMPLES: Readonly<Record<FileFormat, string>> = {
  csv: 'type,email,phone,firstName,lastName,address.country,metadata.tier\r\nregular,ada@example.com,+14155550100,Ada,Lovelace,US,gold\r\n',
  ndjson:
    '{"type":"regular","email":"ada@example.com","firstName":"Ada","address":{"country":"US"},"metadata":{"tier":"gold"}}\n{"phone":"+14155550100"}\n',
}

/** The file as a body of each type that it may come as. */
const FILE_BODIES = Object.fromEntries(
  FILE_FORMATS.flatMap((format) =>
    CONTENT_TYPES[format].map((type) => [
      type,
      { schema: Type.Unsafe<unknown>({ description: 'The file.', examples: [FILE_EXAMPLES[format]] }) },
    ]),
  ),
)

const base = { tags: ['Import and export'], ...SECURED }

interface UploadOptions {
  imports: ImportService
  /** Of a file, in bytes. */
  limit: number
  /** Tells the worker of this process that there is an import. */
  onQueued(): void
}

/** Imports: sending a file of customers, watching what becomes of it, and ending it. */
export const importRoutes: FastifyPluginAsyncTypebox<UploadOptions> = async (app, options) => {
  const { imports } = options
  // By itself, since it takes files and nothing else.
  await app.register(uploadRoute, options)

  app.get(
    '/imports',
    {
      config: { permission: 'customers:write' },
      schema: {
        ...base,
        summary: 'List imports, newest first',
        querystring: ImportPageQuerySchema,
        response: { 200: ImportPageSchema, ...problems(400) },
      },
    },
    async (request) => imports.list(principalOf(request).tenantId, request.query),
  )

  app.get(
    '/imports/:id',
    {
      config: { permission: 'customers:write' },
      schema: {
        ...base,
        summary: 'Watch an import',
        params: IdParams,
        response: { 200: ImportSchema, ...problems(400, 404) },
      },
    },
    async (request) => imports.get(principalOf(request).tenantId, request.params.id),
  )

  app.post(
    '/imports/:id/cancel',
    {
      config: { permission: 'customers:write' },
      schema: {
        ...base,
        summary: 'Cancel an import',
        description:
          'It stops at its next batch of 200 lines. What is done stands, and is counted; the file is removed. Safe to repeat; ' +
          'once it has ended by itself the answer is 409.',
        params: IdParams,
        response: { 200: ImportSchema, ...problems(400, 404, 409) },
      },
    },
    async (request) => imports.cancel(actorOf(request), request.params.id),
  )

  app.get(
    '/imports/:id/errors',
    {
      config: { permission: 'customers:write' },
      schema: {
        ...base,
        summary: 'Why lines were refused',
        description: 'In the order of the file. Of each import the first 100,000 are kept.',
        params: IdParams,
        querystring: ImportPageQuerySchema,
        response: { 200: ImportErrorPageSchema, ...problems(400, 404) },
      },
    },
    async (request) => imports.errors(principalOf(request).tenantId, request.params.id, request.query),
  )
}

const uploadRoute: FastifyPluginAsyncTypebox<UploadOptions> = async (app, { imports, limit, onQueued }) => {
  takeFiles(app, Object.values(CONTENT_TYPES).flat(), limit)

  app.post(
    '/customers/import',
    {
      // What becomes of a line, even in a dry run, confirms a guess.
      config: { permission: 'customers:write', alsoNeeds: () => 'pii:read', isUpload: true, load: 'long' },
      schema: {
        ...base,
        summary: 'Import customers from a file',
        description:
          'Send the file as the body, as `text/csv` with a header or as `application/x-ndjson`; UTF-8. Its columns, or fields, are those of ' +
          'GET /customers/export; every line goes by the rules of POST /customers. A worker imports it once all of it is here: watch it at ' +
          '`Location`. A line that is refused does not stop the others. The same file sent again makes nobody twice. Needs `pii:read` too: ' +
          'what becomes of a line tells whether somebody is known.',
        querystring: ImportQuerySchema,
        body: { content: FILE_BODIES },
        response: { 202: withHeaders(ImportSchema, 'Location'), ...problems(400, 413, 415) },
      },
    },
    async (request, reply) => {
      const { onMatch = 'skip', dryRun = false } = request.query
      const format = formatOf(request)
      const upload = await imports.upload(actorOf(request), { format, onMatch, dryRun }, uploadOf(request), limit)
      onQueued()
      return reply.code(202).header('location', `/imports/${upload.id}`).send(upload)
    },
  )
}

function formatOf(request: FastifyRequest): FileFormat {
  const given = mediaTypeOf(request)
  return FILE_FORMATS.find((format) => CONTENT_TYPES[format].includes(given)) ?? 'csv'
}
