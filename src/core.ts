import { Redis } from 'ioredis'
import type pg from 'pg'
import type { Logger } from 'pino'
import type { Config } from './config.js'
import { loadOrCreateSecret } from './embedded/secrets.js'
import { parseKeys } from './lib/cipher.js'
import { systemClock } from './lib/clock.js'
import { LockstepError, messageOf } from './lib/errors.js'
import { newId } from './lib/ids.js'
import type { Lifecycle } from './lib/lifecycle.js'
import { type Metrics, makeMetrics } from './lib/metrics.js'
import { makeRedisState } from './lib/shared-state.js'
import type { Tenant } from './models/tenant.js'
import { makeErrorReporter, openQueueBackend, type QueueBackend } from './queue/backend.js'
import { makeProducer, type Producer } from './queue/producer.js'
import { backfillUserList } from './repositories/backfill.js'
import { type Db, makeDb, openPool } from './repositories/database.js'
import { DatabaseError } from './repositories/errors.js'
import { migrate } from './repositories/migrate.js'
import { refuseUnknownKeys } from './repositories/sealed.js'
import { makePaceState } from './repositories/stripe-pace.js'
import { findDefaultTenant, setPlatformLivemode } from './repositories/tenants.js'
import { makeVault, type Vault } from './repositories/vault.js'
import { StripeCustomerService } from './services/stripe-customer.service.js'
import { makeStripeAccounts, type StripeAccounts } from './stripe/accounts.js'
import type { Urgency } from './stripe/pace.js'
import { makeRateLimiter } from './stripe/rate-limiter.js'
import { type Drain, makeDrain } from './sync/drain.js'
import { makeFiling } from './sync/filing.js'
import { type Merges, makeMerges } from './sync/merges.js'
import { syncNow } from './sync/now.js'
import { makeReconcile, type Reconcile } from './sync/reconcile.js'
import { makeRelay, type Relay } from './sync/relay.js'
import { makeRuns, type Runs } from './sync/runs.js'
import { KEY_PREFIX } from './sync/step-context.js'

/** The parts that every command needs, wired; nothing runs by itself yet. */
export interface Core {
  databaseUrl: string
  pool: pg.Pool
  db: Db
  /** The same for what Stripe delivers: a database that does not answer must not keep it waiting. */
  inboxDb: Db
  tenant: Tenant
  simulatorUrl: string | null
  /** What signs deliveries for the platform: the default tenant, and accounts that are connected to its own. */
  webhookSecrets: readonly string[]
  vault: Vault
  redis: Redis | null
  queue: QueueBackend
  producer: Producer
  metrics: Metrics
  reconcile: Reconcile
  /** The same for somebody who waits for it: its calls to Stripe go first. */
  reconcileNow: Reconcile
  /** The Stripe accounts of all tenants. */
  accounts: StripeAccounts
  /** A tenant's customers in Stripe, for somebody who waits: these calls go first. */
  customersOf(tenant: Tenant): StripeCustomerService
  runs: Runs
  merges: Merges
  drain: Drain
  relay: Relay
}

/** What differs between the commands. */
export interface CoreOptions {
  config: Config
  log: Logger
  lifecycle: Lifecycle
  /** Where the simulator delivers events; null leaves it as it is. */
  webhookUrl: string | null
  /** Comes before the names of queues and rate limits: sets apart installations, and tests, that share a Redis. */
  prefix?: string
  /** There is work for drain and relay. */
  wake(): void
  /** Sets the gauges; called at each scrape. */
  collect?(metrics: Metrics): Promise<void>
}

/** How long a statement that stores a delivery may take, in milliseconds. */
const STORE_PATIENCE_MS = 5_000

/** Transactions of one process in which the inbox is worked on at once: while Postgres works on one, the next one is prepared. */
const INBOX_LANES = 2

/** The secret key that any simulator takes. */
const SIMULATOR_KEY = 'sk_test_simulator'

/** The database to use: the configured one, or the embedded one, which is brought up; migrated. */
export async function openDatabase({
  config,
  log,
  lifecycle,
}: Pick<CoreOptions, 'config' | 'log' | 'lifecycle'>): Promise<string> {
  let url = config.databaseUrl
  if (url === null) {
    const { startEmbeddedPostgres } = await import('./embedded/postgres.js')
    const embedded = await startEmbeddedPostgres({ dataDir: config.dataDir, log })
    lifecycle.onClose('embedded Postgres', () => embedded.close())
    url = embedded.url
  }
  const { applied } = await migrate(url, { log }).catch((error: unknown) => {
    throw error instanceof LockstepError ? error : DatabaseError.from(error)
  })
  if (applied.length > 0) log.info({ applied }, 'migrations applied')
  await backfillUserList(url, log)
  return url
}

