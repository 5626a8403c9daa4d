import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { LockstepError } from '../lib/errors.js'
import { FileTooLargeError } from '../services/import.service.js'
import { answerBrokenRequests } from './problem.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The body is a file that may take long: it must keep coming, but not be there within seconds. */
    isUpload?: boolean
  }
}

/** How often bodies that are still to come are looked at, in milliseconds. */
const LOOK_MS = 1_000
/** How long a client may send nothing of a file, in milliseconds. */
const STALL_MS = 30_000

/** The client went away, or sent nothing for too long, before the whole file was here. */
class UploadError extends LockstepError {}

/**
 * Ends requests whose body is not here after `ms`, but for uploads. Node's own limit is one for all requests, and so has to be as
 * long as the longest upload.
 */
export function limitSlowBodies(app: FastifyInstance, ms: number): void {
  // In the order in which they began. One look a second at all of them costs less than a timer for each.
  const coming = new Map<IncomingMessage, number>()
  app.addHook('onRequest', ({ raw, routeOptions }, _reply, done) => {
    if (routeOptions.config.isUpload !== true && hasBody(raw)) coming.set(raw, performance.now() + ms)
    done()
  })
  app.addHook('preValidation', ({ raw }, _reply, done) => {
    coming.delete(raw)
    done()
  })
  const look = setInterval(
    () => {
      const now = performance.now()
      for (const [raw, deadline] of coming) {
        if (deadline > now) return
        coming.delete(raw)
        // One that was answered unread is at its end, too: Node throws away what comes of it.
        if (raw.complete || raw.destroyed) continue
        answerBrokenRequests(Object.assign(new Error('slow'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' }), raw.socket)
      }
    },
    Math.min(ms, LOOK_MS),
  )
  look.unref()
  app.addHook('onClose', async () => clearInterval(look))
}

/** Has the routes of `app` take these media types as files, and nothing else. */
export function takeFiles(app: FastifyInstance, types: readonly string[], limit: number): void {
  app.removeAllContentTypeParsers()
  // What is left of a refused file is not waited for.
  app.addHook('onError', async (_request, reply) => {
    reply.header('connection', 'close')
  })
  app.addContentTypeParser([...types], (request, payload, done) => {
    const encoding = request.headers['content-encoding'] ?? 'identity'
    const length = Number(request.headers['content-length'] ?? 0)
    if (encoding !== 'identity') done(unsupported(`Send the file as it is, not as ${encoding.slice(0, 20)}.`))
    else if (length > limit) done(new FileTooLargeError(limit))
    else done(null, payload)
  })
  app.addContentTypeParser('*', (_request, _payload, done) => {
    done(unsupported(`Send the file as ${types.join(', ')}, and say so in Content-Type.`))
  })
}

/** The media type of the body, without parameters. */
export function mediaTypeOf(request: FastifyRequest): string {
  return request.headers['content-type']?.split(';')[0]?.trim().toLowerCase() ?? ''
}

/**
 * The body of an upload, piece by piece.
 *
 * @param stallMs how long the client may send nothing
 * @throws {LockstepError} `upload_interrupted` when the client goes away, `upload_too_slow` when it stops sending.
 */
export async function* uploadOf(request: FastifyRequest, stallMs = STALL_MS): AsyncGenerator<Uint8Array> {
  // A request without a body was never given to a parser.
  if (request.body === undefined || request.body === null) return
  // Not destroyed when it is left early: the answer goes by the same connection.
  const pieces = (request.body as Readable).iterator({ destroyOnReturn: false })
  try {
    for (;;) {
      const next = await withinTime(pieces.next(), stallMs)
      if (next.done === true) return
      yield next.value as Uint8Array
    }
  } catch (error) {
    if (error instanceof LockstepError) throw error
    throw new UploadError('The connection broke before the whole file was here; nothing was imported.', {
      code: 'upload_interrupted',
      cause: error,
    })
  } finally {
    // Not awaited: it waits for a piece that may never come.
    pieces.return?.().catch(() => {})
  }
}

async function withinTime<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const stalled = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      const message = `Nothing of the file came for ${ms / 1000} seconds; nothing was imported.`
      reject(new UploadError(message, { code: 'upload_too_slow' }))
    }, ms)
  })
  try {
    return await Promise.race([work, stalled])
  } finally {
    clearTimeout(timer)
  }
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

function unsupported(message: string): LockstepError {
  return new LockstepError(message, { code: 'unsupported_file' })
}
