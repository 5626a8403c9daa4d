import { connect, type Socket } from 'node:net'

/** What a load came to. Times are milliseconds. */
export interface LoadResult {
  requests: number
  /** Answers that were not 2xx. */
  refused: number
  perSecond: number
  p50: number
  p99: number
  max: number
}

/** A request as bytes that can be sent as they are. */
export function requestBytes(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body: string | Buffer = '',
): Buffer {
  const bytes = Buffer.from(body)
  const lines = Object.entries({
    host: '127.0.0.1',
    connection: 'keep-alive',
    ...(bytes.length > 0 ? { 'content-length': String(bytes.length) } : {}),
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`)
  return Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`), bytes])
}

/**
 * Sends requests over so many connections, each as soon as the one before it on its connection is answered (closed loop), or
 * at a given rate (open loop: a request that had to wait for a free connection counts from when it was due). Requests are
 * ready-made bytes, so that the generator takes little of the machine that it measures.
 *
 * @param next the next request; null ends the load.
 */
export async function sendLoad(options: {
  port: number
  connections: number
  next: () => Buffer | null
  /** Ends it after so long, in milliseconds. */
  forMs?: number
  /** Open loop: requests per second. */
  rate?: number
}): Promise<LoadResult> {
  const { port, connections, next, forMs = Number.POSITIVE_INFINITY, rate } = options
  const times: number[] = []
  let refused = 0
  const started = performance.now()
  let sent = 0
  const due = () => (rate === undefined ? performance.now() : started + (sent / rate) * 1000)

  async function worker(): Promise<void> {
    const socket = await open(port)
    try {
      for (;;) {
        const at = due()
        const early = at - performance.now()
        if (performance.now() - started + Math.max(0, early) >= forMs) return
        const request = next()
        if (request === null) return
        sent += 1
        if (early > 1) await new Promise((resolve) => setTimeout(resolve, early))
        const from = rate === undefined ? performance.now() : at
        const status = await exchange(socket, request)
        times.push(performance.now() - from)
        if (status < 200 || status > 299) refused += 1
      }
    } finally {
      socket.destroy()
    }
  }
  await Promise.all(Array.from({ length: connections }, worker))
  const seconds = (performance.now() - started) / 1000
  times.sort((a, b) => a - b)
  const at = (part: number) => times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? Number.NaN
  return { requests: times.length, refused, perSecond: times.length / seconds, p50: at(0.5), p99: at(0.99), max: at(1) }
}

function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true }, () => resolve(socket))
    socket.once('error', reject)
  })
}

const HEAD_END = Buffer.from('\r\n\r\n')

/** Sends one request and reads its answer, which must say how long it is. Answers the status. */
function exchange(socket: Socket, request: Buffer): Promise<number> {
  return new Promise((resolve, reject) => {
    let got: Buffer = Buffer.alloc(0)
    const done = (result: number | Error) => {
      socket.off('data', onData)
      socket.off('error', done)
      socket.off('close', onClose)
      if (typeof result === 'number') resolve(result)
      else reject(result)
    }
    const onClose = () => done(new Error('The server closed the connection.'))
    const onData = (chunk: Buffer) => {
      got = got.length === 0 ? chunk : Buffer.concat([got, chunk])
      const end = got.indexOf(HEAD_END)
      if (end < 0) return
      const head = got.toString('latin1', 0, end)
      const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1] ?? 0)
      if (got.length < end + HEAD_END.length + length) return
      done(Number(head.slice(9, 12)))
    }
    socket.on('data', onData)
    socket.once('error', done)
    socket.once('close', onClose)
    socket.write(request)
  })
}
