import { randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type pg from 'pg'
import type { Logger } from 'pino'
import { Counter, Histogram, Registry } from 'prom-client'
import type { Test } from 'tap'
import { makeApiKeys } from '../../src/access/keys.js'
import { makeRequestLimits } from '../../src/access/request-limits.js'
import { buildServer, type ServerDeps } from '../../src/http/server.js'
import { makeCipher } from '../../src/lib/cipher.js'
import { systemClock } from '../../src/lib/clock.js'
import { NotFoundError } from '../../src/lib/errors.js'
import { newId } from '../../src/lib/ids.js'
import { makeMetrics } from '../../src/lib/metrics.js'
import type { ReconciliationSource } from '../../src/models/dtos/reconciliation.dto.js'
import type { ConflictSource } from '../../src/models/dtos/review.dto.js'
import type { Role } from '../../src/models/roles.js'
import { DEFAULT_SETTINGS, type TenantSettings } from '../../src/models/tenant.js'
import { makeDb } from '../../src/repositories/database.js'
import type { PrismaClient } from '../../src/repositories/generated/client.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { findConflict, findConflictsOfUser, resolveConflictRow } from '../../src/repositories/sync-conflicts.js'
import { findState } from '../../src/repositories/sync-states.js'
import { findUser } from '../../src/repositories/users.js'
import { makeAuditService } from '../../src/services/audit.service.js'
import { makeConsentService } from '../../src/services/consent.service.js'
import { makeCustomerService } from '../../src/services/customer.service.js'
import { makeExportService } from '../../src/services/export.service.js'
import { makeHistoryService } from '../../src/services/history.service.js'
import { makeImportService } from '../../src/services/import.service.js'
import { makeOrderService } from '../../src/services/order.service.js'
import { makePersonalExportService } from '../../src/services/personal-export.service.js'
import { makeRetentionService } from '../../src/services/retention.service.js'
import { makeReviewService } from '../../src/services/review.service.js'
import { openTenantServices } from '../../src/services/tenants.js'
import { makeStripeAccounts } from '../../src/stripe/accounts.js'
import { makeMerges } from '../../src/sync/merges.js'
import { resolveDuplicate } from '../../src/sync/resolve-duplicate.js'
import { cloneDatabase } from './database.js'
import { mustBeDocumented } from './documented.js'
import { testLog } from './log.js'
import { testVault } from './vault.js'
import { eventually } from './wait.js'

/** An answer, its body parsed when it is JSON. */
export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: tests look into any answer.
  body: any
}

export interface CallOptions {
  body?: unknown
  /** Null: none. Absent: the admin's. */
  key?: string | null
  headers?: Record<string, string>
}

/** The API over HTTP on a database of the test's own; what the sync does is stood in for. */
export interface TestApi {
  app: FastifyInstance
  url: string
  pool: pg.Pool
  prisma: PrismaClient
  tenantId: string
  otherTenantId: string
  keys: Record<Role | 'other', string>
  settings: TenantSettings
  /** What the stand-ins were asked, such as `wake` or `reattach <id>`. */
  asked: string[]
  /** What the inbox answers next. */
  inbox: {
    next: Awaited<ReturnType<ServerDeps['inbox']['accept']>>
    got: Parameters<ServerDeps['inbox']['accept']>[0][]
  }
  call(method: string, path: string, options?: CallOptions): Promise<Answer>
  /** Marks the user as agreed on both sides, as a reconcile does. */
  settle(userId: string): Promise<void>
  /** Every row, or every one of a tenant, of the tables that a request could change, to prove that it did not. */
  snapshot(ownerId?: string): Promise<string>
}

