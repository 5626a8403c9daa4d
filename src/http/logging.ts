import { type FastifyInstance, LogController } from 'fastify'
import type { Logger } from 'pino'
import { describeError } from '../lib/log.js'

/** Fastify's own lines per request are off; {@link logRequests} writes one, and the error handler another for our faults. */
export function makeLogController(): LogController {
  return new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' })
}

/** The logger that the server's parts inherit: it serialises requests and errors without personal data. */
export function redacting(log: Logger): Logger {
  return log.child({}, { serializers: { req: requestOf, res: responseOf, err: describeError } })
}

/** One line per answered request: its route, not its query or body, which hold personal data. */
export function logRequests(app: FastifyInstance): void {
  app.addHook('onResponse', (request, reply, done) => {
    const route = request.is404 ? null : (request.routeOptions.url ?? null)
    const { principal } = request
    const line = {
      method: request.method,
      route,
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime),
      ...(principal === null ? {} : { tenantId: principal.tenantId, actor: loggable(principal.actor) }),
    }
    // Probes and scrapes come every few seconds and tell nothing while they are well.
    const quiet = reply.statusCode < 400 && (route === '/metrics' || route?.startsWith('/health') === true)
    request.log[quiet ? 'debug' : 'info'](line, 'request')
    done()
  })
}

/** The subject of a token is a person. */
function loggable(actor: string): string {
  return actor.startsWith('key:') ? actor : (actor.split(':', 1)[0] ?? '')
}

function requestOf(request: { method?: string; url?: string; id?: string }) {
  return { method: request.method, path: request.url?.split('?', 1)[0] }
}

function responseOf(reply: { statusCode?: number }) {
  return { status: reply.statusCode }
}
