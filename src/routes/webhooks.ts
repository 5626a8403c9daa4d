import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { openProblems } from '../http/openapi.js'
import { LockstepError } from '../lib/errors.js'
import { type Gate, OverloadedError } from '../lib/gate.js'
import { inTime } from '../lib/in-time.js'
import { Id } from '../models/dtos/parts.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** The place of a delivery among those under way; null on other routes. */
    delivery: { leave(): void; isWorking: boolean } | null
  }
}

/** Why a delivery is not believed; also the `code` of the answer. */
export type RejectReason =
  | 'bad_signature'
  | 'timestamp_out_of_tolerance'
  | 'unparsable_body'
  | 'wrong_mode'
  | 'unknown_tenant'

/** What this route asks of the inbox. */
export interface Inbox {
  /** Checks the signature over the raw body and stores the delivery; when it resolves with `eventId`, the event is durable. */
  accept(input: {
    tenantId: string | null
    signature: string | undefined
    rawBody: Buffer
  }): Promise<
    | { outcome: 'stored' | 'quarantined'; eventId: string }
    | { outcome: 'rejected'; reason: RejectReason; message: string }
  >
  /** Notes a delivery that was refused before it was read. */
  refuseUnread(reason: 'body_too_large'): void
}

/** A delivery that is not believed. Nothing of it was stored. */
export class DeliveryRejectedError extends LockstepError {
  constructor(reason: RejectReason, message: string) {
    super(message, { code: reason })
  }
}

const ReceivedSchema = Type.Object({ received: Type.Literal(true) }, { description: 'The event is stored.' })
const config = { public: true, load: 'none' } as const
const headers = Type.Object({
  'stripe-signature': Type.Optional(Type.String({ description: 'Set by Stripe: `t=…,v1=…`.' })),
})
const schema = {
  tags: ['Webhooks'],
  security: [],
  headers,
  response: { 200: ReceivedSchema, ...openProblems(400, 413) },
}

/**
 * How long a delivery may wait for the database, in milliseconds. Stripe does not say how long it waits for an answer (others have seen 10 s
 * and more); what it gets no answer to it sends again, and an answer of 503 says so sooner.
 */
const PATIENCE_MS = 5_000

/** Where Stripe delivers: open to all, since the signature over the raw body is what proves the sender. */
export const webhookRoutes: FastifyPluginAsyncTypebox<{ inbox: Inbox; bodyLimit: number; gate: Gate }> = async (
  app,
  { inbox, bodyLimit, gate },
) => {
  // The signature is over the bytes as they came, whatever they claim to be.
  app.removeAllContentTypeParsers()
  app.addContentTypeParser(
    '*',
    { parseAs: 'buffer', bodyLimit },
    (_request: FastifyRequest, body: Buffer, done: (error: null, body: Buffer) => void) => done(null, body),
  )

  // The bound of the API is not theirs: nobody who asks much of that may keep Stripe out. Theirs bounds the memory, and is held
  // until the work has ended, answered or not.
  app.decorateRequest('delivery', null)
  app.addHook('onRequest', (request, reply, done) => {
    const length = Number(request.headers['content-length'] ?? bodyLimit)
    const place = { leave: gate.enter(Math.min(length, bodyLimit)), isWorking: false }
    request.delivery = place
    reply.raw.once('close', () => {
      if (!place.isWorking) place.leave()
    })
    done()
  })

  app.addHook('onError', async (_request, _reply, error) => {
    if (error.code === 'FST_ERR_CTP_BODY_TOO_LARGE') inbox.refuseUnread('body_too_large')
  })

  async function deliver(tenantId: string | null, request: FastifyRequest) {
    const signature = request.headers['stripe-signature']
    const work = inbox.accept({
      tenantId,
      signature: typeof signature === 'string' ? signature : undefined,
      rawBody: Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0),
    })
    const place = request.delivery
    if (place !== null) {
      place.isWorking = true
      work.then(place.leave, place.leave)
    }
    // It may be stored all the same: it then comes once more, and is known.
    const result = await inTime(work, PATIENCE_MS, () => {
      return new OverloadedError('The delivery could not be stored in time; deliver it again.')
    })
    if (result.outcome === 'rejected') throw new DeliveryRejectedError(result.reason, result.message)
    return { received: true as const }
  }

  app.post(
    '/webhooks/stripe',
    {
      config,
      schema: {
        ...schema,
        summary: 'Deliveries for the default tenant',
        description:
          'Or, by the Connect `account` of the event, for the tenant of that account. Stored before it answers.',
      },
    },
    async (request) => deliver(null, request),
  )

  app.post(
    '/webhooks/stripe/:tenantId',
    {
      config,
      schema: {
        ...schema,
        summary: 'Deliveries for one tenant',
        params: Type.Object({ tenantId: Id('The tenant.') }),
      },
    },
    async (request) => deliver(request.params.tenantId, request),
  )
}
