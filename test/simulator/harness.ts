import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import Stripe from 'stripe'
import type { Test } from 'tap'
import { ManualClock } from '../../src/lib/clock.js'
import { type SimulatorOptions, startSimulator } from '../../src/simulator/server.js'

export const start = Date.UTC(2026, 10, 20, 12)
export const second = 1000
export const hour = 3_600_000

/** A simulator with a manual clock and no delivery loop, and the SDK as its client; closed with the test. */
export async function simulate(t: Test, options: SimulatorOptions = {}) {
  const clock = new ManualClock(start)
  const simulator = await startSimulator({ clock, delivery: 'manual', ...options })
  t.teardown(() => simulator.close())
  const client = (key = 'sk_test_1', more: Stripe.StripeConfig = {}) =>
    new Stripe(key, {
      host: simulator.host,
      port: simulator.port,
      protocol: 'http',
      telemetry: false,
      maxNetworkRetries: 0,
      timeout: 2000,
      ...more,
    })
  /** Calls a switch; answers its JSON. */
  const control = async (method: string, path: string, body?: unknown) => {
    const response = await fetch(`${simulator.url}/_simulator${path}`, {
      method,
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    return { status: response.status, body: JSON.parse(await response.text()) }
  }
  /** A call without the SDK. */
  const raw = async (path: string, init: RequestInit = {}) => {
    const headers = { Authorization: 'Bearer sk_test_1', ...init.headers }
    const response = await fetch(simulator.url + path, { ...init, headers })
    return { status: response.status, headers: response.headers, body: JSON.parse(await response.text()) }
  }
  return { simulator, clock, controls: simulator.controls, stripe: client(), client, control, raw }
}

export interface Received {
  body: string
  headers: IncomingHttpHeaders
  event: Stripe.Event
}

/** A webhook receiver; `answers` are its next statuses, then 200. */
export async function receive(t: Test) {
  const received: Received[] = []
  const answers: number[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.setEncoding('utf8').on('data', (chunk) => {
      body += chunk
    })
    request.on('end', () => {
      received.push({ body, headers: request.headers, event: JSON.parse(body) })
      response.writeHead(answers.shift() ?? 200).end()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, received, answers }
}

/** Waits until a condition holds, by the machine's clock. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const giveUp = Date.now() + 10_000
  while (!condition()) {
    if (Date.now() > giveUp) throw new Error(`gave up waiting until ${what}`)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** The Stripe error that a call fails with. */
export async function errorOf(call: Promise<unknown>): Promise<Stripe.errors.StripeError> {
  try {
    await call
  } catch (error) {
    if (error instanceof Stripe.errors.StripeError) return error
    throw error
  }
  throw new Error('the call succeeded')
}

/** A repeatable source of numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