/** Starts it; it is closed with the test. `change` may replace any dependency. */
export async function openApi(
  t: Test,
  change: (deps: ServerDeps) => Partial<ServerDeps> = () => ({}),
  log: Logger = testLog,
): Promise<TestApi> {
  const { pool } = await cloneDatabase(t)
  const prisma = openPrisma(pool)
  const db = makeDb(pool)
  const vault = testVault()
  const tenantId = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string
  const otherTenantId = newId()
  await pool.query("insert into tenants (id, slug, name) values ($1, 'other', 'Other')", [otherTenantId])

  const apiKeys = makeApiKeys({ prisma, clock: systemClock })
  const makeKey = async (role: Role, owner = tenantId) =>
    (await apiKeys.create({ tenantId: owner, actor: 'test', requestId: null, ip: null }, { name: role, role })).key
  const keys = {
    admin: await makeKey('admin'),
    manager: await makeKey('manager'),
    viewer: await makeKey('viewer'),
    operator: await makeKey('operator'),
    other: await makeKey('admin', otherTenantId),
  }

  const cipher = makeCipher([randomBytes(32)])
  const limiter = { take: async () => {}, slow: async () => {} }
  // Nobody listens there: what asks Stripe is tested with a simulator.
  const accounts = makeStripeAccounts({
    platformKey: 'sk_test_platform',
    apiBase: 'http://127.0.0.1:1',
    cipher,
    limiters: { live: limiter, test: limiter },
    metrics: makeMetrics(),
  })
  const asked: string[] = []
  const inbox: TestApi['inbox'] = { next: { outcome: 'stored', eventId: 'evt_1' }, got: [] }
  const settings: TenantSettings = { ...DEFAULT_SETTINGS }
  const settingsOf = async () => settings
  const settle = async (userId: string) => {
    await pool.query(
      `update sync_state set status = 'in_sync', synced_revision = local_revision, remote_synced_revision = remote_revision,
         needs_fetch = false, dirty_since = null, synced_at = now() where user_id = $1`,
      [userId],
    )
  }
  const isSettled = async (id: string) =>
    (await pool.query('select 1 from sync_state where user_id = $1 and not dirty', [id])).rows.length === 1
  const runs: (ReconciliationSource & { tenantId: string })[] = []
  const customerSync = {
    wake: () => asked.push('wake'),
    async reattach(_tenantId: string, userId: string) {
      asked.push(`reattach ${userId}`)
      await pool.query("update sync_state set status = 'pending' where user_id = $1", [userId])
    },
  }
  const customers = makeCustomerService({ prisma, db, vault, sync: customerSync, settingsOf, clock: systemClock })
  const deps: ServerDeps = {
    log,
    keys: apiKeys,
    credentials: apiKeys,
    limits: makeRequestLimits({ perMinute: 100_000, redis: null }),
    customers,
    imports: makeImportService({ prisma }),
    exports: makeExportService({ prisma, customers }),
    wakeImports: () => asked.push('imports'),
    noteWrite: () => {},
    consents: makeConsentService({ db, clock: systemClock }),
    personalExports: makePersonalExportService({ db, vault, prisma, clock: systemClock }),
    retention: makeRetentionService({
      db,
      customers,
      clock: systemClock,
      log,
      enqueue: async () => {
        asked.push('retention')
      },
    }),
    merges: makeMerges({
      db,
      vault,
      customersOf() {
        throw new Error('There is no Stripe here.')
      },
      timer: systemClock,
      random: Math.random,
      log,
      wake: customerSync.wake,
    }),
    orders: makeOrderService({ prisma, vault, settingsOf, wake: customerSync.wake }),
    review: makeReviewService({ prisma, vault }),
    audit: makeAuditService({ prisma, vault }),
    history: makeHistoryService({ prisma, vault }),
    sync: {
      ...customerSync,
      async getSync(owner, userId) {
        const [user, state, conflicts] = await Promise.all([
          findUser(db, owner, userId),
          findState(db, owner, userId),
          findConflictsOfUser(db, vault, owner, userId),
        ])
        return user === null || state === null ? null : { user, state, conflicts }
      },
      async markForSync(owner, userId) {
        asked.push(`mark ${userId}`)
        const { rowCount } = await pool.query(
          'update sync_state set needs_fetch = true where tenant_id = $1 and user_id = $2',
          [owner, userId],
        )
        return rowCount === 1
      },
      async waitUntilSettled(_tenantId, userId, timeout, signal) {
        asked.push(`wait ${timeout}`)
        const stop = Date.now() + timeout
        const done = () => Date.now() >= stop || signal?.aborted === true
        await eventually(async () => done() || (await isSettled(userId)), { timeout: timeout + 5_000 })
        return (await isSettled(userId)) ? 'settled' : 'timeout'
      },
      async replayEvent(owner, id) {
        asked.push(`replay ${id}`)
        const { rowCount } = await pool.query(
          "update stripe_events set status = 'pending' where tenant_id = $1 and id = $2",
          [owner, id],
        )
        if (rowCount !== 1) throw new NotFoundError('event', id)
      },
      resolveDuplicate: (owner, id, decision, by) =>
        db.transaction((tx) => resolveDuplicate(tx, owner, id, decision, by)),
      async resolveConflict(owner, id, winner, by) {
        await resolveConflictRow(db, owner, id, winner, by.actor)
        const row = await findConflict(db, vault, owner, id)
        if (row === null) throw new NotFoundError('conflict', id)
        return row satisfies ConflictSource
      },
    },
    inbox: {
      async accept(input) {
        inbox.got.push(input)
        return inbox.next
      },
      refuseUnread: (reason) => asked.push(`refuse ${reason}`),
    },
    runs: {
      async start({ tenantId: owner, by: _by, ...input }) {
        const run = {
          ...input,
          tenantId: owner,
          id: newId(),
          status: 'queued' as const,
          progress: {},
          counts: {},
          error: null,
          createdAt: new Date(),
          startedAt: null,
          finishedAt: null,
        }
        runs.unshift(run)
        return run
      },
      get: async (owner, id) => runs.find((run) => run.tenantId === owner && run.id === id) ?? null,
      list: async (owner, { limit }) => ({
        data: runs.filter((run) => run.tenantId === owner).slice(0, limit),
        nextCursor: null,
        hasMore: false,
      }),
    },
    ...openTenantServices({
      prisma,
      requests: prisma,
      cipher,
      accounts,
      keys: apiKeys,
      onConnected: async (tenant) => void asked.push(`connected ${tenant.id}`),
    }),
    settingsOf,
    health: [],
    metrics: testMetrics(),
    options: {
      version: '0.0.0-test',
      bodyLimit: 65_536,
      webhookBodyLimit: 100_000,
      importLimit: 1_000_000,
      mostRequests: 200,
      isIsolated: false,
      openMetrics: false,
      trustProxy: false,
    },
  }
  const app = await buildServer({ ...deps, ...change(deps) })
  t.teardown(() => app.close())
  const url = await app.listen({ port: 0, host: '127.0.0.1' })

  return {
    app,
    url,
    pool,
    prisma,
    tenantId,
    otherTenantId,
    keys,
    settings,
    asked,
    inbox,
    settle,
    call: (method, path, options = {}) => call(url, keys.admin, method, path, options),
    async snapshot(ownerId) {
      const tables = [
        'users',
        'sync_state',
        'audit_log',
        'idempotency_keys',
        'delivery_batches',
        'stripe_events',
        'sync_conflicts',
        'orders',
        'order_attendees',
        'tenants',
        'imports',
        'import_chunks',
        'consent_changes',
        'customer_state_changes',
        'customer_merges',
        'duplicate_customers',
        'retention_runs',
        'reconciliations',
        'stripe_links',
        'person_keys',
        'api_keys',
      ]
      const rows = await Promise.all(
        tables.map(
          async (table) =>
            // When a key was last used is written whatever it may do.
            (await pool.query(`select to_jsonb(x) - 'last_used_at' as row from ${table} x order by 1`)).rows,
        ),
      )
      const isMeant = ({ row }: { row: Record<string, unknown> }, table: string | undefined) =>
        ownerId === undefined || row[table === 'tenants' ? 'id' : 'tenant_id'] === ownerId
      return JSON.stringify(rows.map((some, index) => some.filter((row) => isMeant(row, tables[index]))))
    },
  }
}

