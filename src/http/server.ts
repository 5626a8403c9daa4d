import { randomUUID } from 'node:crypto'
import { registerAjvFormats } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyBaseLogger, type FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { Settings } from 'typebox/system'
import { type Credentials, guard } from '../access/authenticate.js'
import type { ApiKeys } from '../access/keys.js'
import type { RequestLimits } from '../access/request-limits.js'
import { makeGate } from '../lib/gate.js'
import type { TenantSettings } from '../models/tenant.js'
import { apiKeyRoutes } from '../routes/api-keys.js'
import { auditRoutes } from '../routes/audit.js'
import { type ConflictResolver, conflictRoutes } from '../routes/conflicts.js'
import { consentRoutes } from '../routes/consents.js'
import { customerExportRoutes } from '../routes/customer-export.js'
import { customerSyncRoutes, type SyncQueries } from '../routes/customer-sync.js'
import { customerRoutes } from '../routes/customers.js'
import { type DuplicateResolver, duplicateRoutes } from '../routes/duplicates.js'
import { type EventReplay, eventRoutes } from '../routes/events.js'
import { importRoutes } from '../routes/imports.js'
import { type MergeRequests, mergeRoutes } from '../routes/merges.js'
import { orderRoutes } from '../routes/orders.js'
import { personalExportRoutes } from '../routes/personal-exports.js'
import { type Runs, reconciliationRoutes } from '../routes/reconciliations.js'
import { retentionRoutes } from '../routes/retention-runs.js'
import { tenantRoutes } from '../routes/tenant.js'
import { tenantsRoutes } from '../routes/tenants.js'
import { type Inbox, webhookRoutes } from '../routes/webhooks.js'
import type { AuditService } from '../services/audit.service.js'
import type { ConsentService } from '../services/consent.service.js'
import type { CustomerService } from '../services/customer.service.js'
import type { ExportService } from '../services/export.service.js'
import type { HistoryService } from '../services/history.service.js'
import type { ImportService } from '../services/import.service.js'
import type { OrderService } from '../services/order.service.js'
import type { PersonalExportService } from '../services/personal-export.service.js'
import type { RetentionService } from '../services/retention.service.js'
import type { ReviewService } from '../services/review.service.js'
import type { TenantServices } from '../services/tenants.js'
import { admit } from './admission.js'
import { type HealthCheck, healthRoutes } from './health.js'
import { parseJson, refuseLostBodies } from './json-bodies.js'
import { logRequests, makeLogController, redacting } from './logging.js'
import { type HttpMetrics, serveMetrics } from './metrics.js'
import { DOCS_PATH, serveDocs } from './openapi.js'
import { answerBrokenRequests, answerProblems, sendProblem } from './problem.js'
import { collectRoutes } from './route-table.js'
import { limitSlowBodies } from './uploads.js'
import { compileValidator, MAX_FIELD_ERRORS } from './validation.js'

export interface ServerDeps extends TenantServices {
  log: Logger
  keys: ApiKeys
  credentials: Credentials
  limits: RequestLimits
  customers: CustomerService
  orders: OrderService
  imports: ImportService
  exports: ExportService
  /** Tells the worker of this process that there is an import. */
  wakeImports(): void
  /** A request that may have written is done with, and its answer goes out next. */
  noteWrite(tenantId: string): void
  review: ReviewService
  audit: AuditService
  history: HistoryService
  sync: SyncQueries & EventReplay & ConflictResolver & DuplicateResolver
  consents: ConsentService
  personalExports: PersonalExportService
  retention: Pick<RetentionService, 'start' | 'get' | 'list'>
  merges: MergeRequests
  inbox: Inbox
  runs: Runs
  settingsOf(tenantId: string): Promise<TenantSettings>
  health: readonly HealthCheck[]
  metrics: HttpMetrics
  options: ServerOptions
}

export interface ServerOptions {
  /** As `/health` and the OpenAPI document name it. */
  version: string
  /** The longest JSON body, in bytes. */
  bodyLimit: number
  /** The longest webhook body, in bytes. */
  webhookBodyLimit: number
  /** Requests under way at a time; more are answered 503. */
  mostRequests: number
  /** The largest file to import, in bytes. */
  importLimit: number
  /** Whether the database is asked by a pool that has to be told for which tenant; see `asTenant`. */
  isIsolated: boolean
  /** Whether `/metrics` needs no key: only where nobody but this machine can reach it. */
  openMetrics: boolean
  /** Addresses of the proxies in front whose `X-Forwarded-For` is believed; false when there is none. */
  trustProxy: string | false
}

/**
 * Stripe's deliveries under way in one process. A group commit stores some thousands a second, so that the last one has its answer in about
 * two, well before Stripe's patience ends; what is turned away Stripe delivers again.
 */
