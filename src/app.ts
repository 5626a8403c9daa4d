import { readFileSync } from 'node:fs'
import type { Logger } from 'pino'
import { makeCredentials } from './access/credentials.js'
import { makeJwtVerifier } from './access/jwt.js'
import { makeApiKeys } from './access/keys.js'
import { makeRequestLimits } from './access/request-limits.js'
import type { Config } from './config.js'
import { type Core, openCore } from './core.js'
import { buildServer } from './http/server.js'
import { makeHandlers } from './jobs/handlers.js'
import { makeTasks, SCHEDULE } from './jobs/schedule.js'
import { systemClock } from './lib/clock.js'
import { LockstepError, messageOf } from './lib/errors.js'
import type { Lifecycle } from './lib/lifecycle.js'
import { startLoop } from './lib/loop.js'
import type { Metrics } from './lib/metrics.js'
import type { Tenant, TenantSettings } from './models/tenant.js'
import { queueNames } from './queue/queues.js'
import { makeWorkers } from './queue/workers.js'
import { chainEntries } from './repositories/audit-chain.js'
import { type Db, makeDb } from './repositories/database.js'
import { dirtyFigures } from './repositories/dirty-users.js'
import type { PrismaClient } from './repositories/generated/client.js'
import { isolateTenants, openIsolatedPool } from './repositories/isolation.js'
import { openPrisma } from './repositories/prisma.js'
import { inboxFigures } from './repositories/stripe-events.js'
import { findTenant, findTenantId, laneFigures, listConnectedTenants, listTenants } from './repositories/tenants.js'
import { makeAuditService } from './services/audit.service.js'
import { makeConsentService } from './services/consent.service.js'
import { type CustomerService, makeCustomerService } from './services/customer.service.js'
import { makeExportService } from './services/export.service.js'
import { makeHistoryService } from './services/history.service.js'
import { makeImportService } from './services/import.service.js'
import { makeOrderService } from './services/order.service.js'
import { makePersonalExportService } from './services/personal-export.service.js'
import { makeRetentionService, type RetentionService } from './services/retention.service.js'
import { makeReviewService } from './services/review.service.js'
import { openTenantServices } from './services/tenants.js'
import { makeSyncControl, type SyncControl } from './sync/control.js'
import { makeAddressees, makeEventStore } from './sync/event-store.js'
import { makeInbox } from './sync/inbox.js'

/** How often a process looks for work that nobody told it of (a write by psql, another process), in milliseconds. */
const POLL_MS = 200
/** How often a process looks for audit entries to be chained, in milliseconds: what is not yet chained can still be changed unseen. */
const CHAIN_MS = 500
/** How often a process sees to the crontab and to abandoned runs, in milliseconds: a flushed Redis forgets both. */
const UPKEEP_MS = 15_000
/** How often a worker looks for imports that another process took in, in milliseconds. */
const IMPORT_POLL_MS = 1_000
/** Stripe's events are small; this is far beyond the largest and still bounds memory. Bytes. */
const WEBHOOK_BODY_LIMIT = 2 * 1024 * 1024
/** An event, or a dirty user, that has waited longer says that the service does not keep up, in seconds. */
const BEHIND_AFTER = { inbox: 60, sync: 300 }
/** Database connections that requests of the API share in one process. */
const REQUEST_CONNECTIONS = 10
/** The name of the key that the service makes, or is given, at its first start. */
const ADMIN_KEY_NAME = 'admin'

/** Which parts of the service this process runs. */
export interface Roles {
  api: boolean
  worker: boolean
}

/** A running process of the service. */
export interface App {
  /** Null for a worker. */
  apiUrl: string | null
  /** Null when a real Stripe is used. */
  simulatorUrl: string | null
  /** The admin key, when this start made it: the only time that it can be shown. */
  newAdminKey: string | null
}

/** The release, as package.json has it. */
export const VERSION = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
).version

/**
 * Brings up the service: opens what it needs, wires it, starts what runs. What was opened is closed by the lifecycle, in
 * reverse order: intake first, then the jobs under way, then what they use.
 */
