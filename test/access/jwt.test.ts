import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose'
import t, { type Test } from 'tap'
import { makeCredentials } from '../../src/access/credentials.js'
import { isJwt, makeJwtVerifier } from '../../src/access/jwt.js'
import { generateKey } from '../../src/access/keys.js'
import { systemClock } from '../../src/lib/clock.js'
import { makeDb } from '../../src/repositories/database.js'
import { findTenantId } from '../../src/repositories/tenants.js'
import { isProblem, openApi } from '../helpers/api.js'

/** An issuer of tokens, with its keys on HTTP. */
async function openIssuer(t: Test) {
  const { privateKey, publicKey } = await generateKeyPair('ES256')
  const jwk = { ...(await exportJWK(publicKey)), kid: 'one', alg: 'ES256' }
  const server = createServer((_request, response) => {
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys: [jwk] }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const close = () => new Promise((resolve) => server.close(resolve))
  t.teardown(close)
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    issuer,
    close,
    sign: (claims: Record<string, unknown>, { audience = 'lockstep', expires = '1h', key = privateKey } = {}) =>
      new SignJWT(claims)
        .setProtectedHeader({ alg: 'ES256', kid: 'one' })
        .setIssuer(issuer)
        .setAudience(audience)
        .setExpirationTime(expires)
        .sign(key),
  }
}

async function open(t: Test) {
  const issuer = await openIssuer(t)
  const settings = { issuer: issuer.issuer, audience: 'lockstep', jwksUrl: `${issuer.issuer}/jwks` }
  const api = await openApi(t, (deps) => {
    // The pool is the test's, made before the server.
    const tenantIdOf = (name: string) => findTenantId(makeDb(api_pool()), name)
    return { credentials: makeCredentials(deps.keys, makeJwtVerifier({ settings, tenantIdOf, clock: systemClock })) }
  })
  const api_pool = () => api.pool
  return { api, issuer }
}

const ADA = { sub: 'ada', lockstep_tenant: 'default', lockstep_role: 'manager' }

t.test('tokens are taken beside keys', async (t) => {
  const { api, issuer } = await open(t)
  const token = await issuer.sign(ADA)
  const made = await api.call('POST', '/customers', { key: token, body: { email: 'a@example.com' } })
  t.equal(made.status, 201)
  const { rows } = await api.pool.query('select actor from audit_log where entity_id = $1', [made.body.id])
  t.match(rows, [{ actor: 'jwt:ada' }])
  t.equal((await api.call('GET', '/customers')).status, 200, 'a key as before')
  isProblem(t, await api.call('GET', '/api-keys', { key: token }), 403, 'permission_denied')

  const byId = await issuer.sign({ ...ADA, lockstep_tenant: api.otherTenantId })
  t.strictSame((await api.call('GET', '/customers', { key: byId })).body.data, [], 'another tenant sees its own')
  const narrow = await issuer.sign({ ...ADA, scope: 'openid customers:read' })
  t.equal((await api.call('GET', '/customers', { key: narrow })).status, 200)
  const refused = await api.call('GET', '/events', { key: narrow })
  isProblem(t, refused, 403, 'permission_denied')
  t.match(refused.body.detail, /^This token /)
})

t.test('tokens that are not to be believed', async (t) => {
  const { api, issuer } = await open(t)
  const { privateKey: wrong } = await generateKeyPair('ES256')
  const exp = Math.floor(Date.now() / 1000) + 60
  const tokens = {
    'another audience': await issuer.sign(ADA, { audience: 'shop' }),
    expired: await issuer.sign(ADA, { expires: '1 minute ago' }),
    'another key': await issuer.sign(ADA, { key: wrong }),
    unsigned: new UnsecuredJWT({ ...ADA, iss: issuer.issuer, aud: 'lockstep', exp }).encode(),
    'no subject': await issuer.sign({ ...ADA, sub: undefined }),
    'no tenant': await issuer.sign({ ...ADA, lockstep_tenant: undefined }),
    'a tenant that is not there': await issuer.sign({ ...ADA, lockstep_tenant: 'nowhere' }),
    'a role that is none': await issuer.sign({ ...ADA, lockstep_role: 'owner' }),
    'a scope that is no text': await issuer.sign({ ...ADA, scope: ['customers:read'] }),
    'a subject that nothing can hold': await issuer.sign({ ...ADA, sub: 'a\u0000b' }),
    'an empty subject': await issuer.sign({ ...ADA, sub: '' }),
    'a subject longer than any': await issuer.sign({ ...ADA, sub: 'a'.repeat(256) }),
    'a subject that reads otherwise than it is': await issuer.sign({ ...ADA, sub: 'ada\u202egnp' }),
    'a tenant that nothing can hold': await issuer.sign({ ...ADA, lockstep_tenant: 'a\u0000b' }),
    'an altered one': `${(await issuer.sign(ADA)).slice(0, -4)}AAAA`,
  }
  for (const [name, token] of Object.entries(tokens)) {
    const answer = await api.call('GET', '/customers', { key: token })
    t.equal(answer.status, 401, name)
    t.equal(answer.body.code, 'invalid_api_key', name)
  }
})

t.test('an issuer that cannot be reached is nobody’s wrong key', async (t) => {
  const { api, issuer } = await open(t)
  const token = await issuer.sign(ADA)
  await issuer.close()
  const answer = await api.call('GET', '/customers', { key: token })
  isProblem(t, answer, 503, 'jwks_unavailable')
  t.ok(answer.headers.get('retry-after'))
})

t.test('no key looks like a token', async (t) => {
  t.notOk(isJwt(generateKey()))
  t.ok(isJwt(new UnsecuredJWT({}).encode().replace(/\.$/, '.x')))
})
