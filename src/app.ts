import type { Logger } from 'pino'
import { startFirstRuns } from './app/first-runs.js'
import { setGauges } from './app/health.js'
import type { Services, Wiring } from './app/services.js'
import { type Loops, makeRetention, startImporting, startLoops, startWorkers } from './app/workers.js'
import type { Config } from './config.js'
import { type Core, openCore } from './core.js'
import type { Lifecycle } from './lib/lifecycle.js'

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
  const prefix = options.prefix === undefined ? {} : { prefix: options.prefix }
  let loops: Loops | null = null
  const wake = () => loops?.wakeAll()
  const webhookUrl = roles.api ? `http://${reachable(config.host)}:${config.port}/webhooks/stripe` : null
  const core: Core = await openCore({
    config,
    log,
    lifecycle,
    webhookUrl,
    wake,
    ...prefix,
    collect: (metrics) => setGauges(core, metrics),
  })

  const wiring: Wiring = { core, config, log, lifecycle, wake, ...prefix }
  // Before anything here uses the tables, which this locks.
  const isIsolated = roles.api && (await (await import('./app/row-security.js')).isolate(wiring))
  const services = lazyServices(wiring)
  const retention = makeRetention(wiring, services)
  if (roles.worker) startWorkers(wiring, { retention, wakeRelay: () => loops?.wakeRelay() })
  loops = startLoops(wiring, { isWorker: roles.worker })
  const importing = roles.worker ? startImporting(wiring, services) : null
  const wakeImports = () => importing?.wake()
  const { wakeDrain } = loops
  const api = roles.api
    ? await (await import('./app/api.js')).startApi(wiring, await services(), {
        isIsolated,
        wakeImports,
        wakeDrain,
      })
    : null
  if (roles.worker) await startFirstRuns(core)
  return { apiUrl: api?.url ?? null, simulatorUrl: core.simulatorUrl, newAdminKey: api?.newAdminKey ?? null }
}

/** Opens services when they are first asked for: they stand on Prisma, which takes 50 MB, and a worker seldom needs them. */
function lazyServices(wiring: Wiring): () => Promise<Services> {
  let opened: Promise<Services> | null = null
  // Registered before what uses them, so that it is closed after that.
  wiring.lifecycle.onClose('prisma', async () => (await opened)?.prisma.$disconnect())
  return () => {
    opened ??= import('./app/services.js').then(({ openServices }) => openServices(wiring))
    return opened
  }
}

function reachable(host: string): string {
  return host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
}