/** What the server measures with, on a registry of its own. */
export function testMetrics(): ServerDeps['metrics'] {
  const registry = new Registry()
  const httpDuration = new Histogram({
    name: 'lockstep_http_request_duration_seconds',
    help: 'Time to answer.',
    labelNames: ['method', 'route', 'status'] as const,
    registers: [registry],
  })
  const shed = new Counter({
    name: 'lockstep_requests_shed_total',
    help: 'Requests turned away.',
    labelNames: ['part'] as const,
    registers: [registry],
  })
  return { registry, httpDuration, shed }
}

async function call(
  url: string,
  adminKey: string,
  method: string,
  path: string,
  { body, key = adminKey, headers = {} }: CallOptions,
): Promise<Answer> {
  const raw = typeof body === 'string' || body instanceof Uint8Array
  const response = await fetch(`${url}${path}`, {
    method,
    headers: {
      ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: raw ? (body as string | Uint8Array) : JSON.stringify(body) }),
  })
  const text = await response.text()
  const contentType = response.headers.get('content-type')
  await mustBeDocumented(url, { method, path, status: response.status, contentType, headers: response.headers, text })
  const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '')
  return { status: response.status, headers: response.headers, body: isJson && text !== '' ? JSON.parse(text) : text }
}

/** Checks that the answer is a problem of this kind that names these fields. */
export function isProblem(t: Test, answer: Answer, status: number, code: string, ...fields: string[]): void {
  t.equal(answer.status, status, `status of ${JSON.stringify(answer.body)}`)
  t.match(answer.headers.get('content-type'), /^application\/problem\+json/)
  t.equal(answer.body.code, code)
  t.equal(answer.body.status, status)
  t.equal(answer.body.requestId, answer.headers.get('x-request-id'))
  for (const field of fields) {
    t.ok(
      answer.body.errors?.some((error: { path: string }) => error.path === field),
      `names ${field}: ${JSON.stringify(answer.body.errors)}`,
    )
  }
}