/** Opens and wires the parts. Each that was opened is closed by the lifecycle, also when a later one fails to open. */
export async function openCore(options: CoreOptions): Promise<Core> {
  const { config, log, lifecycle, wake } = options
  const random = Math.random
  // Both at once, since each takes a while; both to the end, so that what one opened is known when the other fails.
  const [database, stripeHost] = await Promise.allSettled([openDatabase(options), openStripeHost(options)])
  const databaseUrl = settledValue(database)
  const simulator = settledValue(stripeHost)

  const pool = openPool(databaseUrl, {
    max: connectionsFor(config.concurrency),
    onError: (error) => log.warn({ err: error.message }, 'a database connection broke'),
  })
  lifecycle.onClose('database pool', () => pool.end())
  const db = makeDb(pool)
  const vault = await openVault(config)
  await refuseUnknownKeys(db, vault)
  await setPlatformLivemode(db, config.stripe.livemode)

  const redis = config.redisUrl === null ? null : openRedis(config.redisUrl, log, lifecycle)
  const queue = await openQueueBackend({
    ...(config.redisUrl === null ? {} : { redisUrl: config.redisUrl }),
    databaseUrl,
    log,
    ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
  })
  lifecycle.onClose('queue', () => queue.close())
  await queue.ping().catch((cause: unknown) => {
    throw new LockstepError('The queue cannot be reached; check REDIS_URL and the server.', {
      code: 'queue_unavailable',
      retryable: true,
      cause,
    })
  })
  const producer = makeProducer(queue)
  lifecycle.onClose('queue producer', () => producer.close())

  const metrics: Metrics = makeMetrics(async () => {
    metrics.stripeRateShare.set(Math.min(limiters.live.leastShare(), limiters.test.leastShare()))
    await options.collect?.(metrics)
  })
  const paces = redis === null ? makePaceState(db) : makeRedisState(redis, `${options.prefix ?? 'lockstep'}:pace`)
  const limiterOf = (account: number) =>
    makeRateLimiter({
      limits: { account, operation: Math.min(account, config.stripe.rates.operation) },
      store: paces,
      random,
      onError(error) {
        metrics.errors.inc({ part: 'limiter' })
        log.warn(
          { err: messageOf(error) },
          'the shared pace of calls to Stripe cannot be reached: going on at a quarter of it',
        )
      },
    })
  const limiters = { live: limiterOf(config.stripe.rates.live), test: limiterOf(config.stripe.rates.test) }
  const accounts = makeStripeAccounts({
    platformKey: config.stripe.secretKey ?? SIMULATOR_KEY,
    apiBase: config.stripe.apiBase ?? simulator?.url,
    cipher: vault.cipher,
    limiters,
    metrics,
  })
  const customersFor =
    (urgency: Urgency) =>
    (tenant: Tenant): StripeCustomerService =>
      new StripeCustomerService({
        account: accounts.of(tenant, urgency),
        newIdempotencyKey: () => `${KEY_PREFIX}${newId()}`,
        sync: (userId) => syncNow(db, reconcileNow, tenant, userId),
      })
  const reconcileFor = (urgency: Urgency): Reconcile =>
    makeReconcile({ db, vault, customersOf: customersFor(urgency), metrics, log, random })
  const reconcile = reconcileFor('push')
  const reconcileNow = reconcileFor('interactive')
  const customersOf = customersFor('interactive')
  const filing = makeFiling({ db, vault, metrics, log, random, lanes: INBOX_LANES })
  const runs = makeRuns({
    db,
    vault,
    accountOf: (tenant) => accounts.of(tenant, 'sweep'),
    filing,
    enqueueRun: (runId) => producer.enqueueRun(runId),
    wake,
    metrics,
    log,
    random,
    timer: systemClock,
  })
  return {
    databaseUrl,
    pool,
    db,
    inboxDb: makeDb(pool, { timeoutMs: STORE_PATIENCE_MS }),
    tenant: await findDefaultTenant(db),
    simulatorUrl: simulator?.url ?? null,
    webhookSecrets: config.stripe.webhookSecrets.length > 0 ? config.stripe.webhookSecrets : secretsOf(simulator),
    vault,
    redis,
    queue,
    producer,
    metrics,
    reconcile,
    reconcileNow,
    accounts,
    customersOf,
    runs,
    merges: makeMerges({ db, vault, customersOf, timer: systemClock, random, log, wake }),
    drain: makeDrain({ db, vault, metrics, log, random, wake, filing, lanes: INBOX_LANES }),
    relay: makeRelay({ db, enqueue: (userIds) => producer.enqueueReconcile(userIds), clock: systemClock }),
  }
}

/**
 * Connections of the pool: some for what runs beside the reconciles, and one for each of these while they are few. Of many, most wait
 * for Stripe, and hold none meanwhile.
 */
function connectionsFor(concurrency: number): number {
  return 8 + Math.max(Math.min(concurrency, 16), Math.ceil(concurrency / 2))
}

async function openStripeHost({ config, log, lifecycle, webhookUrl }: CoreOptions) {
  if (!config.embedded.simulator) return null
  const { openSimulator, simulatorSecret } = await import('./embedded/simulator.js')
  const webhookSecret = config.stripe.webhookSecrets[0] ?? (await simulatorSecret(config.dataDir))
  const simulator = await openSimulator({
    dataDir: config.dataDir,
    port: config.simulatorPort,
    webhookUrl,
    webhookSecret,
    log,
  })
  lifecycle.onClose('simulator', () => simulator.close())
  return simulator
}

/** The vault, with the configured keys, or with one of this data directory. */
export async function openVault(config: Pick<Config, 'encryptionKey' | 'dataDir'>): Promise<Vault> {
  const text = config.encryptionKey ?? (await loadOrCreateSecret(config.dataDir, 'encryption-key')).value
  return makeVault({ keys: parseKeys(text), now: systemClock.now })
}

function settledValue<T>(result: PromiseSettledResult<T>): T {
  if (result.status === 'rejected') throw result.reason
  return result.value
}

function secretsOf(simulator: { webhookSecret: string } | null): string[] {
  return simulator === null ? [] : [simulator.webhookSecret]
}

function openRedis(url: string, log: Logger, lifecycle: Lifecycle): Redis {
  const redis = new Redis(url, { maxRetriesPerRequest: 1, enableOfflineQueue: false })
  redis.on('error', makeErrorReporter(log))
  lifecycle.onClose('redis', async () => redis.disconnect())
  return redis
}
