import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import { actorOf, principalOf } from '../access/authenticate.js'
import { withHeaders } from '../http/answer-headers.js'
import { idempotencyOf } from '../http/idempotency.js'
import { problems, SECURED } from '../http/openapi.js'
import { maskOrder, maskOrderPage } from '../models/dtos/masking.js'
import {
  CustomerOrderQuerySchema,
  OrderInputSchema,
  OrderPageSchema,
  OrderPatchSchema,
  OrderQuerySchema,
  OrderSchema,
} from '../models/dtos/order.dto.js'
import { IdParams } from '../models/dtos/parts.js'
import type { OrderService } from '../services/order.service.js'

const base = { tags: ['Orders'], ...SECURED }
const READ_PAGE = { config: { permission: 'orders:read', mask: maskOrderPage } } as const
const WRITE = { config: { permission: 'orders:write', mask: maskOrder } } as const

/** Orders, whose attendees become customers. */
export const orderRoutes: FastifyPluginAsyncTypebox<{ orders: OrderService }> = async (app, { orders }) => {
  app.get(
    '/orders',
    {
      ...READ_PAGE,
      schema: {
        ...base,
        summary: 'List orders, newest first',
        querystring: OrderQuerySchema,
        response: { 200: OrderPageSchema, ...problems(400) },
      },
    },
    async (request) => orders.list(principalOf(request).tenantId, request.query),
  )

  app.post(
    '/orders',
    {
      ...WRITE,
      schema: {
        ...base,
        summary: 'Take an order',
        description:
          'Each attendee is matched with an active customer by e-mail, then phone; who matches nobody becomes a customer, once, ' +
          'however many orders come in at a time. Where several fit it is a 409: name the one that is meant by `customerId`. The answer tells ' +
          'whether an attendee was known, also to a key without `pii:read`; each such question leaves an order and is in the audit log.',
        headers: Type.Object({
          'idempotency-key': Type.Optional(
            Type.String({
              description:
                'For 24 hours the same key and body answer the same order, with `Idempotency-Replayed: true`.',
              examples: ['till-3-1042'],
            }),
          ),
        }),
        body: OrderInputSchema,
        response: {
          201: withHeaders(OrderSchema, 'Location', 'Idempotency-Replayed'),
          ...problems(400, 409, 413, 415, 422),
        },
      },
    },
    async (request, reply) => {
      const { order, replayed } = await orders.create(actorOf(request), request.body, idempotencyOf(request))
      if (replayed) reply.header('idempotency-replayed', 'true')
      return reply.code(201).header('location', `/orders/${order.id}`).send(order)
    },
  )

  app.get(
    '/orders/:id',
    {
      config: { permission: 'orders:read', mask: maskOrder },
      schema: {
        ...base,
        summary: 'Read an order',
        params: IdParams,
        response: { 200: OrderSchema, ...problems(400, 404) },
      },
    },
    async (request) => orders.get(principalOf(request).tenantId, request.params.id),
  )

  app.patch(
    '/orders/:id',
    {
      ...WRITE,
      schema: {
        ...base,
        summary: 'Complete or cancel an open order',
        description: 'Done twice it does nothing more.',
        params: IdParams,
        body: OrderPatchSchema,
        response: { 200: OrderSchema, ...problems(400, 404, 409, 413, 415) },
      },
    },
    async (request) => orders.close(actorOf(request), request.params.id, request.body.status),
  )

  app.get(
    '/customers/:id/orders',
    {
      ...READ_PAGE,
      schema: {
        ...base,
        summary: 'List the orders of a customer, newest first',
        params: IdParams,
        querystring: CustomerOrderQuerySchema,
        response: { 200: OrderPageSchema, ...problems(400, 404) },
      },
    },
    async (request) => orders.ofCustomer(principalOf(request).tenantId, request.params.id, request.query),
  )
}