export async function startApp(options: {
  config: Config
  log: Logger
  lifecycle: Lifecycle
  roles: Roles
  /** Comes before the names of queues: sets apart installations, and tests, that share a Redis. */
  prefix?: string
}): Promise<App> {
  const { config, log, lifecycle, roles } = options
  const loops: { wake(): void }[] = []
  const wake = () => {
    for (const loop of loops) loop.wake()
  }
  const webhookUrl = roles.api ? `http://${reachable(config.host)}:${config.port}/webhooks/stripe` : null
  const core: Core = await openCore({
    config,
    log,
    lifecycle,
    webhookUrl,
    wake,
    ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
    collect: (metrics) => setGauges(core, metrics),
  })

  // Before anything here uses the tables, which this locks.
  const isIsolated = roles.api && (await isolate(core, config, log))
  const services = { ...openServices(core, log, lifecycle, wake), isIsolated }
  if (roles.worker) startWorkers(core, services, config, log, lifecycle, wake)
  loops.push(...startLoops(core, log, lifecycle))
  const importing = roles.worker ? startImporting(core, services, log, lifecycle, wake) : null
  const api = roles.api ? await startApi(core, services, options, wake, () => importing?.wake()) : null
  if (roles.worker) await startFirstRuns(core)
  return { apiUrl: api?.url ?? null, simulatorUrl: core.simulatorUrl, newAdminKey: api?.newAdminKey ?? null }
}

/** What both the API and a worker use. */
interface Services {
  prisma: PrismaClient
  sync: SyncControl
  settingsOf(tenantId: string): Promise<TenantSettings>
  customers: CustomerService
  retention: RetentionService
}

function openServices(core: Core, log: Logger, lifecycle: Lifecycle, wake: () => void): Services {
  const { db, pool, vault, producer } = core
  const clock = systemClock
  const prisma = openPrisma(pool)
  lifecycle.onClose('prisma', () => prisma.$disconnect())
  const sync = makeSyncControl({ db, vault, timer: clock, wake })
  const settingsOf = makeSettingsCache(core)
  const customers = makeCustomerService({ prisma, vault, sync, settingsOf, clock })
  const enqueue = () => producer.enqueueTask('retention-runs')
  return {
    prisma,
    sync,
    settingsOf,
    customers,
    retention: makeRetentionService({ db, customers, clock, log, enqueue }),
  }
}

function startWorkers(
  core: Core,
  { retention }: Services,
  config: Config,
  log: Logger,
  lifecycle: Lifecycle,
  wake: () => void,
): void {
  const { db, reconcile, runs, merges, metrics } = core
  const tasks = makeTasks({ db, runs, retention, merges, wake, log })
  const handlers = makeHandlers({ reconcile, runs, tasks, metrics, wake })
  const workers = makeWorkers({ backend: core.queue, handlers, concurrency: config.concurrency, log })
  lifecycle.onClose('workers', () => workers.close())
}

/** Drain and relay run in every process, so that no signal between processes is needed and none can be lost. */
function startLoops(core: Core, log: Logger, lifecycle: Lifecycle): { wake(): void }[] {
  const { db, drain, relay, producer, runs, metrics } = core
  const parts = {
    drain: { idleMs: POLL_MS, work: async () => ({ more: (await drain.drainBatch()) > 0 }) },
    relay: { idleMs: POLL_MS, work: async () => ({ more: (await relay.relayBatch()) > 0 }) },
    audit: { idleMs: CHAIN_MS, work: async () => ({ more: (await chainEntries(db)).more }) },
    upkeep: {
      idleMs: UPKEEP_MS,
      work: async () => {
        await producer.ensureSchedules(SCHEDULE)
        await runs.resumeAbandoned()
        return { more: false }
      },
    },
  }
  return Object.entries(parts).map(([name, { idleMs, work }]) => {
    const loop = startLoop({
      work,
      idleMs,
      onError(error) {
        metrics.errors.inc({ part: name })
        log.warn({ err: messageOf(error) }, `${name}: will be tried again`)
      },
    })
    lifecycle.onClose(name, () => loop.stop())
    return name === 'upkeep' || name === 'audit' ? { wake() {} } : loop
  })
}

/** Goes through uploaded files, one at a time; each process that is a worker does. */
function startImporting(
  core: Core,
  { prisma, settingsOf }: Services,
  log: Logger,
  lifecycle: Lifecycle,
  wake: () => void,
): { wake(): void } {
  const imports = makeImportService({ prisma, vault: core.vault, settingsOf, wake })
  const stop = new AbortController()
  const report = (error: unknown, about: object) => {
    core.metrics.errors.inc({ part: 'import' })
    log.error({ ...about, err: messageOf(error) }, 'import')
  }
  const loop = startLoop({
    idleMs: IMPORT_POLL_MS,
    async work() {
      await imports.removeStaleUploads()
      return { more: await imports.executeNext(stop.signal, (error, importId) => report(error, { importId })) }
    },
    onError: (error) => report(error, {}),
  })
  lifecycle.onClose('imports', () => {
    stop.abort()
    return loop.stop()
  })
  return loop
}

