import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import { LockstepError } from '../lib/errors.js'
import { MapOf, OneOf } from '../models/dtos/parts.js'

/** One part that the service leans on. */
export interface HealthCheck {
  name: string
  /** Whether the API is of no use without it: then `/health/ready` says so too. */
  critical: boolean
  /**
   * Resolves with figures worth showing (no secrets: the answer is public); throws when the part is down. A figure `code`
   * says that it works, but why not as it should.
   */
  check(): Promise<Record<string, string | number | boolean | null> | undefined>
}

/** A check that has not answered by then has failed, in milliseconds. */
const CHECK_TIMEOUT = 2_000

const STATUS = ['ok', 'degraded', 'down'] as const

const HealthSchema = Type.Object(
  {
    status: OneOf(STATUS, {
      description: '`degraded`: something fails that the API can do without for a while, or is behind.',
    }),
    version: Type.String(),
    uptimeSeconds: Type.Integer(),
    parts: MapOf(
      Type.Object(
        {
          status: OneOf(STATUS),
          critical: Type.Boolean(),
          latencyMs: Type.Integer(),
          code: Type.Optional(Type.String({ description: 'Why it is not ok.' })),
        },
        { additionalProperties: true },
      ),
    ),
  },
  { description: 'How the service and each of its parts are.' },
)
const LiveSchema = Type.Object({ status: OneOf(['ok', 'down'] as const) }, { description: 'Whether it can serve.' })

interface Part {
  status: (typeof STATUS)[number]
  critical: boolean
  latencyMs: number
  [figure: string]: string | number | boolean | null
}

/**
 * `/health/live`: the process answers; restart it when not. `/health/ready`: it can serve, so send it traffic. `/health`:
 * every part, for people.
 */
export const healthRoutes: FastifyPluginAsyncTypebox<{
  checks: readonly HealthCheck[]
  version: string
  isClosing(): boolean
}> = async (app, { checks, version, isClosing }) => {
  const open = { public: true, load: 'none' } as const
  const tags = ['Health']

  app.get(
    '/health',
    {
      config: open,
      schema: {
        tags,
        security: [],
        summary: 'Every part and how it is',
        response: { 200: HealthSchema, 503: HealthSchema },
      },
    },
    async (_request, reply) => {
      const parts = Object.fromEntries(
        await Promise.all(checks.map(async (check) => [check.name, await partOf(check)] as const)),
      )
      const status = overall(Object.values(parts))
      return reply
        .code(status === 'down' ? 503 : 200)
        .header('cache-control', 'no-store')
        .send({ status, version, uptimeSeconds: Math.floor(process.uptime()), parts })
    },
  )

  app.get(
    '/health/live',
    { config: open, schema: { tags, security: [], summary: 'The process answers', response: { 200: LiveSchema } } },
    async () => ({ status: 'ok' as const }),
  )

  app.get(
    '/health/ready',
    {
      config: open,
      schema: {
        tags,
        security: [],
        summary: 'The service can take requests',
        response: { 200: LiveSchema, 503: LiveSchema },
      },
    },
    async (_request, reply) => {
      const parts = isClosing() ? [] : await Promise.all(checks.filter(({ critical }) => critical).map(partOf))
      const ready = !isClosing() && parts.every((part) => part.status !== 'down')
      return reply
        .code(ready ? 200 : 503)
        .header('cache-control', 'no-store')
        .send({ status: ready ? 'ok' : 'down' })
    },
  )
}

async function partOf({ check, critical }: HealthCheck): Promise<Part> {
  const started = performance.now()
  const latencyMs = () => Math.round(performance.now() - started)
  let timer: NodeJS.Timeout | undefined
  try {
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new LockstepError('No answer in time.', { code: 'timeout' })), CHECK_TIMEOUT)
    })
    const figures = await Promise.race([check(), late])
    const status = figures?.code === undefined ? 'ok' : 'degraded'
    return { ...figures, status, critical, latencyMs: latencyMs() }
  } catch (error) {
    return {
      status: 'down',
      critical,
      latencyMs: latencyMs(),
      code: error instanceof LockstepError ? error.code : 'failed',
    }
  } finally {
    clearTimeout(timer)
  }
}

function overall(parts: Part[]): (typeof STATUS)[number] {
  if (parts.some(({ status, critical }) => status === 'down' && critical)) return 'down'
  return parts.every(({ status }) => status === 'ok') ? 'ok' : 'degraded'
}
