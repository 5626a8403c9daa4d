import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { ApiAnswer } from './api.js'
import { runSwitch, SwitchError } from './control-routes.js'
import type { Controls } from './controls.js'
import { type CoreOptions, makeSimulatorCore, type SimulatorCore } from './core.js'
import { ApiError } from './errors.js'

export interface SimulatorOptions extends CoreOptions {
  /** 0 takes any free port. */
  port?: number
  host?: string
  /** `auto` makes deliveries as they fall due; `manual` leaves that to `deliverDue` and `flush`. */
  delivery?: 'auto' | 'manual'
}

export interface Simulator {
  url: string
  host: string
  port: number
  /** The platform's account id. */
  accountId: string
  controls: Controls
  core: SimulatorCore
  /** Ends every connection and timer and closes the journal; may be called more than once. */
  close(): Promise<void>
}

const maxBodyBytes = 1 << 20
const maxTimerMs = 60_000
/** Deliveries leave in rounds, several at once, so that a slow receiver holds up few others. */
const roundSize = 16
const maxRounds = 16
/** How long an answer that never comes keeps its connection, should the client not give up first. */
const hangMs = 120_000

/** Starts a stateful Stripe on HTTP: the v1 API for the `stripe` SDK and the switches under `/_simulator`. */
export async function startSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const { host = '127.0.0.1' } = options
  const core = makeSimulatorCore(options)
  const timers = new Set<NodeJS.Timeout>()
  const later = (milliseconds: number, run: () => void) => {
    const timer = setTimeout(() => {
      timers.delete(timer)
      run()
    }, milliseconds)
    timers.add(timer)
  }

  const server = createServer((request, response) => {
    void readBody(request)
      .then((body) => {
        const path = (request.url ?? '/').split('?')[0] ?? '/'
        if (path === '/_simulator' || path.startsWith('/_simulator/'))
          return answerSwitch(core, request, response, body)
        return answerCall(core, request, response, body, later)
      })
      .catch((error) => {
        options.log?.('simulator request failed', { url: request.url, error: String(error) })
        if (!response.headersSent) response.writeHead(500, { 'Content-Type': 'application/json' })
        response.end('{"error":{"message":"The simulator itself failed.","type":"api_error"}}')
      })
  })
  server.keepAliveTimeout = 60_000
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(options.port ?? 0, host, resolve)
    })
  } catch (error) {
    core.close()
    throw error
  }
  const { port } = server.address() as AddressInfo
  const loop = options.delivery === 'manual' ? undefined : startDeliveryLoop(core)

  let closing: Promise<void> | undefined
  const close = () => {
    closing ??= (async () => {
      await loop?.stop()
      for (const timer of timers) clearTimeout(timer)
      await new Promise((resolve) => {
        server.close(resolve)
        server.closeAllConnections()
      })
      core.close()
    })()
    return closing
  }
  return { url: `http://${host}:${port}`, host, port, accountId: core.accountId, controls: core.controls, core, close }
}

/** Drains the queue by the clock: one timer for the next due time, set anew whenever that may have changed. */
function startDeliveryLoop(core: SimulatorCore): { stop(): Promise<void> } {
  const { deliveries, clock } = core
  const running = new Set<Promise<unknown>>()
  let timer: NodeJS.Timeout | undefined
  let planned: NodeJS.Immediate | undefined
  let stopped = false

  /** Many changes in one turn are one look at the queue. */
  const plan = () => {
    planned ??= setImmediate(schedule)
  }
  const schedule = () => {
    planned = undefined
    clearTimeout(timer)
    const due = deliveries.nextDueAt()
    if (stopped || due === undefined || running.size >= maxRounds) return
    const wait = due - clock.now()
    if (wait <= 0) run()
    else if (!clock.frozen) timer = setTimeout(schedule, Math.min(maxTimerMs, wait))
  }
  const run = () => {
    const round = deliveries.deliverDue(roundSize).finally(() => {
      running.delete(round)
      plan()
    })
    running.add(round)
    plan()
  }
  deliveries.listen(plan)
  plan()
  return {
    stop: async () => {
      stopped = true
      clearTimeout(timer)
      clearImmediate(planned)
      deliveries.abort()
      await Promise.all(running)
    },
  }
}

function answerCall(
  core: SimulatorCore,
  request: IncomingMessage,
  response: ServerResponse,
  body: string,
  later: (milliseconds: number, run: () => void) => void,
): void {
  const { method = 'GET', url = '/', headers } = request
  const call = core.begin({ method, url, headers, body })
  const finish = () => send(call.finish(), request, response, later)
  if (call.delayMs > 0) later(call.delayMs, finish)
  else finish()
}

function send(
  answer: ApiAnswer,
  request: IncomingMessage,
  response: ServerResponse,
  later: (milliseconds: number, run: () => void) => void,
): void {
  const { transport, status, headers, body } = answer
  switch (transport) {
    case 'timeout':
      later(hangMs, () => request.socket.destroy())
      return
    case 'reset':
      request.socket.resetAndDestroy()
      return
    case 'truncate': {
      response.writeHead(status, { ...headers, 'Content-Length': Buffer.byteLength(body) })
      response.write(body.slice(0, body.length / 2), () => request.socket.destroy())
      return
    }
    case 'answer':
      response.writeHead(status, { ...headers, 'Content-Length': Buffer.byteLength(body) })
      response.end(body)
  }
}

async function answerSwitch(
  core: SimulatorCore,
  request: IncomingMessage,
  response: ServerResponse,
  body: string,
): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://simulator')
  const answer = (status: number, value: unknown) => {
    response.writeHead(status, { 'Content-Type': 'application/json' })
    response.end(`${JSON.stringify(value, null, 2)}\n`)
  }
  try {
    const found = runSwitch(core.controls, request.method ?? 'GET', url.pathname, url.searchParams, () => json(body))
    if (!found) return answer(404, { error: { message: 'No such switch: see GET /_simulator.' } })
    answer(200, await found.result)
  } catch (error) {
    if (error instanceof ApiError) answer(error.status, error.body(''))
    else if (error instanceof SwitchError) answer(400, { error: { message: error.message } })
    else throw error
  }
}

function json(body: string): Record<string, unknown> {
  if (body.trim() === '') return {}
  let value: unknown
  try {
    value = JSON.parse(body)
  } catch {
    throw new SwitchError('The body is not JSON.')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new SwitchError('The body must be an object.')
  return value as Record<string, unknown>
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > maxBodyBytes) {
      request.destroy()
      throw new Error('body too large')
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
