import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { principalOf } from '../access/authenticate.js'
import { problems, SECURED } from '../http/openapi.js'
import { AuditPageSchema, AuditQuerySchema } from '../models/dtos/audit.dto.js'
import { FieldHistoryPageSchema, HistoryQuerySchema } from '../models/dtos/history.dto.js'
import { maskAuditPage, maskHistoryPage } from '../models/dtos/masking.js'
import { IdParams } from '../models/dtos/parts.js'
import type { AuditService } from '../services/audit.service.js'
import type { HistoryService } from '../services/history.service.js'

const base = { tags: ['Audit'], ...SECURED }

/** What was done, by whom, and why each field has the value that it has. */
export const auditRoutes: FastifyPluginAsyncTypebox<{ audit: AuditService; history: HistoryService }> = async (
  app,
  { audit, history },
) => {
  app.get(
    '/audit',
    {
      config: { permission: 'audit:read', mask: maskAuditPage },
      schema: {
        ...base,
        summary: 'List the audit log, newest first',
        description: 'All conditions hold together. `npx lockstep audit verify` proves that nothing in it was changed.',
        querystring: AuditQuerySchema,
        response: { 200: AuditPageSchema, ...problems(400) },
      },
    },
    async (request) => audit.list(principalOf(request).tenantId, request.query),
  )

  app.get(
    '/customers/:id/history',
    {
      config: { permission: 'customers:read', mask: maskHistoryPage },
      schema: {
        ...base,
        summary: 'Read the story of a customer’s fields, newest first',
        description:
          'Each edit, on whichever side and by whichever program, and each decision of the sync: what both sides held and why this ' +
          'value won. As long as the audit log is kept.',
        params: IdParams,
        querystring: HistoryQuerySchema,
        response: { 200: FieldHistoryPageSchema, ...problems(400, 404) },
      },
    },
    async (request) => history.ofCustomer(principalOf(request).tenantId, request.params.id, request.query),
  )
}
