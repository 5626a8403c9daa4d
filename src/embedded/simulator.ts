import { join } from 'node:path'
import type { BaseLogger } from 'pino'
import { LockstepError } from '../lib/errors.js'
import { startSimulator } from '../simulator/server.js'
import { loadOrCreateSecret, randomSecret } from './secrets.js'

/** Waits between deliveries that failed, in milliseconds: short, since here a receiver that is down is being restarted. */
const RETRY_DELAYS_MS = [1_000, 3_000, 10_000, 30_000, 60_000, 300_000, 1_800_000]
/** Calls per second that the simulator takes, as a live Stripe account does (docs.stripe.com/rate-limits). */
const RATE_LIMIT = 100

/** A simulator to work against: our own, or one that another process of this data directory runs already. */
export interface EmbeddedSimulator {
  url: string
  webhookSecret: string
  close(): Promise<void>
}

/** The webhook secret of this data directory's simulator. */
export async function simulatorSecret(dataDir: string): Promise<string> {
  const { value } = await loadOrCreateSecret(dataDir, 'simulator-webhook', () => `whsec_${randomSecret(24)}`)
  return value
}

/**
 * Brings up the simulator on its port, or uses the one that answers there. Its state is in the data directory, written
 * before each answer, so it survives whatever this process does not.
 *
 * @param webhookUrl where it delivers events; null leaves that as it is
 * @throws {LockstepError} `simulator_port_taken` when something else has the port.
 */
export async function openSimulator(options: {
  dataDir: string
  port: number
  webhookUrl: string | null
  webhookSecret: string
  log: BaseLogger
}): Promise<EmbeddedSimulator> {
  const { dataDir, port, webhookUrl, webhookSecret, log } = options
  const url = `http://127.0.0.1:${port}`
  const settings = webhookUrl === null ? null : { webhookUrl, webhookSecret }
  if (await answers(url)) {
    if (settings !== null) await put(`${url}/_simulator/settings`, settings)
    return { url, webhookSecret, close: async () => {} }
  }
  try {
    const simulator = await startSimulator({
      port,
      dataDir: join(dataDir, 'simulator'),
      retryDelaysMs: RETRY_DELAYS_MS,
      rateLimit: RATE_LIMIT,
      log: (message, detail) => log.debug({ detail }, `simulator: ${message}`),
      ...(settings ?? {}),
    })
    return { url: simulator.url, webhookSecret, close: () => simulator.close() }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
    throw new LockstepError(
      `Port ${port} is taken by something that is not a Stripe simulator. Set LOCKSTEP_SIMULATOR_PORT to a free port.`,
      { code: 'simulator_port_taken', cause: error },
    )
  }
}

async function answers(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/_simulator/clock`, { signal: AbortSignal.timeout(2_000) })
    return response.ok
  } catch {
    return false
  }
}

async function put(url: string, body: unknown): Promise<void> {
  const response = await fetch(url, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  if (!response.ok)
    throw new LockstepError(`The simulator at ${url} answered ${response.status}.`, { code: 'simulator_refused' })
}
