import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { problems, SECURED } from '../http/openapi.js'
import { StripeConnectionInputSchema, TenantSchema } from '../models/dtos/tenant.dto.js'
import { TenantSettingsPatchSchema, TenantSettingsSchema } from '../models/dtos/tenant-settings.dto.js'
import type { TenantSettingsService } from '../services/tenant-settings.service.js'
import type { TenantStripeService } from '../services/tenant-stripe.service.js'

const base = { tags: ['Tenant'], ...SECURED }

/** The own tenant: its Stripe account and its settings. */
export const tenantRoutes: FastifyPluginAsyncTypebox<{
  ownStripe: TenantStripeService
  tenantSettings: TenantSettingsService
}> = async (app, { ownStripe, tenantSettings }) => {
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.get(
    '/tenant',
    {
      config: { permission: 'tenant:read' },
      schema: {
        ...base,
        summary: 'The tenant that the key belongs to',
        description: 'Of its secrets only the last four characters.',
        response: { 200: TenantSchema, ...problems() },
      },
    },
    async (request) => ownStripe.get(principalOf(request).tenantId),
  )

  app.put(
    '/tenant/stripe',
    {
      config: { permission: 'tenant:write' },
      schema: {
        ...base,
        summary: 'Set the Stripe account: its key, its webhook secrets',
        description:
          'A key is tried before it is stored, and used by every process from its next call on; 422 says why it is not taken: `revoked`, ' +
          '`lacks_permission`, `wrong_mode`, `no_access`, `account_taken` (another tenant has that account), `another_account` (the ' +
          'tenant’s customers are in another one). While a webhook secret is replaced, give both.',
        body: StripeConnectionInputSchema,
        response: { 200: TenantSchema, ...problems(400, 409, 413, 415, 422, 502) },
      },
    },
    async (request) => {
      const { tenantId, permissions } = principalOf(request)
      return ownStripe.set(actorOf(request), tenantId, request.body, permissions.has('tenants:write'))
    },
  )

  app.get(
    '/tenant/settings',
    {
      config: { permission: 'tenant:read' },
      schema: {
        ...base,
        summary: 'The settings, with defaults for what was never set',
        response: { 200: TenantSettingsSchema, ...problems(409) },
      },
    },
    async (request) => tenantSettings.get(principalOf(request).tenantId),
  )

  app.patch(
    '/tenant/settings',
    {
      config: { permission: 'tenant:write' },
      schema: {
        ...base,
        summary: 'Change settings',
        description:
          'JSON merge patch. It counts from the next write on; the audit log holds the values before and after.',
        body: TenantSettingsPatchSchema,
        response: { 200: TenantSettingsSchema, ...problems(400, 409, 413, 415) },
      },
    },
    async (request) => tenantSettings.patch(actorOf(request), request.body),
  )
}
