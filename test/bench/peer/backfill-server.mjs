// The peer of the sweep row: @stripe/sync-engine as its `sync customer` command runs it, against any host that speaks Stripe.
// POST /?rate=25 reads all customers into its tables and answers {"synced", "seconds"}.
import { createServer } from 'node:http'
import { fileURLToPath } from 'node:url'
import { runMigrations, StripeSync } from '@stripe/sync-engine'

const { DATABASE_URL, STRIPE_API_BASE, PORT } = process.env
/** What its command takes by default. */
const WORKERS = 50
const POOL = 10

const silent = { info() {}, warn() {}, error: (...what) => process.stderr.write(`${JSON.stringify(what)}\n`) }
await runMigrations({
  databaseUrl: DATABASE_URL,
  // It derives its tables from Stripe's OpenAPI file, and would fetch that from GitHub.
  openApiSpecPath: fileURLToPath(new URL('customer.openapi.json', import.meta.url)),
})
const sync = await StripeSync.create({
  databaseUrl: DATABASE_URL,
  poolConfig: { max: POOL, connectionString: DATABASE_URL, keepAlive: true },
  stripeSecretKey: 'sk_test_bench',
  stripeAccountId: 'acct_bench',
  logger: silent,
})
// It has no setting for another host; its SDK has.
const base = new URL(STRIPE_API_BASE)
for (const [name, value] of Object.entries({ host: base.hostname, port: base.port, protocol: 'http' })) {
  sync.stripe._setApiField(name, value)
}

const server = createServer(async (request, response) => {
  const rate = Number(new URL(request.url, 'http://peer').searchParams.get('rate'))
  const started = performance.now()
  const { totalSynced } = await sync.fullSync(['customer'], true, WORKERS, rate, false, 0)
  response.end(JSON.stringify({ synced: totalSynced, seconds: (performance.now() - started) / 1000 }))
})
server.listen(Number(PORT), '127.0.0.1', () => process.stdout.write('ready\n'))
