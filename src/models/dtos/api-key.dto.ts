import { type Static, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import { PERMISSIONS, ROLES } from '../roles.js'
import { Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

const SCOPES = 'The only permissions of the key; none: all of its role.'

/** The body of POST /api-keys. */
export const NewKeySchema = Type.Object(
  {
    name: Type.String({
      minLength: 1,
      maxLength: 100,
      pattern: FORMS.noNul.pattern,
      description: 'What it is for; shown in lists.',
      examples: ['Till in shop 3'],
    }),
    role: OneOf(ROLES, {
      description: 'A viewer reads, with personal data masked; a manager changes; an admin may all.',
    }),
    scopes: Type.Optional(
      Type.Array(OneOf(PERMISSIONS), {
        maxItems: PERMISSIONS.length,
        uniqueItems: true,
        description: `${SCOPES} Each must be of the role.`,
        examples: [['customers:read', 'pii:read']],
      }),
    ),
    expiresAt: Type.Optional(Nullable(Time('When it ends by itself; null: never.'))),
  },
  {
    additionalProperties: false,
    examples: [{ name: 'Till in shop 3', role: 'manager', scopes: ['customers:read', 'customers:write', 'pii:read'] }],
  },
)
export type NewKeyInput = Static<typeof NewKeySchema>

/** The body of POST /api-keys/:id/rotate. */
export const RotateKeySchema = Type.Object(
  {
    graceSeconds: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: 2_592_000,
        default: 86_400,
        description: 'For how long the old key works on.',
      }),
    ),
  },
  { additionalProperties: false, examples: [{ graceSeconds: 3600 }] },
)

const key = {
  id: Type.String({ format: 'uuid' }),
  name: Type.String(),
  prefix: Type.String({ description: 'The part of the key that may be shown, to tell it from others.' }),
  role: Type.String({ examples: ['manager'] }),
  scopes: Type.Array(Type.String(), { description: SCOPES }),
  expiresAt: Nullable(Time('When it ends by itself.')),
  revokedAt: Nullable(Time('When someone ended it.')),
  lastUsedAt: Nullable(Time('When it was last used, to the minute.')),
  createdAt: Time('When it was made.'),
}

export const ApiKeySchema = Type.Object(key, { description: 'An API key, without the key itself, which is not kept.' })
export const ApiKeyPageSchema = PageOf(ApiKeySchema)
/** A key as it is shown once. */
export const CreatedKeySchema = Type.Object(
  { ...key, key: Type.String({ description: 'The key. Keep it: it is shown this once.' }) },
  { description: 'A new API key. `key` is shown this once.' },
)
export const ApiKeyQuerySchema = Type.Object(PAGE_QUERY, { additionalProperties: false })
export type ApiKeyView = Static<typeof ApiKeySchema>

/** What an {@link ApiKeyView} is made of. */
export interface ApiKeySource {
  id: string
  name: string
  prefix: string
  role: string
  scopes: string[]
  expiresAt: Date | null
  revokedAt: Date | null
  lastUsedAt: Date | null
  createdAt: Date
}

export function toApiKey(row: ApiKeySource): ApiKeyView {
  return {
    id: row.id,
    name: row.name,
    prefix: row.prefix,
    role: row.role,
    scopes: row.scopes,
    expiresAt: row.expiresAt?.toISOString() ?? null,
    revokedAt: row.revokedAt?.toISOString() ?? null,
    lastUsedAt: row.lastUsedAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
  }
}