const DELIVERIES = { most: 5_000, mostBytes: 64 * 1024 * 1024 }

/**
 * What keeps a browser from taking an answer of the API for a page, or from showing it in one
 * (cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html). The documentation, which is a page, has its own instead.
 */
const GUARDS = Object.entries({
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'strict-transport-security': 'max-age=31536000; includeSubDomains',
})

/** How long a client may take to send its whole request, in milliseconds. */
const REQUEST_TIMEOUT = 30_000
/** The same for a file. */
const UPLOAD_TIMEOUT = 3_600_000

/**
 * The HTTP API, ready to `listen`. Closing it (`close()`) answers what is under way, ends waits (`Prefer: wait`) at once, and
 * takes nothing new.
 *
 * @throws when a route declares no permission.
 */
export async function buildServer(deps: ServerDeps): Promise<FastifyInstance> {
  const {
    log,
    keys,
    credentials,
    limits,
    customers,
    orders,
    imports,
    exports,
    review,
    audit,
    history,
    sync,
    consents,
    personalExports,
    retention,
    merges,
    inbox,
    runs,
    settingsOf,
    health,
    metrics,
    options,
    tenants,
    tenantStripe,
    ownStripe,
    tenantSettings,
  } = deps
  Settings.Set({ maxErrors: MAX_FIELD_ERRORS })
  registerAjvFormats()

  const app: FastifyInstance = Fastify({
    loggerInstance: redacting(log) as FastifyBaseLogger,
    logController: makeLogController(),
    genReqId: () => randomUUID(),
    bodyLimit: options.bodyLimit,
    trustProxy: options.trustProxy,
    requestTimeout: UPLOAD_TIMEOUT,
    http: { headersTimeout: REQUEST_TIMEOUT },
    frameworkErrors: sendProblem,
    clientErrorHandler: answerBrokenRequests,
  })
  app.setValidatorCompiler(compileValidator)

  const closing = new AbortController()
  app.addHook('preClose', async () => closing.abort())
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id)
    for (const [name, value] of GUARDS) reply.raw.setHeader(name, value)
    done()
  })
  // What is answered while closing was under way before: its connection must not stay open for a next request.
  app.addHook('onSend', (_request, reply, _payload, done) => {
    if (closing.signal.aborted) reply.header('connection', 'close')
    done()
  })

  admit(app, { most: options.mostRequests, shed: metrics.shed })
  limitSlowBodies(app, REQUEST_TIMEOUT)
  guard(app, { credentials, limits, openPaths: [DOCS_PATH], isIsolated: options.isIsolated })
  answerProblems(app, collectRoutes(app).methodsOf)
  logRequests(app)
  parseJson(app)
  refuseLostBodies(app)
  noteWrites(app, deps.noteWrite)
  await serveDocs(app, options.version)
  serveMetrics(app, metrics, options.openMetrics)

  await app.register(healthRoutes, {
    checks: health,
    version: options.version,
    isClosing: () => closing.signal.aborted,
  })
  await app.register(customerRoutes, { customers, sync, closing: closing.signal })
  await app.register(customerExportRoutes, { exports, closing: closing.signal })
  await app.register(importRoutes, { imports, limit: options.importLimit, onQueued: deps.wakeImports })
  await app.register(orderRoutes, { orders })
  await app.register(auditRoutes, { audit, history })
  await app.register(customerSyncRoutes, { sync, settingsOf, closing: closing.signal })
  await app.register(reconciliationRoutes, { runs })
  await app.register(eventRoutes, { review, sync })
  await app.register(conflictRoutes, { review, sync })
  await app.register(duplicateRoutes, { review, sync, merges })
  await app.register(mergeRoutes, { merges })
  await app.register(consentRoutes, { consents })
  await app.register(personalExportRoutes, { exports: personalExports })
  await app.register(retentionRoutes, { retention })
  await app.register(apiKeyRoutes, { keys })
  await app.register(tenantRoutes, { ownStripe, tenantSettings })
  await app.register(tenantsRoutes, { tenants, tenantStripe })
  await app.register(webhookRoutes, {
    inbox,
    bodyLimit: options.webhookBodyLimit,
    gate: makeGate({ ...DELIVERIES, onShed: () => metrics.shed.inc({ part: 'webhook' }) }),
  })
  return app
}

/** Tells of each request that may have written before its answer goes out. */
function noteWrites(app: FastifyInstance, note: (tenantId: string) => void): void {
  app.addHook('onSend', (request, _reply, _payload, done) => {
    const { method, principal } = request
    if (principal !== null && method !== 'GET' && method !== 'HEAD') note(principal.tenantId)
    done()
  })
}