async function startApi(
  core: Core,
  { prisma, sync, settingsOf, retention, isIsolated }: Services & { isIsolated: boolean },
  { config, log, lifecycle, prefix }: { config: Config; log: Logger; lifecycle: Lifecycle; prefix?: string },
  wake: () => void,
  wakeImports: () => void,
): Promise<{ url: string; newAdminKey: string | null }> {
  const { db, vault, metrics, runs, merges } = core
  const keys = makeApiKeys({ prisma, clock: systemClock })
  const newAdminKey = await ensureAdminKey(keys, core.tenant, config)
  // What a request reads and writes of its tenant goes through a pool that shows it no other one's rows.
  const requests = isIsolated ? openRequestPool(core, log, lifecycle) : { db, prisma }
  const requested = makeCustomerService({ prisma: requests.prisma, vault, sync, settingsOf, clock: systemClock })
  const jwt =
    config.jwt === null
      ? null
      : makeJwtVerifier({
          settings: config.jwt,
          tenantIdOf: (name) => findTenantId(db, name),
          clock: systemClock,
        })
  const server = await buildServer({
    log,
    keys,
    credentials: makeCredentials(keys, jwt),
    limits: makeRequestLimits({
      perMinute: config.apiRate,
      redis: core.redis,
      ...(prefix === undefined ? {} : { prefix }),
    }),
    customers: requested,
    imports: makeImportService({ prisma, vault, settingsOf, wake }),
    exports: makeExportService({ prisma: requests.prisma, customers: requested }),
    wakeImports,
    consents: makeConsentService({ db: requests.db, clock: systemClock }),
    personalExports: makePersonalExportService({ ...requests, vault, clock: systemClock }),
    retention,
    merges,
    orders: makeOrderService({ prisma: requests.prisma, vault, settingsOf, wake }),
    review: makeReviewService({ prisma: requests.prisma, vault }),
    audit: makeAuditService({ prisma: requests.prisma, vault }),
    history: makeHistoryService({ prisma: requests.prisma, vault }),
    sync,
    inbox: makeInbox({
      db,
      addressee: makeAddressees(db),
      storeEvent: makeEventStore({ db, cipher: vault.cipher }),
      platformSecrets: core.webhookSecrets,
      ownSecretsOf: core.accounts.webhookSecretsOf,
      tolerance: config.webhookTolerance,
      clock: systemClock,
      metrics,
      log,
      wake,
    }),
    runs,
    ...openTenantServices({
      prisma,
      cipher: core.vault.cipher,
      accounts: core.accounts,
      keys,
      onConnected: (tenant) => startRunsOf(core, tenant, 'api'),
    }),
    settingsOf,
    health: healthChecks(core, isIsolated),
    metrics,
    options: {
      version: VERSION,
      bodyLimit: config.bodyLimit,
      webhookBodyLimit: WEBHOOK_BODY_LIMIT,
      importLimit: config.importLimit,
      openMetrics: isLoopback(config.host),
      trustProxy: config.trustProxy ?? false,
    },
  })
  lifecycle.onClose('API', () => server.close())
  const url = await server.listen({ host: config.host, port: config.port }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EADDRINUSE') throw error
    throw new LockstepError(`Port ${config.port} is taken, perhaps by another Lockstep. Stop that, or set PORT.`, {
      code: 'port_taken',
      cause: error,
    })
  })
  return { url, newAdminKey }
}

/** Puts row-level security behind the API; where the database does not let it, the code keeps the tenants apart alone. */
async function isolate({ db }: Core, { rowSecurity }: Config, log: Logger): Promise<boolean> {
  if (rowSecurity === 'off' || (rowSecurity === 'auto' && (await listTenants(db)).length < 2)) return false
  const isIsolated = await isolateTenants(db)
  if (!isIsolated)
    log.warn('tenants are kept apart by the code alone: row-level security could not be set up; see README.md')
  return isIsolated
}

/** What requests about one tenant's data work on: each sees the rows of its own tenant only, whatever the code asks. */
function openRequestPool(core: Core, log: Logger, lifecycle: Lifecycle): { db: Db; prisma: PrismaClient } {
  const pool = openIsolatedPool(core.databaseUrl, {
    max: REQUEST_CONNECTIONS,
    name: 'lockstep api',
    onError: (error) => log.warn({ err: error.message }, 'a database connection broke'),
  })
  lifecycle.onClose('request pool', () => pool.end())
  const prisma = openPrisma(pool)
  lifecycle.onClose('request prisma', () => prisma.$disconnect())
  return { db: makeDb(pool), prisma }
}

