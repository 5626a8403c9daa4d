import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { LockstepError } from '../lib/errors.js'
import type { Permission } from '../models/roles.js'
import type { Actor } from '../repositories/audit-log.js'
import { asTenant } from '../repositories/isolation.js'
import type { Principal } from './keys.js'
import { quotaHeaders, RateLimitedError, type RequestLimits } from './request-limits.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the key must be allowed to do. Every route names one, or is `public`. */
    permission?: Permission
    /** What else this particular request needs, by its checked parameters; null when nothing. */
    alsoNeeds?: (request: FastifyRequest) => Permission | null
    /** The answer without personal data, for those who may not see any (`pii:read`). */
    mask?: (answer: never) => unknown
    /** Open to all, on purpose. */
    public?: boolean
  }
  interface FastifyRequest {
    /** Who asks; null on a public route. */
    principal: Principal | null
  }
}

/** Whom a key or token belongs to. */
export interface Credentials {
  /** Null when it is wrong, revoked or expired. */
  verify(token: string): Promise<Principal | null>
}

/** No key, or one that is wrong, revoked or expired. */
export class UnauthenticatedError extends LockstepError {
  constructor(present: boolean) {
    super(
      present
        ? 'The API key or token is wrong, revoked or expired.'
        : 'This needs an API key: send the header `Authorization: Bearer <key>`.',
      { code: present ? 'invalid_api_key' : 'api_key_required' },
    )
  }
}

/** The key's role and scopes do not have the permission. */
export class PermissionDeniedError extends LockstepError {
  constructor(principal: Principal, permission: Permission) {
    super(
      `This ${credentialOf(principal)} (role '${principal.role}') lacks the permission '${permission}'. Use one whose role, and scopes if it has any, hold it.`,
      { code: 'permission_denied' },
    )
  }
}

/**
 * Guards every route of `app` that is registered after it: 401 without a live key, 403 without the route's permission, 429
 * beyond the key's share; masks personal data for those who may not see it. A route that names neither a permission nor
 * `public` stops the boot.
 *
 * @param options.openPaths beginnings of paths that a third-party plugin registers and that are open to all
 * @param options.isIsolated whether the pool has to be told whose request it is; where not, the way from one step to the next that
 * it would be told by costs each promise something
 */
export function guard(
  app: FastifyInstance,
  options: { credentials: Credentials; limits: RequestLimits; openPaths: readonly string[]; isIsolated: boolean },
): void {
  const { credentials, limits, openPaths, isIsolated } = options
  app.decorateRequest('principal', null)

  app.addHook('onRoute', (route) => {
    const config = route.config ?? {}
    route.config = config
    if (openPaths.some((path) => route.url === path || route.url.startsWith(`${path}/`))) config.public = true
    if (config.permission === undefined && config.public !== true) {
      throw new Error(
        `${route.method} ${route.url} names no permission: set \`config.permission\`, or \`config.public\` to open it.`,
      )
    }
  })

  // Before the body is read: a stranger's megabytes are not worth parsing.
  app.addHook('onRequest', (request, reply, done) => {
    const { permission } = request.routeOptions.config
    // What is open to all, such as the webhook, does not even wait for a promise.
    if (request.is404 || permission === undefined) done()
    else checkKey(request, reply, permission).then(() => done(), done)
  })

  async function checkKey(request: FastifyRequest, reply: FastifyReply, permission: Permission): Promise<void> {
    const principal = await authenticate(request, credentials, limits)
    request.principal = principal
    const quota = await limits.countRequest(principal.actor)
    reply.headers(quotaHeaders(quota))
    if (quota.isExceeded)
      throw new RateLimitedError(
        `This ${credentialOf(principal)} has sent its ${quota.limit} requests of a minute.`,
        quota,
      )
    require(principal, permission)
  }

  // Not before the body is read: what its stream calls back would have lost it.
  if (isIsolated) {
    app.addHook('preHandler', (request, _reply, done) => {
      if (request.principal === null) done()
      else asTenant(request.principal.tenantId, done)
    })
  }

  app.addHook('preHandler', (request, _reply, done) => {
    const permission = request.routeOptions.config.alsoNeeds?.(request) ?? null
    if (permission !== null) require(principalOf(request), permission)
    done()
  })

  app.addHook('preSerialization', (request, reply, answer, done) => {
    const { mask } = request.routeOptions.config
    const isWhole = mask === undefined || reply.statusCode >= 400 || principalOf(request).permissions.has('pii:read')
    done(null, isWhole ? answer : mask(answer as never))
  })
}

/** What they showed, in a word. */
function credentialOf({ actor }: Principal): 'key' | 'token' {
  return actor.startsWith('jwt:') ? 'token' : 'key'
}

/** Who asks, on a route that is not public. */
export function principalOf(request: FastifyRequest): Principal {
  if (request.principal === null) throw new UnauthenticatedError(false)
  return request.principal
}

/** Who asks, as the audit log names it. */
export function actorOf(request: FastifyRequest): Actor {
  const { tenantId, actor } = principalOf(request)
  return { tenantId, actor, requestId: request.id, ip: request.ip }
}

async function authenticate(
  request: FastifyRequest,
  credentials: Credentials,
  limits: RequestLimits,
): Promise<Principal> {
  const header = request.headers.authorization
  if (header === undefined) throw new UnauthenticatedError(false)
  const token = /^Bearer +(\S+) *$/i.exec(header)?.[1]
  const principal = token === undefined ? null : await credentials.verify(token)
  if (principal !== null) return principal
  // Only now: behind one address there may be many, and those whose keys are right must not suffer for the others.
  const quota = await limits.countFailure(request.ip)
  if (quota.isExceeded) throw new RateLimitedError('Too many requests with wrong keys came from this address.', quota)
  throw new UnauthenticatedError(true)
}

function require(principal: Principal, permission: Permission): void {
  if (!principal.permissions.has(permission)) throw new PermissionDeniedError(principal, permission)
}
