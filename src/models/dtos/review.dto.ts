import { type Static, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import { USER_STATES } from '../user.js'
import { MERGE_DUPLICATE, MergeSchema } from './customer-merge.dto.js'
import { Any, Id, Nullable, OneOf, PAGE_QUERY, PageOf, SearchText, Time } from './parts.js'

export const CONFLICT_STATUSES = ['open', 'resolved'] as const
export const WINNERS = ['local', 'stripe'] as const
export type Winner = (typeof WINNERS)[number]

/** Two values of one field that could not both win. */
export const ConflictSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    customerId: Type.String({ format: 'uuid' }),
    field: Type.String({ examples: ['email', 'metadata.tier'] }),
    reason: OneOf(['both_changed', 'overwritten', 'cannot_clear'] as const),
    policy: Type.String({ description: 'The tenant’s policy for the field at the time.', examples: ['latest'] }),
    base: Any('What both sides last agreed on.'),
    local: Any('What the row had.'),
    remote: Any('What Stripe had.'),
    localAt: Nullable(Time('When the row’s value was set.')),
    remoteAt: Nullable(Time('When Stripe’s value was set.')),
    winner: Nullable(OneOf(WINNERS, { description: 'Null while it is open: the field is frozen on both sides.' })),
    status: OneOf(CONFLICT_STATUSES),
    detectedAt: Time('When it was found.'),
    resolvedAt: Nullable(Time('When the winner was set.')),
    resolvedBy: Nullable(Type.String({ description: '`policy`, `agreement`, or who decided.' })),
  },
  { description: 'Two values of one field that could not both win. Both are kept here.' },
)
export type Conflict = Static<typeof ConflictSchema>
export const ConflictPageSchema = PageOf(ConflictSchema)

export const ConflictQuerySchema = Type.Object(
  {
    status: Type.Optional(OneOf(CONFLICT_STATUSES)),
    userId: Type.Optional(Id('Of this customer only.')),
    ...PAGE_QUERY,
  },
  { additionalProperties: false },
)
export type ConflictQuery = Static<typeof ConflictQuerySchema>

export const ResolveSchema = Type.Object(
  { winner: OneOf(WINNERS, { description: 'Whose value both sides shall have.' }) },
  { additionalProperties: false, examples: [{ winner: 'local' }] },
)

/** What a {@link Conflict} is made of: a row of `sync_conflicts`. */
export interface ConflictSource {
  id: string
  userId: string
  field: string
  reason: Conflict['reason']
  policy: string
  base: unknown
  local: unknown
  remote: unknown
  localAt: Date | null
  remoteAt: Date | null
  winner: Winner | null
  status: Conflict['status']
  detectedAt: Date
  resolvedAt: Date | null
  resolvedBy: string | null
}

export function toConflict(row: ConflictSource): Conflict {
  return {
    id: row.id,
    customerId: row.userId,
    field: row.field,
    reason: row.reason,
    policy: row.policy,
    base: row.base,
    local: row.local,
    remote: row.remote,
    localAt: row.localAt?.toISOString() ?? null,
    remoteAt: row.remoteAt?.toISOString() ?? null,
    winner: row.winner,
    status: row.status,
    detectedAt: row.detectedAt.toISOString(),
    resolvedAt: row.resolvedAt?.toISOString() ?? null,
    resolvedBy: row.resolvedBy,
  }
}

export const DUPLICATE_STATUSES = ['open', 'linked', 'ignored', 'merged'] as const
const DUPLICATE_REASONS = ['lockstep_id', 'email', 'phone', 'ambiguous'] as const
const MATCHED_VALUES = ['lockstep_id', 'email', 'phone'] as const

export const DuplicateSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    stripeCustomerId: Type.String({ examples: ['cus_NffrFeUfNV2Hib'] }),
    customerId: Nullable(
      Type.String({ format: 'uuid', description: 'The customer that it looks like, when it is one.' }),
    ),
    reason: OneOf(DUPLICATE_REASONS, { description: 'By what it looks like them; `ambiguous`: like several.' }),
    matchedBy: Nullable(OneOf(MATCHED_VALUES, { description: 'The value that they share.' })),
    why: Type.String({
      description: 'The rule in words, for people.',
      examples: [
        'It has the same e-mail as a customer that has a Stripe customer already, and was imported as another.',
      ],
    }),
    candidates: Type.Array(Type.String(), { description: 'Ids of the customers among which it is unclear.' }),
    matches: Type.Array(
      Type.Object({
        customerId: Type.String({ format: 'uuid' }),
        state: OneOf(USER_STATES),
        stripeCustomerId: Nullable(Type.String()),
      }),
      { description: 'The customers that are meant, as they are now.' },
    ),
    status: OneOf(DUPLICATE_STATUSES),
    merge: Type.Optional(
      Nullable({ ...MergeSchema, description: 'What merging it came to; in the answer to that only.' }),
    ),
    detectedAt: Time('When it was found.'),
  },
  { description: 'A Stripe customer that looks like a customer we already have.' },
)
export type Duplicate = Static<typeof DuplicateSchema>
export const DuplicatePageSchema = PageOf(DuplicateSchema)

