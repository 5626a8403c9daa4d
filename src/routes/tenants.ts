import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { IdParams } from '../models/dtos/parts.js'
import {
  CreatedTenantSchema,
  NewTenantSchema,
  TenantPageSchema,
  TenantPatchSchema,
  TenantQuerySchema,
  TenantSchema,
} from '../models/dtos/tenant.dto.js'
import type { TenantService } from '../services/tenant.service.js'
import type { TenantStripeService } from '../services/tenant-stripe.service.js'

const base = { tags: ['Tenants'], ...SECURED }

/** The tenants of the installation: for operators, whose keys see nothing of what is in them. */
export const tenantsRoutes: FastifyPluginAsyncTypebox<{
  tenants: TenantService
  tenantStripe: TenantStripeService
}> = async (app, { tenants, tenantStripe }) => {
  // What is shown once must not be found again in a cache.
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.get(
    '/tenants',
    {
      config: { permission: 'tenants:read' },
      schema: {
        ...base,
        summary: 'List tenants, newest first',
        querystring: TenantQuerySchema,
        response: { 200: TenantPageSchema, ...problems(400) },
      },
    },
    async (request) => tenants.list(request.query),
  )

  app.post(
    '/tenants',
    {
      config: { permission: 'tenants:write' },
      schema: {
        ...base,
        summary: 'Make a tenant',
        description:
          'It comes with an admin key. Until it has a Stripe account (PUT /tenant/stripe) nothing of it is synced.',
        body: NewTenantSchema,
        response: { 201: withHeaders(CreatedTenantSchema, 'Location'), ...problems(400, 409, 413, 415) },
      },
    },
    async (request, reply) => {
      const { tenant, adminKey } = await tenants.create(actorOf(request), request.body)
      return reply
        .code(201)
        .header('location', `/tenants/${tenant.id}`)
        .send({ ...tenant, adminKey })
    },
  )

  app.get(
    '/tenants/:id',
    {
      config: { permission: 'tenants:read' },
      schema: {
        ...base,
        summary: 'One tenant',
        params: IdParams,
        response: { 200: TenantSchema, ...problems(400, 404) },
      },
    },
    async (request) => tenants.get(request.params.id),
  )

  app.patch(
    '/tenants/:id',
    {
      config: { permission: 'tenants:write' },
      schema: {
        ...base,
        summary: 'Rename a tenant, or give it an account that is connected to the platform’s',
        description:
          'The account is tried before it is stored. A key of its own, if it has one, is then used to reach it.',
        params: IdParams,
        body: TenantPatchSchema,
        response: { 200: TenantSchema, ...problems(400, 404, 409, 413, 415, 422, 502) },
      },
    },
    async (request) => {
      const { id } = request.params
      const { name, connectAccount } = request.body
      const by = { ...actorOf(request), tenantId: id }
      // First what may be refused, so that a refusal has changed nothing.
      if (connectAccount !== undefined) await tenantStripe.set(by, id, { connectAccount }, true)
      return name === undefined ? tenants.get(id) : tenants.rename(by, id, name)
    },
  )
}
