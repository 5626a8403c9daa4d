import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { IdParams } from '../models/dtos/parts.js'
import {
  RetentionRunPageSchema,
  RetentionRunQuerySchema,
  RetentionRunSchema,
  StartRetentionSchema,
  toRetentionRun,
} from '../models/dtos/retention.dto.js'
import type { RetentionService } from '../services/retention.service.js'

const base = { tags: ['Privacy'], ...SECURED }

/** Runs of the tenant's retention policies: starting one, and watching it. */
export const retentionRoutes: FastifyPluginAsyncTypebox<{
  retention: Pick<RetentionService, 'start' | 'get' | 'list'>
}> = async (app, { retention }) => {
  app.post(
    '/retention-runs',
    {
      config: { permission: 'runs:start', alsoNeeds: (request) => (isDry(request.body) ? null : 'customers:erase') },
      schema: {
        ...base,
        summary: 'Carry out the retention policies, or see what they would remove',
        description:
          'It runs in a worker; watch it at `Location`. It runs daily by itself. Customers are erased as DELETE with `erase=true` does ' +
          'it; one with open orders stays. While a run is unfinished, that one is answered.',
        body: StartRetentionSchema,
        response: { 202: withHeaders(RetentionRunSchema, 'Location'), ...problems(400, 413, 415) },
      },
    },
    async (request, reply) => {
      const { tenantId, actor } = actorOf(request)
      const { dryRun = false } = request.body
      const run = await retention.start({ tenantId, dryRun, trigger: 'api', requestedBy: actor })
      return reply.code(202).header('location', `/retention-runs/${run.id}`).send(toRetentionRun(run))
    },
  )

  app.get(
    '/retention-runs',
    {
      config: { permission: 'runs:read' },
      schema: {
        ...base,
        summary: 'List retention runs, newest first',
        querystring: RetentionRunQuerySchema,
        response: { 200: RetentionRunPageSchema, ...problems(400) },
      },
    },
    async (request) => {
      const page = await retention.list(principalOf(request).tenantId, request.query)
      return { ...page, data: page.data.map(toRetentionRun) }
    },
  )

  app.get(
    '/retention-runs/:id',
    {
      config: { permission: 'runs:read' },
      schema: {
        ...base,
        summary: 'Watch a retention run',
        params: IdParams,
        response: { 200: RetentionRunSchema, ...problems(400, 404) },
      },
    },
    async (request) => toRetentionRun(await retention.get(principalOf(request).tenantId, request.params.id)),
  )
}

function isDry(body: unknown): boolean {
  return (body as { dryRun?: boolean } | undefined)?.dryRun === true
}
