import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { LATER_HEADERS, withHeaders } from '../http/answer-headers.js'
import { isUnchanged, revisionCheck } from '../http/etag.js'
import { idempotencyOf } from '../http/idempotency.js'
import { problems, SECURED } from '../http/openapi.js'
import { answerWrite, type Settling } from '../http/wait.js'
import {
  CustomerInputSchema,
  CustomerPageSchema,
  CustomerPatchSchema,
  type CustomerQuery,
  CustomerQuerySchema,
  CustomerSchema,
} from '../models/dtos/customer.dto.js'
import { maskCustomer, maskCustomerPage } from '../models/dtos/masking.js'
import { MatchInputSchema, MatchSchema } from '../models/dtos/order.dto.js'
import { IdParams } from '../models/dtos/parts.js'
import { ReasonParam, StateChangePageSchema, StateChangeQuerySchema } from '../models/dtos/state-change.dto.js'
import { type CustomerService, needsPersonalData } from '../services/customer.service.js'

const PREFER = {
  prefer: Type.Optional(
    Type.String({
      description: '`wait=N`: answer once both sides agree, or 202 after N seconds (at most 30).',
      examples: ['wait=5'],
    }),
  ),
}
const IF_MATCH = {
  'if-match': Type.Optional(
    Type.String({
      description: 'The ETag of the customer as you read it, or `"<revision>"`: 412 when it has changed since.',
    }),
  ),
}
const WriteHeaders = Type.Object({ ...PREFER, ...IF_MATCH })
const DONE_HEADERS = ['ETag', 'Preference-Applied'] as const
const LATER = {
  202: withHeaders(
    { ...CustomerSchema, description: 'Written here; Stripe will have it later. Look at `Location`.' },
    'ETag',
    ...LATER_HEADERS,
  ),
}
const base = { tags: ['Customers'], ...SECURED }
const WRITE = { config: { permission: 'customers:write', mask: maskCustomer } } as const

