import type { FastifyInstance } from 'fastify'
import type { Counter, Histogram, Registry } from 'prom-client'
import { Type } from 'typebox'
import { openProblems, problems, SECURED } from './openapi.js'

/** Where the HTTP latency goes, in seconds, and what `/metrics` answers. */
export interface HttpMetrics {
  registry: Registry
  httpDuration: Histogram<'method' | 'route' | 'status'>
  /** Requests turned away. */
  shed: Counter<'part'>
}

/**
 * Measures every request and serves `/metrics` in Prometheus' format. The figures tell a stranger how much business there
 * is, so they are open only on a loopback address (`open`), else they need `metrics:read`.
 */
export function serveMetrics(
  app: FastifyInstance,
  { registry, httpDuration }: Pick<HttpMetrics, 'registry' | 'httpDuration'>,
  open: boolean,
): void {
  app.addHook('onResponse', (request, reply, done) => {
    // The route's pattern, not its path: ids would make a series each.
    const route = request.is404 ? 'none' : (request.routeOptions.url ?? 'none')
    httpDuration.observe({ method: request.method, route, status: String(reply.statusCode) }, reply.elapsedTime / 1000)
    done()
  })

  app.get(
    '/metrics',
    {
      config: { load: 'none', ...(open ? { public: true } : { permission: 'metrics:read' }) },
      schema: {
        tags: ['Health'],
        summary: 'Figures for Prometheus',
        description:
          'Needs no key when the service listens on a loopback address only, else the permission `metrics:read`.',
        ...(open ? { security: [] } : SECURED),
        response: {
          200: {
            description: 'All figures, in the text format of Prometheus.',
            content: { 'text/plain': { schema: Type.String({ examples: ['lockstep_dirty_users 0'] }) } },
          },
          ...(open ? openProblems() : problems()),
        },
      },
    },
    async (_request, reply) => {
      const body = await registry.metrics()
      return reply.type(registry.contentType).header('cache-control', 'no-store').send(body)
    },
  )
}
