// The peer of the webhook rows: @supabase/stripe-sync-engine behind Fastify, as its own fastify-app does it.
import { createRequire } from 'node:module'
import Fastify from 'fastify'

// Its ES build looks for its migrations by `__dirname`, which only its CommonJS build has.
const { runMigrations, StripeSync } = createRequire(import.meta.url)('@supabase/stripe-sync-engine')

const { DATABASE_URL, STRIPE_WEBHOOK_SECRET, PORT } = process.env
await runMigrations({ databaseUrl: DATABASE_URL, schema: 'stripe' })
const sync = new StripeSync({
  poolConfig: { connectionString: DATABASE_URL, max: 20, keepAlive: true },
  stripeSecretKey: 'sk_test_bench',
  stripeWebhookSecret: STRIPE_WEBHOOK_SECRET,
  backfillRelatedEntities: false,
})
const app = Fastify({ bodyLimit: 2 * 1024 * 1024 })
app.removeAllContentTypeParsers()
app.addContentTypeParser('*', { parseAs: 'buffer' }, async (_request, body) => body)
app.post('/webhooks/stripe', async (request) => {
  await sync.processWebhook(request.body, request.headers['stripe-signature'])
  return { received: true }
})
await app.listen({ port: Number(PORT), host: '127.0.0.1' })
process.stdout.write('ready\n')
