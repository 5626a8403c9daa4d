import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Counter } from 'prom-client'
import { type Gate, makeGate, OverloadedError } from '../lib/gate.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * How a request of this route counts when there are too many. Absent: toward the bound of all. `long`: toward one of its own, since
     * it may take minutes. `none`: it is never turned away here.
     */
    load?: 'long' | 'none'
  }
  interface FastifyRequest {
    /** Its place among the requests under way; null on routes that take none. */
    place: Place | null
  }
}

/** The place of a request under way. */
interface Place {
  leave(): void
  /** Whether its handler is at work: then it is under way even when the client has gone. */
  isWorking: boolean
  isClosed: boolean
  gates: { requests: Gate; waits: Gate }
}

/** Exports and uploads that one process serves at a time. */
const MOST_LONG = 16
/** The mean delay of the event loop over a sample, from which on the process is late for all, in milliseconds. */
const MOST_DELAY_MS = 500
const SAMPLE_MS = 1_000
const RESOLUTION_MS = 20

/**
 * Answers 503 at once, before the key is looked up, when more requests are under way than the process can serve soon, or when it is
 * late for all. A request that only waits (`Prefer: wait`) gives its place up meanwhile; see {@link waitAside}. Register it before
 * all that works.
 *
 * @param options.most requests under way at a time
 */
export function admit(app: FastifyInstance, options: { most: number; shed: Counter<'part'> }): void {
  const { most, shed } = options
  const gates = {
    requests: makeGate({ most, onShed: () => shed.inc({ part: 'api' }) }),
    long: makeGate({ most: MOST_LONG, onShed: () => shed.inc({ part: 'long' }) }),
    waits: makeGate({ most, onShed: () => shed.inc({ part: 'wait' }) }),
  }
  const isLate = watchEventLoop(app)

  app.decorateRequest('place', null)
  app.addHook('onRequest', (request, reply, done) => {
    const { load } = request.routeOptions.config
    if (load === 'none') {
      done()
      return
    }
    if (isLate()) {
      shed.inc({ part: 'api' })
      throw new OverloadedError()
    }
    const leave = (load === 'long' ? gates.long : gates.requests).enter()
    const place: Place = { leave, isWorking: false, isClosed: false, gates }
    request.place = place
    reply.raw.once('close', () => {
      place.isClosed = true
      if (!place.isWorking) place.leave()
    })
    done()
  })
  app.addHook('preHandler', ({ place }, _reply, done) => {
    if (place !== null) place.isWorking = true
    done()
  })
  app.addHook('onSend', ({ place }, _reply, _payload, done) => {
    if (place !== null) {
      place.isWorking = false
      if (place.isClosed) place.leave()
    }
    done()
  })
}

/**
 * Has a request wait for something without its place, so that those who wait keep nobody else out.
 *
 * @returns what `wait` comes to; null when too many wait already: then it is not called.
 */
export async function waitAside<T>({ place }: FastifyRequest, wait: () => Promise<T>): Promise<T | null> {
  if (place === null) return wait()
  let stopWaiting: () => void
  try {
    stopWaiting = place.gates.waits.enter()
  } catch (error) {
    if (error instanceof OverloadedError) return null
    throw error
  }
  place.leave()
  try {
    return await wait()
  } finally {
    stopWaiting()
    place.leave = place.gates.requests.reenter()
  }
}

/**
 * Whether the event loop was late over the last two samples: one alone is a moment's work, such as the end of the start, which no
 * request is to be turned away for.
 */
function watchEventLoop(app: FastifyInstance): () => boolean {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS })
  let lateSamples = 0
  let timer: NodeJS.Timeout | undefined
  app.addHook('onListen', async () => {
    delay.enable()
    timer = setInterval(() => {
      const isLate = delay.count > 0 && delay.mean / 1e6 - RESOLUTION_MS > MOST_DELAY_MS
      lateSamples = isLate ? lateSamples + 1 : 0
      delay.reset()
    }, SAMPLE_MS)
    timer.unref()
  })
  app.addHook('onClose', async () => {
    clearInterval(timer)
    delay.disable()
  })
  return () => lateSamples >= 2
}
