import type { Logger } from 'pino'
import { startApi } from './app/api.js'
import { startFirstRuns } from './app/first-runs.js'
import { setGauges } from './app/health.js'
import { isolate } from './app/row-security.js'
import { openServices, type Wiring } from './app/services.js'
import { type Loops, startImporting, startLoops, startWorkers } from './app/workers.js'
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
  const isIsolated = roles.api && (await isolate(wiring))
  const services = openServices(wiring)
  if (roles.worker) startWorkers(wiring, services)
  loops = startLoops(wiring, { isWorker: roles.worker })
  const importing = roles.worker ? startImporting(wiring, services) : null
  const wakeImports = () => importing?.wake()
  const api = roles.api
    ? await startApi(wiring, services, { isIsolated, wakeImports, wakeDrain: loops.wakeDrain })
    : null
  if (roles.worker) await startFirstRuns(core)
  return { apiUrl: api?.url ?? null, simulatorUrl: core.simulatorUrl, newAdminKey: api?.newAdminKey ?? null }
}

function reachable(host: string): string {
  return host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
}