export const DuplicateQuerySchema = Type.Object(
  { status: Type.Optional(OneOf(DUPLICATE_STATUSES)), ...PAGE_QUERY },
  { additionalProperties: false },
)
export type DuplicateQuery = Static<typeof DuplicateQuerySchema>

/** The body of POST /duplicates/:id/resolve. */
export const ResolveDuplicateSchema = Type.Object(
  {
    action: OneOf(['link', 'ignore', 'merge'] as const, {
      description:
        '`link`: it is this customer’s, and both sides are brought together. `ignore`: it is nobody’s, and is not asked about again. ' +
        '`merge`: it and the customer’s own Stripe customer are one person; `survivor` says which stays.',
    }),
    customerId: Type.Optional(
      Id('With `link` and `merge`: whose it is; needed when several could be meant, else the one that it looks like.'),
    ),
    ...MERGE_DUPLICATE,
  },
  {
    additionalProperties: false,
    examples: [{ action: 'link' }, { action: 'ignore' }, { action: 'merge', survivor: 'linked' }],
  },
)

/** What a {@link Duplicate} is made of: a row of `duplicate_customers`. */
export type DuplicateSource = Omit<Duplicate, 'customerId' | 'detectedAt' | 'why' | 'merge'> & {
  userId: string | null
  detectedAt: Date
}

const SHARED: Record<(typeof MATCHED_VALUES)[number], string> = {
  lockstep_id: 'id of ours',
  email: 'e-mail',
  phone: 'phone',
}

export function toDuplicate({ userId, detectedAt, ...row }: DuplicateSource): Duplicate {
  return {
    ...row,
    why: whyOf(row.reason, row.matchedBy, userId),
    customerId: userId,
    detectedAt: detectedAt.toISOString(),
  }
}

function whyOf(reason: Duplicate['reason'], matchedBy: Duplicate['matchedBy'], userId: string | null): string {
  if (reason === 'lockstep_id') return 'Its metadata names a customer that has another Stripe customer.'
  const shared = matchedBy === null ? 'e-mail or phone' : SHARED[matchedBy]
  if (reason !== 'ambiguous') {
    return `It has the same ${shared} as a customer that has a Stripe customer already, and was imported as another.`
  }
  return userId === null
    ? `Several customers without a Stripe customer have its ${shared}.`
    : `It has the same ${shared} as a customer without a Stripe customer, and others fit too.`
}

export const EVENT_STATUSES = ['pending', 'processed', 'ignored', 'failed', 'quarantined'] as const

const event = {
  id: Type.String({ examples: ['evt_1NG8Du2eZvKYlo2CUI79vXWy'] }),
  type: Type.String({ examples: ['customer.updated'] }),
  account: Nullable(Type.String({ description: 'The Connect account that it came from.' })),
  livemode: Type.Boolean(),
  stripeCustomerId: Nullable(Type.String()),
  idempotencyKey: Nullable(Type.String({ description: 'Of the request that caused it; ours begin with `lockstep-`.' })),
  source: OneOf(['webhook', 'catch_up'] as const),
  status: OneOf(EVENT_STATUSES),
  outcome: Nullable(Type.String({ description: 'What it came to.' })),
  attempts: Type.Integer(),
  error: Nullable(Type.String()),
  created: Time('When Stripe made it.'),
  receivedAt: Time('When it was stored here.'),
  processedAt: Nullable(Time('When it was settled.')),
}

export const EventSchema = Type.Object(event, { description: 'An event from Stripe, as the inbox has it.' })
export const EventDetailSchema = Type.Object(
  {
    ...event,
    payload: Any(
      'The event as Stripe sent it; of one that nothing is done about, `ignored` or `quarantined`, only what it is about, by ids. Empty once the person was erased.',
    ),
  },
  { description: 'An event from Stripe, with what Stripe sent.' },
)
export type Event = Static<typeof EventSchema>
export type EventDetail = Static<typeof EventDetailSchema>
export const EventPageSchema = PageOf(EventSchema)

/** The id of a Stripe event. */
export const EVENT_ID = FORMS.eventId.pattern
export const EventParams = Type.Object({
  id: Type.String({ pattern: EVENT_ID, description: 'Stripe’s id of the event.' }),
})

export const EventQuerySchema = Type.Object(
  {
    status: Type.Optional(OneOf(EVENT_STATUSES)),
    type: Type.Optional(SearchText('The whole type, such as `customer.updated`.', 255)),
    stripeCustomerId: Type.Optional(SearchText('The whole Stripe customer id.', 255)),
    ...PAGE_QUERY,
  },
  { additionalProperties: false },
)
export type EventQuery = Static<typeof EventQuerySchema>

/** What an {@link Event} is made of: a row of `stripe_events`, without its payload. */
export type EventSource = Omit<Event, 'created' | 'receivedAt' | 'processedAt'> & {
  created: Date
  receivedAt: Date
  processedAt: Date | null
}

export function toEvent({ created, receivedAt, processedAt, ...row }: EventSource): Event {
  return {
    ...row,
    created: created.toISOString(),
    receivedAt: receivedAt.toISOString(),
    processedAt: processedAt?.toISOString() ?? null,
  }
}
