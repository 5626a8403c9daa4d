import { type FastifyPluginAsyncTypebox, Type } from '@fastify/type-provider-typebox'
import { actorOf, PermissionDeniedError, principalOf } from '../access/authenticate.js'
import type { ApiKeys, Principal } from '../access/keys.js'
import { problems, SECURED } from '../http/openapi.js'
import { ConflictError, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import {
  ApiKeyPageSchema,
  ApiKeyQuerySchema,
  CreatedKeySchema,
  type NewKeyInput,
  NewKeySchema,
  RotateKeySchema,
  toApiKey,
} from '../models/dtos/api-key.dto.js'
import { DEFAULT_LIMIT, IdParams } from '../models/dtos/parts.js'
import { allows, permissionsOf } from '../models/roles.js'
import { API_KEY_ORDER } from '../repositories/api-keys.js'
import { decodeCursor } from '../repositories/cursor.js'

const base = { tags: ['API keys'], ...SECURED }
const DEFAULT_GRACE_SECONDS = 86_400

/** The keys of a tenant: made, listed, replaced and ended. */
export const apiKeyRoutes: FastifyPluginAsyncTypebox<{ keys: ApiKeys }> = async (app, { keys }) => {
  // What is shown once must not be found again in a cache.
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.get(
    '/api-keys',
    {
      config: { permission: 'keys:read' },
      schema: {
        ...base,
        summary: 'List API keys, newest first, those that ended too',
        querystring: ApiKeyQuerySchema,
        response: { 200: ApiKeyPageSchema, ...problems(400) },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, cursor } = request.query
      const after = cursor === undefined ? null : decodeCursor(cursor, API_KEY_ORDER, isId)
      const page = await keys.list(principalOf(request).tenantId, { limit, after })
      return { ...page, data: page.data.map(toApiKey) }
    },
  )

  app.post(
    '/api-keys',
    {
      config: { permission: 'keys:write' },
      schema: {
        ...base,
        summary: 'Make an API key',
        description: 'Nobody can give a key more than they may do themselves.',
        body: NewKeySchema,
        response: { 201: CreatedKeySchema, ...problems(400, 413, 415) },
      },
    },
    async (request, reply) => {
      const { name, role, scopes = [], expiresAt = null } = request.body
      const spec = { name, role, scopes, expiresAt: expiresAt === null ? null : futureTime(expiresAt) }
      mayGrant(principalOf(request), request.body)
      const { key, ...row } = await keys.create(actorOf(request), spec)
      return reply.code(201).send({ ...toApiKey(row), key })
    },
  )

  app.post(
    '/api-keys/:id/rotate',
    {
      config: { permission: 'keys:write' },
      preValidation: async (request) => {
        request.body ??= {}
      },
      schema: {
        ...base,
        summary: 'Replace an API key by one that can do the same',
        description: 'The old one works on for `graceSeconds`, a day unless you say otherwise.',
        params: IdParams,
        body: RotateKeySchema,
        response: { 201: CreatedKeySchema, ...problems(400, 404, 409, 413, 415) },
      },
    },
    async (request, reply) => {
      const { graceSeconds = DEFAULT_GRACE_SECONDS } = request.body
      const { permissions } = principalOf(request)
      const { key, ...row } = await keys.rotate(actorOf(request), request.params.id, graceSeconds * 1000, permissions)
      return reply.code(201).send({ ...toApiKey(row), key })
    },
  )

  app.delete(
    '/api-keys/:id',
    {
      config: { permission: 'keys:write' },
      schema: {
        ...base,
        summary: 'End an API key',
        description: 'It works for a second more at most. A key cannot end itself, nor one that may do more.',
        params: IdParams,
        response: { 204: Type.Null({ description: 'It is ended.' }), ...problems(400, 404, 409) },
      },
    },
    async (request, reply) => {
      const { id } = request.params
      const by = actorOf(request)
      if (by.actor === `key:${id}`) {
        throw new ConflictError(
          'A key cannot end itself, lest nobody be left who can make one: use another.',
          'own_key',
        )
      }
      if (!(await keys.revoke(by, id, principalOf(request).permissions))) throw new NotFoundError('live API key', id)
      return reply.code(204).send(null)
    },
  )
}

function mayGrant(maker: Principal, { role, scopes = [] }: NewKeyInput): void {
  const beyond = scopes.findIndex((scope) => !allows(role, scope))
  if (beyond >= 0) {
    const message = `the role '${role}' does not have it; choose a higher role, or leave it out`
    throw new ValidationError([{ path: `scopes.${beyond}`, code: 'not_allowed', message }])
  }
  for (const permission of permissionsOf(role, scopes)) {
    if (!maker.permissions.has(permission)) throw new PermissionDeniedError(maker, permission)
  }
}

function futureTime(text: string): Date {
  const time = new Date(text)
  if (time.getTime() > Date.now()) return time
  throw new ValidationError([{ path: 'expiresAt', code: 'wrong_format', message: 'must be a time to come' }])
}
