import { createHash } from 'node:crypto'
import { createRemoteJWKSet, errors, type JWTPayload, jwtVerify } from 'jose'
import type { Clock } from '../lib/clock.js'
import { LockstepError } from '../lib/errors.js'
import { isRole, permissionsOf } from '../models/roles.js'
import type { Principal } from './keys.js'

/** Asymmetric ones only: whoever checks a token must not be able to make one. */
const ALGORITHMS = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA']
/** How far the clocks of issuer and service may be apart, in seconds. */
const CLOCK_TOLERANCE_SECONDS = 5
/** How long a checked token is believed, in milliseconds: as long as a revoked API key still works. */
const CACHE_MS = 1_000
const CACHE_SIZE = 1_000
const JWKS_TIMEOUT_MS = 5_000

/** Whose tokens are taken. */
export interface JwtSettings {
  /** `iss` of the tokens. */
  issuer: string
  /** `aud` of the tokens. */
  audience: string
  /** Where the issuer's public keys are (RFC 7517). */
  jwksUrl: string
}

/** The issuer's keys cannot be read: nobody's fault who asks. */
export class JwksUnavailableError extends LockstepError {
  constructor(cause: unknown) {
    super('The keys by which tokens are checked cannot be read now; try again, or use an API key.', {
      code: 'jwks_unavailable',
      retryable: true,
      cause,
    })
  }
}

/** Whether the text can be a JWT (RFC 7519): three parts, the first a JSON object. No API key looks so. */
export function isJwt(text: string): boolean {
  return /^eyJ[\w-]*\.[\w-]+\.[\w-]+$/.test(text)
}

/** Who a token can be of: as long as OpenID Connect has it (Core 1.0, section 2), and nothing that does not show in a log. */
const SUBJECT = /^[^\p{C}]{1,255}$/u

/**
 * Makes the checker of JWTs (RFC 7519, checked as RFC 8725 advises). A token says who (`sub`), for which tenant
 * (`lockstep_tenant`, its id or slug), in which role (`lockstep_role`), and may narrow that by `scope` (RFC 8693: words with
 * spaces between; those that are no permissions of ours mean nothing here).
 *
 * @param tenantIdOf the id of the tenant with this id or slug; null when there is none
 * @returns whose the token is, or null when it is not to be believed
 * @throws {JwksUnavailableError} when the issuer's keys cannot be read
 */
export function makeJwtVerifier(options: {
  settings: JwtSettings
  tenantIdOf(name: string): Promise<string | null>
  clock: Clock
}): (token: string) => Promise<Principal | null> {
  const { settings, tenantIdOf, clock } = options
  const jwks = createRemoteJWKSet(new URL(settings.jwksUrl), { timeoutDuration: JWKS_TIMEOUT_MS })
  const believed = new Map<string, { principal: Principal; until: number }>()

  return async function verify(token) {
    const hash = createHash('sha256').update(token).digest('hex')
    const now = clock.now()
    const known = believed.get(hash)
    if (known !== undefined && now < known.until) return known.principal
    believed.delete(hash)
    const payload = await check(token, now)
    const principal = payload === null ? null : await principalOf(payload)
    if (principal === null) return null
    if (believed.size >= CACHE_SIZE) believed.clear()
    const expiresAt = (payload?.exp ?? 0) * 1000
    believed.set(hash, { principal, until: Math.min(now + CACHE_MS, expiresAt) })
    return principal
  }

  async function check(token: string, now: number): Promise<JWTPayload | null> {
    try {
      const { payload } = await jwtVerify(token, jwks, {
        issuer: settings.issuer,
        audience: settings.audience,
        algorithms: ALGORITHMS,
        requiredClaims: ['sub', 'exp'],
        clockTolerance: CLOCK_TOLERANCE_SECONDS,
        currentDate: new Date(now),
      })
      return payload
    } catch (error) {
      // Of jose's errors only these are about the keys' source, and not about the token.
      const isSource = error instanceof errors.JWKSTimeout || error instanceof errors.JWKSInvalid
      if (error instanceof errors.JOSEError && !isSource && error.code !== 'ERR_JOSE_GENERIC') return null
      throw new JwksUnavailableError(error)
    }
  }

  async function principalOf(payload: JWTPayload): Promise<Principal | null> {
    const { sub, scope, lockstep_tenant: tenant, lockstep_role: role } = payload
    if (typeof sub !== 'string' || typeof tenant !== 'string' || typeof role !== 'string' || !isRole(role)) return null
    // A list that is not understood must not end as no narrowing at all.
    if (scope !== undefined && typeof scope !== 'string') return null
    // Postgres holds no U+0000, and a line break in an actor's name could pass for an entry of a log.
    if (!SUBJECT.test(sub) || !SUBJECT.test(tenant)) return null
    const tenantId = await tenantIdOf(tenant)
    if (tenantId === null) return null
    const scopes = typeof scope === 'string' ? scope.split(' ').filter((word) => word.includes(':')) : []
    return { tenantId, actor: `jwt:${sub}`, role, permissions: permissionsOf(role, scopes) }
  }
}
