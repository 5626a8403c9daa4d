import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import type { Test } from 'tap'
import { type App, type Roles, startApp } from '../../src/app.js'
import { loadConfig } from '../../src/config.js'
import { makeLifecycle } from '../../src/lib/lifecycle.js'
import type { TenantSettings } from '../../src/models/tenant.js'
import { type Simulator, startSimulator } from '../../src/simulator/server.js'
import { cloneDatabase } from './database.js'
import { mustBeDocumented } from './documented.js'
import { INBOX_IS_EMPTY } from './inbox.js'
import { testLog } from './log.js'
import { TEST_KEY } from './vault.js'
import { eventually } from './wait.js'

/** Where the queue of a test is. */
export type Backend = 'postgres' | 'redis'

/** The queue backends that can be tested here: Redis only where there is one. */
export const backends: Backend[] = process.env.TEST_REDIS_URL === undefined ? ['postgres'] : ['postgres', 'redis']

/** What the API answered. `body` is whatever JSON it was. */
export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape, and fail where it is another
  body: any
}

/** The real service against a real Postgres, a real queue and a simulator whose switches are at hand. */
export interface Service {
  app: App
  pool: pg.Pool
  simulator: Simulator
  webhookSecret: string
  adminKey: string
  api(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>
  /** Creates a customer and waits until it is in Stripe; answers its id here and there. */
  newCustomer(body: Record<string, unknown>): Promise<{ id: string; stripeId: string }>
  settings(settings: Partial<TenantSettings>): Promise<void>
  /** Waits until neither an event, a delivery nor a user waits. */
  quiet(): Promise<void>
  /** Starts a run by the API and waits for its end. */
  run(kind: 'sweep' | 'catch_up', dryRun?: boolean): Promise<Answer['body']>
  /** What Stripe has, oldest first. */
  stripeCustomers(): ReturnType<Simulator['controls']['dump']>['data']
  /** Starts a second process of the service, in all but the operating system's sense: nothing is shared but what is outside. */
  another(roles?: Roles): Promise<App>
  /** Stops the service and starts it with other variables, on the same database and simulator, as a deployment does. */
  restart(env: Record<string, string>): Promise<void>
  close(): Promise<void>
}

const WEBHOOK_SECRET = 'whsec_test_flows'

/** Starts all of it; closed at teardown. `roles` and `swept: false` are for tests about what comes before. */
export async function startService(
  t: Test,
  options: {
    backend?: Backend
    redisDb?: number
    roles?: Roles
    isSwept?: boolean
    env?: Record<string, string>
    /** Instead of one on the test server. */
    database?: { url: string; pool: pg.Pool }
  } = {},
): Promise<Service> {
  const { backend = 'postgres', roles = { api: true, worker: true }, isSwept = true } = options
  const { url, pool } = options.database ?? (await cloneDatabase(t))
  if (isSwept) await pool.query('update tenants set swept_at = now()')
  const simulator = await startSimulator({ retryDelaysMs: [50, 100, 200, 400, 800, 1_600] })
  const adminKey = randomBytes(24).toString('hex')
  const variables = {
    DATABASE_URL: url,
    ...(backend === 'redis' ? { REDIS_URL: redisUrl(options.redisDb ?? 0) } : {}),
    STRIPE_SECRET_KEY: 'sk_test_flows',
    STRIPE_WEBHOOK_SECRET: WEBHOOK_SECRET,
    STRIPE_API_BASE: simulator.url,
    LOCKSTEP_ADMIN_KEY: adminKey,
    LOCKSTEP_ENCRYPTION_KEY: TEST_KEY.toString('base64'),
    LOCKSTEP_CONCURRENCY: '8',
    LOCKSTEP_STRIPE_RATE: '500',
    PORT: '0',
    ...options.env,
  }
  const prefix = `test-${randomBytes(6).toString('hex')}`
  let lifecycle = makeLifecycle(() => {})
  const others: ReturnType<typeof makeLifecycle>[] = []
  const close = async () => {
    for (const other of others) await other.close()
    await lifecycle.close()
    await simulator.close()
  }
  t.teardown(close)
  const newLifecycle = () => makeLifecycle((name, error) => t.comment(`could not close ${name}: ${String(error)}`))
  async function start(env: Record<string, string>): Promise<App> {
    lifecycle = newLifecycle()
    const config = loadConfig({ ...variables, ...env })
    const started = await startApp({ config, log: testLog, lifecycle, roles, prefix })
    simulator.controls.changeSettings({ webhookUrl: `${started.apiUrl}/webhooks/stripe` })
    return started
  }
  simulator.controls.changeSettings({ webhookSecret: WEBHOOK_SECRET })
  let app = await start({})

  async function api(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer> {
    const response = await fetch(`${app.apiUrl}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${adminKey}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    const contentType = response.headers.get('content-type')
    if (app.apiUrl !== null) {
      await mustBeDocumented(app.apiUrl, {
        method,
        path,
        status: response.status,
        contentType,
        headers: response.headers,
        text,
      })
    }
    return { status: response.status, headers: response.headers, body: text.startsWith('{') ? JSON.parse(text) : text }
  }

  async function isQuiet(): Promise<boolean> {
    if (simulator.controls.summary().pendingDeliveries > 0) return false
    const { rows } = await pool.query<{ busy: boolean }>(
      `select not (${INBOX_IS_EMPTY})
           or exists (select from sync_state where dirty and status <> 'failed')
           or exists (select from reconciliations where status in ('queued', 'running')) as busy`,
    )
    return rows[0]?.busy === false
  }

  return {
    get app() {
      return app
    },
    pool,
    simulator,
    webhookSecret: WEBHOOK_SECRET,
    adminKey,
    api,
    async newCustomer(body) {
      const { status, body: customer } = await api('POST', '/customers', body, { prefer: 'wait=10' })
      if (status !== 201) throw new Error(`POST /customers answered ${status}: ${JSON.stringify(customer)}`)
      return { id: customer.id, stripeId: customer.stripeCustomerId }
    },
    async settings(settings) {
      await pool.query(`update tenants set settings = settings || $1::jsonb`, [JSON.stringify(settings)])
    },
    quiet: async () => {
      await eventually(isQuiet, { timeout: 60_000, what: 'quiet' })
    },
    async run(kind, dryRun = false) {
      const { body } = await api('POST', '/reconciliations', { kind, dryRun })
      return eventually(
        async () => {
          const { body: run } = await api('GET', `/reconciliations/${body.id}`)
          return ['succeeded', 'failed'].includes(run.status) ? run : null
        },
        { timeout: 30_000, what: `the end of the ${kind}` },
      )
    },
    async another(roles = { api: true, worker: true }) {
      const own = newLifecycle()
      others.push(own)
      return startApp({ config: loadConfig(variables), log: testLog, lifecycle: own, roles, prefix })
    },
    stripeCustomers: () => simulator.controls.dump({ limit: 10_000 }).data,
    async restart(env) {
      await lifecycle.close()
      app = await start(env)
    },
    close,
  }
}

function redisUrl(db: number): string {
  const url = new URL(process.env.TEST_REDIS_URL ?? '')
  if (db !== 0) url.pathname = `/${db}`
  return url.href
}