/** The configured admin key, or one made at the first start. Answers the key if it was made now. */
async function ensureAdminKey(
  keys: ReturnType<typeof makeApiKeys>,
  tenant: Tenant,
  config: Config,
): Promise<string | null> {
  const by = { tenantId: tenant.id, actor: 'system', requestId: null, ip: null }
  const spec = { name: ADMIN_KEY_NAME, role: 'admin' } as const
  if (config.adminKey !== null) {
    await keys.ensure(by, config.adminKey, spec)
    return null
  }
  const { data: some } = await keys.list(tenant.id, { limit: 1, after: null })
  if (some.length > 0) return null
  return (await keys.create(by, spec)).key
}

/** Settings are read for every write; a second of age is nothing to them. */
function makeSettingsCache({ db }: Core): (tenantId: string) => Promise<TenantSettings> {
  const cached = new Map<string, { settings: TenantSettings; until: number }>()
  return async (tenantId) => {
    const known = cached.get(tenantId)
    if (known !== undefined && known.until > Date.now()) return known.settings
    const tenant = await findTenant(db, tenantId)
    if (tenant === null) throw new LockstepError(`No tenant with id '${tenantId}'.`, { code: 'unknown_tenant' })
    cached.set(tenantId, { settings: tenant.settings, until: Date.now() + 1_000 })
    return tenant.settings
  }
}

function healthChecks(core: Core, isIsolated: boolean) {
  return [
    {
      name: 'database',
      critical: true,
      check: async () => {
        await core.db.query('select 1')
        return { rowSecurity: isIsolated }
      },
    },
    {
      name: 'queue',
      critical: false,
      check: async () => {
        await core.queue.ping()
        return { backend: core.queue.kind }
      },
    },
    {
      name: 'inbox',
      critical: false,
      check: async () => {
        const figures = await inboxFigures(core.db)
        return { ...figures, ...(figures.oldestSeconds > BEHIND_AFTER.inbox ? { code: 'inbox_behind' } : {}) }
      },
    },
    {
      name: 'sync',
      critical: false,
      check: async () => {
        const { dirty, oldestSeconds, unhealthy } = await dirtyFigures(core.db)
        const isBehind = oldestSeconds > BEHIND_AFTER.sync
        return { dirty, oldestSeconds, ...unhealthy, ...(isBehind ? { code: 'sync_behind' } : {}) }
      },
    },
    {
      name: 'stripe',
      critical: false,
      check: async () => {
        const { connected, refused } = await laneFigures(core.db)
        if (refused === connected) throw new LockstepError('Stripe refuses every key.', { code: 'stripe_auth_failed' })
        return {
          simulator: core.simulatorUrl !== null,
          livemode: core.accounts.platformLivemode,
          refused,
          ...(refused > 0 ? { code: 'stripe_auth_failed' } : {}),
        }
      },
    },
  ]
}

async function setGauges(core: Core, metrics: Metrics): Promise<void> {
  const [inbox, dirty, lanes] = await Promise.all([inboxFigures(core.db), dirtyFigures(core.db), laneFigures(core.db)])
  metrics.inboxDepth.set({ status: 'pending' }, inbox.pending)
  metrics.inboxDepth.set({ status: 'failed' }, inbox.failed)
  metrics.inboxAge.set(inbox.oldestSeconds)
  metrics.dirtyUsers.set(dirty.dirty)
  metrics.dirtyAge.set(dirty.oldestSeconds)
  for (const status of ['failed', 'conflict', 'detached'])
    metrics.unhealthyUsers.set({ status }, dirty.unhealthy[status] ?? 0)
  metrics.lanePaused.set(lanes.refused)
  const counts = await core.producer.counts().catch(() => null)
  if (counts === null) return
  for (const queue of queueNames) {
    for (const [state, count] of Object.entries(counts[queue])) metrics.queueJobs.set({ queue, state }, count)
  }
}

/** At each start the events of the time without us are read, of every tenant that has an account. */
async function startFirstRuns(core: Core): Promise<void> {
  for (const tenant of await listConnectedTenants(core.db)) await startRunsOf(core, tenant, 'start')
}

/** Reads what was missed; before anything else is known, all of Stripe. */
async function startRunsOf({ runs }: Core, tenant: Tenant, trigger: 'start' | 'api'): Promise<void> {
  const request = { tenantId: tenant.id, dryRun: false, trigger, requestedBy: null } as const
  await runs.start({ ...request, kind: 'catch_up' })
  if (tenant.sweptAt === null) await runs.start({ ...request, kind: 'sweep' })
}

function reachable(host: string): string {
  return host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.')
}
