import { type Static, Type } from 'typebox'
import { Any, Nullable, PAGE_QUERY, PageOf, SearchText, Time } from './parts.js'

/** An entry of the audit log. */
export const AuditEntrySchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    at: Time('When it was recorded.'),
    actor: Type.String({
      description:
        '`key:<id>`, `jwt:<subject>`, `cli`, `system`, `sql:<role>` for a write past the API, `stripe`, `sync`.',
      examples: ['key:019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'],
    }),
    action: Type.String({ examples: ['customer.update', 'sync.apply'] }),
    entity: Type.String({ examples: ['customer'] }),
    entityId: Type.String(),
    changes: Any(
      'What changed; `fields` by path, each with `from` and `to`. `[erased]` stands for values of a person who was erased.',
    ),
    cause: Nullable(
      Type.String({
        description: 'What led to it: an event, `run:<id>`, `conflict:<id>`, `duplicate:<id>`.',
        examples: ['evt_1NG8Du2eZvKYlo2CUI79vXWy'],
      }),
    ),
    requestId: Nullable(Type.String({ description: 'The `X-Request-Id` of the request that did it.' })),
    ip: Nullable(Type.String({ description: 'The address that it came from.' })),
    seq: Nullable(Type.Integer({ description: 'Its number in the chain; null for the second until it is chained.' })),
    hash: Nullable(Type.String({ description: 'SHA-256 over the entry and all before it, in hex.' })),
  },
  { description: 'Something that was done, by whom, and what changed.' },
)
export type AuditEntry = Static<typeof AuditEntrySchema>
export const AuditPageSchema = PageOf(AuditEntrySchema)

export const AuditQuerySchema = Type.Object(
  {
    entity: Type.Optional(SearchText('Of this kind, such as `customer`, `conflict`, `order`, `api_key`.', 64)),
    entityId: Type.Optional(SearchText('Of this id.', 255)),
    actor: Type.Optional(SearchText('By this actor.', 255)),
    action: Type.Optional(SearchText('This action, such as `customer.update`.', 64)),
    from: Type.Optional(Time('At or after.')),
    to: Type.Optional(Time('Before.')),
    ...PAGE_QUERY,
  },
  { additionalProperties: false },
)
export type AuditQuery = Static<typeof AuditQuerySchema>
