import { makeCredentials } from '../access/credentials.js'
import { makeJwtVerifier } from '../access/jwt.js'
import { makeApiKeys } from '../access/keys.js'
import { makeRequestLimits } from '../access/request-limits.js'
import type { Config } from '../config.js'
import { buildServer } from '../http/server.js'
import { systemClock } from '../lib/clock.js'
import { LockstepError } from '../lib/errors.js'
import { VERSION } from '../lib/version.js'
import type { Tenant } from '../models/tenant.js'
import { findTenantId } from '../repositories/tenants.js'
import { makeAuditService } from '../services/audit.service.js'
import { makeConsentService } from '../services/consent.service.js'
import { makeCustomerService } from '../services/customer.service.js'
import { makeExportService } from '../services/export.service.js'
import { makeHistoryService } from '../services/history.service.js'
import { makeImportService } from '../services/import.service.js'
import { makeOrderService } from '../services/order.service.js'
import { makePersonalExportService } from '../services/personal-export.service.js'
import { makeRetentionService } from '../services/retention.service.js'
import { makeReviewService } from '../services/review.service.js'
import { openTenantServices } from '../services/tenants.js'
import { makeSyncControl } from '../sync/control.js'
import { makeAddressees, makeDeliveryStore } from '../sync/delivery-store.js'
import { makeInbox } from '../sync/inbox.js'
import { makeMerges } from '../sync/merges.js'
import { makeRunRequests } from '../sync/runs.js'
import { startRunsOf } from './first-runs.js'
import { healthChecks } from './health.js'
import { openListReads } from './replica.js'
import { openRequestPool } from './row-security.js'
import { makeSettingsCache, type Services, type Wiring } from './services.js'

/** Stripe's events are small; this is far beyond the largest and still bounds memory. Bytes. */
const WEBHOOK_BODY_LIMIT = 2 * 1024 * 1024
/** The name of the key that the service makes, or is given, at its first start. */
const ADMIN_KEY_NAME = 'admin'

/** What the API works with beside its services. */
export interface ApiOptions {
  /** Whether row-level security stands behind it. */
  isIsolated: boolean
  wakeImports(): void
  wakeDrain(): void
}

/** Serves the API. Answers where, and the admin key if it was made now. */
export async function startApi(
  wiring: Wiring,
  { prisma }: Pick<Services, 'prisma'>,
  { isIsolated, wakeImports, wakeDrain }: ApiOptions,
): Promise<{ url: string; newAdminKey: string | null }> {
  const { core, config, log, lifecycle, prefix, wake } = wiring
  const { db, inboxDb, vault, metrics, producer } = core
  // What a request reads and writes of its tenant goes through a pool that shows it no other one's rows.
  const requests = isIsolated ? openRequestPool(wiring) : { db, prisma }
  // Only what has to know whose a request is, and operators, who look after all tenants, go past it: by `db` and `prisma`.
  const keys = makeApiKeys({ prisma, requests: requests.prisma, clock: systemClock })
  const newAdminKey = await ensureAdminKey(makeApiKeys({ prisma, clock: systemClock }), core.tenant, config)
  const settingsOf = makeSettingsCache(requests.db)
  const sync = makeSyncControl({
    db: requests.db,
    vault,
    timer: systemClock,
    wake,
    reconcileNow: core.reconcileNow,
  })
  const replica = openListReads(wiring, { prisma: requests.prisma, isIsolated })
  const { lists } = replica
  const customers = makeCustomerService({ ...requests, lists, vault, sync, settingsOf, clock: systemClock })
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
    customers,
    imports: makeImportService({ prisma: requests.prisma }),
    exports: makeExportService({ prisma: requests.prisma, customers }),
    wakeImports,
    noteWrite: lists.noteWrite,
    consents: makeConsentService({ db: requests.db, clock: systemClock }),
    personalExports: makePersonalExportService({ ...requests, vault, clock: systemClock }),
    retention: makeRetentionService({
      db: requests.db,
      customers,
      clock: systemClock,
      log,
      enqueue: () => producer.enqueueTask('retention-runs'),
    }),
    merges: makeMerges({
      db: requests.db,
      vault,
      customersOf: core.customersOf,
      timer: systemClock,
      random: Math.random,
      log,
      wake,
    }),
    orders: makeOrderService({ prisma: requests.prisma, vault, settingsOf, wake }),
    review: makeReviewService({ prisma: requests.prisma, vault }),
    audit: makeAuditService({ prisma: requests.prisma, vault }),
    history: makeHistoryService({ prisma: requests.prisma, vault }),
    sync,
    inbox: makeInbox({
      db: inboxDb,
      addressee: makeAddressees(inboxDb, systemClock),
      storeDelivery: makeDeliveryStore({ db: inboxDb, cipher: vault.cipher }),
      platformSecrets: core.webhookSecrets,
      ownSecretsOf: core.accounts.webhookSecretsOf,
      tolerance: config.webhookTolerance,
      clock: systemClock,
      metrics,
      log,
      wake: wakeDrain,
    }),
    runs: makeRunRequests({
      db: requests.db,
      enqueueRun: (runId) => producer.enqueueRun(runId),
      metrics,
      log,
    }),
    ...openTenantServices({
      prisma,
      requests: requests.prisma,
      cipher: core.vault.cipher,
      accounts: core.accounts,
      keys,
      onConnected: (tenant) => startRunsOf(core, tenant, 'api'),
    }),
    settingsOf,
    health: [...healthChecks(core, isIsolated), ...replica.checks],
    metrics,
    options: {
      version: VERSION,
      isIsolated,
      bodyLimit: config.bodyLimit,
      webhookBodyLimit: WEBHOOK_BODY_LIMIT,
      mostRequests: config.apiConcurrency,
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

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.')
}
