import { startSimulator } from '../simulator/server.js'

/** The flags of `lockstep simulator`. */
export interface SimulatorFlags {
  port: number
  host: string
  customers: number
  createdSpan?: number
  latency: number
  rateLimit?: number
  webhookUrl?: string
  webhookSecret?: string
  dataDir?: string
}

/**
 * `lockstep simulator`: a Stripe of its own process, until it is told to stop.
 *
 * @param onStop is given what to do then
 */
export async function runSimulator(flags: SimulatorFlags, onStop: (close: () => Promise<void>) => void): Promise<void> {
  const { createdSpan, rateLimit, webhookUrl, webhookSecret, dataDir } = flags
  const simulator = await startSimulator({
    port: flags.port,
    host: flags.host,
    customers: flags.customers,
    latencyMs: flags.latency,
    ...(createdSpan === undefined ? {} : { createdSpanSeconds: createdSpan }),
    ...(rateLimit === undefined ? {} : { rateLimit }),
    ...(webhookUrl === undefined ? {} : { webhookUrl }),
    ...(webhookSecret === undefined ? {} : { webhookSecret }),
    ...(dataDir === undefined ? {} : { dataDir }),
  })
  onStop(() => simulator.close())
  process.stdout.write(
    `Stripe simulator at ${simulator.url}, with ${flags.customers} customers.\n` +
      `Its switches: ${simulator.url}/_simulator\n` +
      `Use it: STRIPE_SECRET_KEY=sk_test_simulator STRIPE_API_BASE=${simulator.url}\n`,
  )
}
