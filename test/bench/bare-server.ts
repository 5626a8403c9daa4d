/** The ceiling of the webhook row: Fastify that verifies the signature as Lockstep does, and nothing else. */
import Fastify from 'fastify'
import { verifyDelivery } from '../../src/stripe/webhook-signature.js'

const { STRIPE_WEBHOOK_SECRET = '', PORT } = process.env
const app = Fastify({ bodyLimit: 2 * 1024 * 1024 })
app.removeAllContentTypeParsers()
app.addContentTypeParser('*', { parseAs: 'buffer' }, async (_request: unknown, body: Buffer) => body)
app.post('/webhooks/stripe', async (request, reply) => {
  const verified = verifyDelivery({
    rawBody: request.body as Buffer,
    header: request.headers['stripe-signature'] as string,
    secrets: [STRIPE_WEBHOOK_SECRET],
    tolerance: 300,
    now: Date.now(),
  })
  if (!verified.ok) return reply.code(400).send({ code: verified.reason })
  return { received: true }
})
await app.listen({ port: Number(PORT), host: '127.0.0.1' })
process.stdout.write('ready\n')
