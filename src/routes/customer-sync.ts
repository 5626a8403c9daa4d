import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { waitAside } from '../http/admission.js'
import { LATER_HEADERS, withHeaders } from '../http/answer-headers.js'
import { problems, SECURED } from '../http/openapi.js'
import { preferredWait, type Settling } from '../http/wait.js'
import { NotFoundError } from '../lib/errors.js'
import { maskSyncView } from '../models/dtos/masking.js'
import { IdParams } from '../models/dtos/parts.js'
import { SyncQuerySchema, type SyncSource, type SyncView, SyncViewSchema, toSyncView } from '../models/dtos/sync.dto.js'
import type { TenantSettings } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import { localFields } from '../sync/fields.js'

/** What these routes ask of the sync. */
export interface SyncQueries extends Settling {
  /** What each side holds; null when the tenant has no such user. */
  getSync(tenantId: string, userId: string): Promise<SyncSource | null>
  /** Has the next reconcile read the Stripe customer, and tries a failed one again. Answers whether the tenant has the user. */
  markForSync(tenantId: string, userId: string, by: Actor): Promise<boolean>
  /** Tells the relay of this process that there are dirty users. */
  wake(): void
}

const DEFAULT_TIMEOUT_SECONDS = 10

/** What each side holds of a customer, and bringing them together now. */
export const customerSyncRoutes: FastifyPluginAsyncTypebox<{
  sync: SyncQueries
  settingsOf(tenantId: string): Promise<TenantSettings>
  closing: AbortSignal
}> = async (app, { sync, settingsOf, closing }) => {
  async function view(tenantId: string, id: string): Promise<SyncView> {
    const source = await sync.getSync(tenantId, id)
    if (source === null) throw new NotFoundError('customer', id)
    const { foreignMetadataPrefixes } = await settingsOf(tenantId)
    return toSyncView(source, localFields(source.user, foreignMetadataPrefixes))
  }

  app.get(
    '/customers/:id/sync',
    {
      config: { permission: 'sync:read', mask: maskSyncView },
      schema: {
        tags: ['Sync'],
        ...SECURED,
        summary: 'What each side holds of a customer',
        description:
          'With `waitForRevision` it answers once that revision of the customer is settled with Stripe, or as it is after `timeout` ' +
          'seconds; `settled` tells which.',
        params: IdParams,
        querystring: SyncQuerySchema,
        response: { 200: SyncViewSchema, ...problems(400, 404) },
      },
    },
    async (request, reply) => {
      const { tenantId } = principalOf(request)
      const { id } = request.params
      const { waitForRevision, timeout = DEFAULT_TIMEOUT_SECONDS } = request.query
      reply.header('cache-control', 'no-store')
      const now = await view(tenantId, id)
      const reached = now.settled && now.revisions.customer >= (waitForRevision ?? 0)
      if (waitForRevision === undefined || reached) return now
      const signal = AbortSignal.any([request.signal, closing])
      await waitAside(request, () => sync.waitUntilSettled(tenantId, id, timeout * 1000, signal))
      return view(tenantId, id)
    },
  )

  app.post(
    '/customers/:id/sync',
    {
      config: { permission: 'sync:run', mask: maskSyncView },
      schema: {
        tags: ['Sync'],
        ...SECURED,
        summary: 'Bring both sides into agreement now',
        description: 'Reads the Stripe customer and carries over what differs. Also tries again what was given up on.',
        headers: Type.Object({
          prefer: Type.Optional(
            Type.String({ description: '`wait=N`: answer 200 once both sides agree, or 202 after N seconds.' }),
          ),
        }),
        params: IdParams,
        response: {
          200: withHeaders(SyncViewSchema, 'Preference-Applied'),
          202: withHeaders(
            { ...SyncViewSchema, description: 'It will be done in a moment. Look at `Location`.' },
            ...LATER_HEADERS,
          ),
          ...problems(400, 404),
        },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { tenantId } = by
      const { id } = request.params
      if (!(await sync.markForSync(tenantId, id, by))) throw new NotFoundError('customer', id)
      sync.wake()
      const seconds = preferredWait(request)
      if (seconds !== null) {
        reply.header('preference-applied', `wait=${seconds}`)
        const signal = AbortSignal.any([request.signal, closing])
        const wait = () => sync.waitUntilSettled(tenantId, id, seconds * 1000, signal)
        const outcome = await waitAside(request, wait)
        if (outcome === 'settled') return view(tenantId, id)
      }
      const path = `/customers/${id}/sync`
      reply.code(202).header('location', path).header('link', `<${path}>; rel="monitor"`)
      return view(tenantId, id)
    },
  )
}
