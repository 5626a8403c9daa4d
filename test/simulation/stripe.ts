import Stripe from 'stripe'
import type { ApiAnswer, Call } from '../../src/simulator/api.js'
import type { SimulatorCore } from '../../src/simulator/core.js'
import type { FaultKind } from '../../src/simulator/faults.js'
import { CALL_TIMEOUT_MS } from '../../src/stripe/account.js'
import type { Scheduler } from './scheduler.js'

/** A request on its way to Stripe, at Stripe, or answered. It lives on when the process that sent it dies. */
export interface Sent {
  label: string
  sentAt: number
  /** Set when it has arrived; from then its idempotency key is in flight. */
  call: Call | null
  answer: ApiAnswer | null
}

/** The network between the workers and Stripe: what was sent arrives, is carried out and is answered when the world says so. */
export interface Network {
  /** Requests without an answer yet. */
  pending(): Sent[]
  /** Takes a request one step on: it arrives, or it is carried out. */
  advance(request: Sent): void
  /** The next request to arrive suffers this. */
  nextFault(kind: FaultKind): void
  /** Forgets the faults that no request has met yet. */
  calmDown(): void
  fetch: typeof fetch
}

/**
 * Makes the network. The client waits for an answer for as long as the real one does, by the world's clock; a request that
 * it gave up on goes its way all the same.
 *
 * @param isQuick whether the whole exchange happens at once, as it mostly does
 */
export function makeNetwork(options: {
  core: SimulatorCore
  scheduler: Scheduler
  now(): number
  isQuick(): boolean
}): Network {
  const { core, scheduler, now } = options
  const requests = new Set<Sent>()
  const planned: FaultKind[] = []

  function advance(request: Sent, raw: Parameters<SimulatorCore['begin']>[0]): void {
    if (request.call === null) {
      // A list in the wrong mode is another account's, and empty: nobody could tell. A key is of one mode all the time.
      const isList = raw.method === 'GET' && !raw.url.includes('/customers/')
      const [kind] = planned[0] === 'wrong_mode' && isList ? [] : planned.splice(0, 1)
      const rule = kind === undefined ? undefined : core.controls.faults.add({ kind, times: 1 })
      request.call = core.begin(raw)
      if (rule !== undefined) core.controls.faults.remove(rule.id)
      return
    }
    request.answer = request.call.finish()
    requests.delete(request)
  }
  const steps = new WeakMap<Sent, () => void>()

  return {
    pending: () => [...requests],
    advance: (request) => steps.get(request)?.(),
    nextFault: (kind) => {
      planned.push(kind)
    },
    calmDown: () => {
      planned.length = 0
    },
    fetch: async (input, init) => {
      const incoming = new Request(input, init)
      const { pathname, search } = new URL(incoming.url)
      const raw = {
        method: incoming.method,
        url: `${pathname}${search}`,
        headers: Object.fromEntries(incoming.headers),
        body: await incoming.text(),
      }
      const label = `${raw.method} ${pathname}`
      if ((await scheduler.point('stripe', label)) !== 'go') throw broken('ENETRESET')
      const request: Sent = { label, sentAt: now(), call: null, answer: null }
      requests.add(request)
      steps.set(request, () => advance(request, raw))
      if (options.isQuick()) {
        advance(request, raw)
        advance(request, raw)
      } else {
        await scheduler.point(
          'wait',
          `answer to ${label}`,
          () => request.answer !== null || now() - request.sentAt >= CALL_TIMEOUT_MS,
        )
      }
      const { answer } = request
      if (answer === null) throw broken('ETIMEDOUT')
      // Neither ECONNRESET nor EPIPE, after which the SDK itself would send again, at a time of its own.
      if (answer.transport === 'reset' || answer.transport === 'truncate') throw broken('ENETRESET')
      if (answer.transport === 'timeout') throw broken('ETIMEDOUT')
      return new Response(answer.body, { status: answer.status, headers: answer.headers })
    },
  }
}

/** The SDK over this network, as one process has it. */
export function stripeOver(network: Network): Stripe {
  return new Stripe('sk_test_simulation', {
    httpClient: Stripe.createFetchHttpClient(network.fetch),
    telemetry: false,
    maxNetworkRetries: 0,
    timeout: 600_000,
  })
}

function broken(code: string): Error {
  return Object.assign(new Error(`simulated: ${code}`), { code })
}