/** The customers: rows of `users`, each with how it stands with Stripe. */
export const customerRoutes: FastifyPluginAsyncTypebox<{
  customers: CustomerService
  sync: Settling
  closing: AbortSignal
}> = async (app, { customers, sync, closing }) => {
  app.get(
    '/customers',
    {
      config: {
        permission: 'customers:read',
        mask: maskCustomerPage,
        alsoNeeds: (request) => (needsPersonalData(request.query as CustomerQuery) ? 'pii:read' : null),
      },
      schema: {
        ...base,
        summary: 'List, search and filter customers',
        description:
          'Active ones, newest first, unless the query says otherwise. All conditions hold together. To search by `q` (but for a whole id), ' +
          '`email` or `phone`, and to sort by `name` or `email`, needs `pii:read`: what is found would confirm a guess.',
        headers: Type.Object({
          'cache-control': Type.Optional(
            Type.String({
              description:
                '`no-cache`: has in it whatever was written before. Else, where the service reads lists from a replica, what others wrote may show some ' +
                'seconds later; what you wrote through the same process shows at once.',
            }),
          ),
        }),
        querystring: CustomerQuerySchema,
        response: { 200: CustomerPageSchema, ...problems(400) },
      },
    },
    async (request) => {
      const { tenantId, permissions } = principalOf(request)
      const isLatest = /\bno-cache\b/i.test(request.headers['cache-control'] ?? '')
      return customers.list(tenantId, request.query, permissions.has('pii:read'), isLatest)
    },
  )

  app.post(
    '/customers',
    {
      ...WRITE,
      schema: {
        ...base,
        summary: 'Create a customer',
        description:
          'Moments later there is exactly one Stripe customer for it. Families share an e-mail, and so may customers: who must not be there twice is looked for ' +
          'by `POST /customers/match` before, or comes by `POST /orders` or an import, which match. A retry of one request needs an `Idempotency-Key`.',
        headers: Type.Object({
          ...PREFER,
          'idempotency-key': Type.Optional(
            Type.String({
              description:
                'Your own name for this request, 1 to 255 visible characters. For 24 hours the same key and body answer the stored ' +
                'customer again, with `Idempotency-Replayed: true`; another body is a 422.',
              examples: ['order-1234-customer'],
            }),
          ),
        }),
        body: CustomerInputSchema,
        response: {
          201: withHeaders(CustomerSchema, 'Location', 'Idempotency-Replayed', ...DONE_HEADERS),
          ...LATER,
          ...problems(400, 409, 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { customer, replayed } = await customers.create(by, request.body, idempotencyOf(request))
      if (replayed) {
        reply.code(201).header('idempotency-replayed', 'true').header('location', `/customers/${customer.id}`)
        return customer
      }
      const answer = { tenantId: by.tenantId, status: 201 as const, customer }
      return answerWrite({ request, reply, sync, closing }, answer, () => customers.get(by.tenantId, customer.id))
    },
  )

  app.post(
    '/customers/match',
    {
      config: { permission: 'pii:read', alsoNeeds: () => 'customers:read' },
      schema: {
        ...base,
        summary: 'Find who has an e-mail or phone',
        description:
          'Among active customers: by e-mail in any case, and by phone; who was merged is found as the customer that they live on in. Changes nothing. Needs `pii:read`: it confirms what is asked.',
        body: MatchInputSchema,
        response: { 200: MatchSchema, ...problems(400, 413, 415) },
      },
    },
    async (request) => customers.match(principalOf(request).tenantId, request.body),
  )

  app.get(
    '/customers/:id',
    {
      config: { permission: 'customers:read', mask: maskCustomer },
      schema: {
        ...base,
        summary: 'Read a customer',
        headers: Type.Object({
          'if-none-match': Type.Optional(Type.String({ description: 'An ETag: 304 when nothing has changed since.' })),
        }),
        params: IdParams,
        response: {
          200: withHeaders(CustomerSchema, 'ETag'),
          304: withHeaders(Type.Unsafe<undefined>({ type: 'null', description: 'You hold the present one.' }), 'ETag'),
          ...problems(400, 404),
        },
      },
    },
    async (request, reply) => {
      const customer = await customers.get(principalOf(request).tenantId, request.params.id)
      if (isUnchanged(request, reply, customer)) return reply.code(304).send(undefined)
      return customer
    },
  )

  app.put(
    '/customers/:id',
    {
      ...WRITE,
      schema: {
        ...base,
        summary: 'Replace a customer',
        description: 'What the body lacks is removed, here and in Stripe. An archived customer must be restored first.',
        headers: WriteHeaders,
        params: IdParams,
        body: CustomerInputSchema,
        response: {
          200: withHeaders(CustomerSchema, ...DONE_HEADERS),
          ...LATER,
          ...problems(400, 404, 409, 412, 413, 415),
        },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { id } = request.params
      const customer = await customers.replace(by, id, request.body, revisionCheck(request))
      const answer = { tenantId: by.tenantId, status: 200 as const, customer }
      return answerWrite({ request, reply, sync, closing }, answer, () => customers.get(by.tenantId, id))
    },
  )

  app.patch(
    '/customers/:id',
    {
      ...WRITE,
      schema: {
        ...base,
        summary: 'Change parts of a customer',
        description: 'A JSON merge patch (RFC 7396). An archived customer must be restored first.',
        headers: WriteHeaders,
        params: IdParams,
        consumes: ['application/json', 'application/merge-patch+json'],
        body: CustomerPatchSchema,
        response: {
          200: withHeaders(CustomerSchema, ...DONE_HEADERS),
          ...LATER,
          ...problems(400, 404, 409, 412, 413, 415),
        },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { id } = request.params
      const customer = await customers.patch(by, id, request.body, revisionCheck(request))
      const answer = { tenantId: by.tenantId, status: 200 as const, customer }
      return answerWrite({ request, reply, sync, closing }, answer, () => customers.get(by.tenantId, id))
    },
  )

  app.delete(
    '/customers/:id',
    {
      config: {
        ...WRITE.config,
        alsoNeeds: (request) => ((request.query as { erase?: boolean }).erase ? 'customers:erase' : null),
      },
      schema: {
        ...base,
        summary: 'Archive or erase a customer',
        description:
          'Archives (soft-deletes): the Stripe customer stays, marked. With `erase=true` the personal data is removed for good and the ' +
          'Stripe customer deleted; that needs the permission `customers:erase`. Done twice it does nothing more. Of a row that another program deleted, what is left can be erased. Open orders stand against ' +
          'both: 409 `customer_in_use`, and `blockers` names ten of them at most; complete or cancel them first (PATCH /orders/:id). Nothing ' +
          'else does. Subscriptions and invoices in Stripe are not looked at: they go on after archiving, and with the Stripe customer that ' +
          'erasing deletes Stripe ends its subscriptions at once.',
        headers: WriteHeaders,
        params: IdParams,
        querystring: Type.Object(
          {
            erase: Type.Optional(Type.Boolean({ default: false, description: 'Remove the personal data for good.' })),
            reason: ReasonParam,
          },
          { additionalProperties: false },
        ),
        response: { 200: withHeaders(CustomerSchema, ...DONE_HEADERS), ...LATER, ...problems(400, 404, 409, 412) },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { id } = request.params
      const remove = request.query.erase ? customers.erase : customers.archive
      const customer = await remove(by, id, revisionCheck(request), request.query.reason)
      const answer = { tenantId: by.tenantId, status: 200 as const, customer }
      return answerWrite({ request, reply, sync, closing }, answer, () => customers.get(by.tenantId, id))
    },
  )

  app.post(
    '/customers/:id/restore',
    {
      ...WRITE,
      schema: {
        ...base,
        summary: 'Make an archived customer active again',
        description: 'One whose Stripe customer was deleted gets a new one. What was erased cannot be restored.',
        headers: WriteHeaders,
        params: IdParams,
        querystring: Type.Object({ reason: ReasonParam }, { additionalProperties: false }),
        response: { 200: withHeaders(CustomerSchema, ...DONE_HEADERS), ...LATER, ...problems(400, 404, 409, 412) },
      },
    },
    async (request, reply) => {
      const by = actorOf(request)
      const { id } = request.params
      const customer = await customers.restore(by, id, revisionCheck(request), request.query.reason)
      const answer = { tenantId: by.tenantId, status: 200 as const, customer }
      return answerWrite({ request, reply, sync, closing }, answer, () => customers.get(by.tenantId, id))
    },
  )

  app.get(
    '/customers/:id/states',
    {
      config: { permission: 'customers:read' },
      schema: {
        ...base,
        summary: 'The states that a customer had: who changed them, when and why',
        description: 'Newest first. Changes by plain SQL and by Stripe are here too; `actor` tells them apart.',
        params: IdParams,
        querystring: StateChangeQuerySchema,
        response: { 200: StateChangePageSchema, ...problems(400, 404) },
      },
    },
    async (request) => customers.states(principalOf(request).tenantId, request.params.id, request.query),
  )
}
