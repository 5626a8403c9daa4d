import type { SimulatorCore } from './core.js'

/** What the SDK takes for the code of a connection that broke, or of an answer that didn't come in time. */
const failures = { reset: 'ECONNRESET', timeout: 'ETIMEDOUT' } as const

/**
 * A `fetch` that ends in the simulator without a socket, for `Stripe.createFetchHttpClient(...)`. Latencies cost no time here;
 * a timeout fails at once.
 */
export function makeSimulatorFetch(core: Pick<SimulatorCore, 'handle'>): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init)
    const { pathname, search } = new URL(request.url)
    const answer = core.handle({
      method: request.method,
      url: `${pathname}${search}`,
      headers: Object.fromEntries(request.headers),
      body: await request.text(),
    })
    const { transport, status, headers, body } = answer
    if (transport === 'reset' || transport === 'timeout') {
      throw Object.assign(new Error(transport), { code: failures[transport] })
    }
    return new Response(transport === 'truncate' ? torn(body) : body, { status, headers })
  }
}

function torn(body: string): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(stream) {
      stream.enqueue(new TextEncoder().encode(body.slice(0, body.length / 2)))
      stream.error(Object.assign(new Error('aborted'), { code: failures.reset }))
    },
  })
}
