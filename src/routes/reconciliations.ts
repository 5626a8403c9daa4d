import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { NotFoundError } from '../lib/errors.js'
import { DEFAULT_LIMIT, IdParams } from '../models/dtos/parts.js'
import {
  ReconciliationPageSchema,
  ReconciliationQuerySchema,
  ReconciliationSchema,
  type ReconciliationSource,
  type RunKind,
  StartRunSchema,
  toReconciliation,
} from '../models/dtos/reconciliation.dto.js'
import type { Actor } from '../repositories/audit-log.js'
import type { Page } from '../repositories/cursor.js'

/** What these routes ask of the runs. */
export interface Runs {
  start(input: {
    tenantId: string
    kind: RunKind
    dryRun: boolean
    trigger: 'api'
    requestedBy: string
    /** For the audit log. */
    by: Actor
  }): Promise<ReconciliationSource>
  get(tenantId: string, id: string): Promise<ReconciliationSource | null>
  /** Newest first. Throws `ValidationError` for a cursor that it did not make. */
  list(tenantId: string, page: { limit: number; cursor: string | undefined }): Promise<Page<ReconciliationSource>>
}

const base = { tags: ['Reconciliations'], ...SECURED }

/** Runs over all customers or events: starting one, and watching it. */
export const reconciliationRoutes: FastifyPluginAsyncTypebox<{ runs: Runs }> = async (app, { runs }) => {
  app.post(
    '/reconciliations',
    {
      config: { permission: 'runs:start' },
      schema: {
        ...base,
        summary: 'Start a run',
        description: 'It runs in a worker. Watch it at `Location`.',
        body: StartRunSchema,
        response: { 202: withHeaders(ReconciliationSchema, 'Location'), ...problems(400, 409, 413, 415) },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { kind, dryRun = false } = request.body
      const run = await runs.start({ tenantId: by.tenantId, kind, dryRun, trigger: 'api', requestedBy: by.actor, by })
      return reply.code(202).header('location', `/reconciliations/${run.id}`).send(toReconciliation(run))
    },
  )

  app.get(
    '/reconciliations',
    {
      config: { permission: 'runs:read' },
      schema: {
        ...base,
        summary: 'List runs, newest first',
        querystring: ReconciliationQuerySchema,
        response: { 200: ReconciliationPageSchema, ...problems(400) },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, cursor } = request.query
      const page = await runs.list(principalOf(request).tenantId, { limit, cursor })
      return { ...page, data: page.data.map(toReconciliation) }
    },
  )

  app.get(
    '/reconciliations/:id',
    {
      config: { permission: 'runs:read' },
      schema: {
        ...base,
        summary: 'Watch a run',
        params: IdParams,
        response: { 200: ReconciliationSchema, ...problems(400, 404) },
      },
    },
    async (request) => {
      const { id } = request.params
      const run = await runs.get(principalOf(request).tenantId, id)
      if (run === null) throw new NotFoundError('reconciliation', id)
      return toReconciliation(run)
    },
  )
}
