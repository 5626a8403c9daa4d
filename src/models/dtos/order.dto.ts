import { type Static, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import { MATCHED_BY, ORDER_STATUSES, type Order } from '../order.js'
import { USER_TYPES } from '../user.js'
import { CustomerSchema } from './customer.dto.js'
import { Id, MapOf, Nullable, OneOf, PAGE_QUERY, PageOf, SearchText, Time } from './parts.js'

const contact = {
  firstName: Type.Optional(Nullable(Type.String({ examples: ['Ada'] }))),
  lastName: Type.Optional(Nullable(Type.String({ examples: ['Lovelace'] }))),
  email: Type.Optional(Nullable(Type.String({ examples: ['ada@example.com'] }))),
  phone: Type.Optional(Nullable(Type.String({ examples: ['+14155550100'] }))),
}

const AttendeeInput = Type.Object(
  {
    customerId: Type.Optional(Id('A customer that is known to be meant; then nothing else is needed.')),
    type: Type.Optional(
      OneOf(USER_TYPES, { description: 'Of a new customer; `unregistered`, or `anonymous` without any contact.' }),
    ),
    ...contact,
    metadata: Type.Optional(MapOf(Type.String(), { description: 'Of a new customer.' })),
  },
  {
    additionalProperties: false,
    description:
      'A customer by id, or a person: matched by e-mail, then phone; who matches nobody becomes a customer. One who is ' +
      'known is not changed by it: what the attendee gives and the customer lacks is in the snapshot only.',
  },
)
export type AttendeeInput = Static<typeof AttendeeInput>

/** The body of POST /orders. */
export const OrderInputSchema = Type.Object(
  {
    reference: Type.Optional(
      Nullable(
        Type.String({
          minLength: 1,
          maxLength: 255,
          pattern: FORMS.noNul.pattern,
          description: 'Its name in the system that took it; once per tenant.',
          examples: ['T-1042'],
        }),
      ),
    ),
    currency: Type.Optional(
      Nullable(
        Type.String({
          pattern: FORMS.currency.pattern,
          description: 'ISO 4217; needed with `total`.',
          examples: ['usd'],
        }),
      ),
    ),
    total: Type.Optional(
      Nullable(
        Type.Integer({
          minimum: 0,
          maximum: Number.MAX_SAFE_INTEGER,
          description: 'In minor units of `currency`.',
          examples: [4200],
        }),
      ),
    ),
    orderedAt: Type.Optional(Time('When it was taken; now unless given.')),
    attendees: Type.Array(AttendeeInput, { minItems: 1, maxItems: 50, description: 'Who came.' }),
  },
  {
    additionalProperties: false,
    examples: [
      {
        reference: 'T-1042',
        currency: 'usd',
        total: 4200,
        attendees: [{ firstName: 'Ada', lastName: 'Lovelace', email: 'ada@example.com' }],
      },
    ],
  },
)
export type OrderInput = Static<typeof OrderInputSchema>

/** The body of PATCH /orders/:id. */
export const OrderPatchSchema = Type.Object(
  { status: OneOf(['completed', 'cancelled'] as const, { description: 'An open order comes to its end.' }) },
  { additionalProperties: false, examples: [{ status: 'completed' }] },
)

const text = (example: string) => Nullable(Type.String({ examples: [example] }))
const SnapshotSchema = Type.Object(
  {
    type: OneOf(USER_TYPES),
    firstName: text('Ada'),
    lastName: text('Lovelace'),
    email: text('ada@example.com'),
    phone: text('+14155550100'),
  },
  {
    description:
      'The customer as it was when the order was taken, with what the attendee gave and it lacked; empty once the person was erased.',
  },
)

export const OrderSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    reference: text('T-1042'),
    status: OneOf(ORDER_STATUSES),
    currency: text('usd'),
    total: Nullable(Type.Integer({ description: 'In minor units of `currency`.' })),
    orderedAt: Time('When it was taken.'),
    attendees: Type.Array(
      Type.Object({
        customerId: Type.String({ format: 'uuid' }),
        matchedBy: OneOf(MATCHED_BY, { description: 'How the attendee came to this customer.' }),
        isFirstVisit: Type.Boolean({ description: 'The customer had no order before, but cancelled ones.' }),
        snapshot: SnapshotSchema,
      }),
    ),
    createdAt: Time('When it was stored here.'),
    updatedAt: Time('When it last changed.'),
  },
  { description: 'An order, with its attendees as they were then.' },
)
export type OrderView = Static<typeof OrderSchema>
export const OrderPageSchema = PageOf(OrderSchema)

export const OrderQuerySchema = Type.Object(
  {
    status: Type.Optional(OneOf(ORDER_STATUSES)),
    reference: Type.Optional(SearchText('The whole reference.', 255)),
    customerId: Type.Optional(Id('With this attendee.')),
    ...PAGE_QUERY,
  },
  { additionalProperties: false },
)
export type OrderQuery = Static<typeof OrderQuerySchema>

export const CustomerOrderQuerySchema = Type.Object(
  { status: Type.Optional(OneOf(ORDER_STATUSES)), ...PAGE_QUERY },
  { additionalProperties: false },
)

export function toOrder({ orderedAt, createdAt, updatedAt, ...order }: Order): OrderView {
  return {
    ...order,
    orderedAt: orderedAt.toISOString(),
    createdAt: createdAt.toISOString(),
    updatedAt: updatedAt.toISOString(),
  }
}

/** The body of POST /customers/match. */
export const MatchInputSchema = Type.Object(
  {
    email: Type.Optional(SearchText('The whole e-mail, in any case.', 512)),
    phone: Type.Optional(SearchText('The phone; E.164, or national in the tenant’s region.', 64)),
  },
  {
    additionalProperties: false,
    minProperties: 1,
    description: 'At least one of them.',
    examples: [{ email: 'ada@example.com', phone: '(415) 555-0100' }],
  },
)
export type MatchInput = Static<typeof MatchInputSchema>

export const MATCH_OUTCOMES = ['matched', 'none', 'ambiguous'] as const

export const MatchSchema = Type.Object(
  {
    outcome: OneOf(MATCH_OUTCOMES, {
      description: '`matched`: one active customer. `ambiguous`: several, or one by e-mail and another by phone.',
    }),
    matchedBy: Nullable(OneOf(['email', 'phone'] as const)),
    customers: Type.Array(CustomerSchema, { description: 'Those that fit, ten at the most.' }),
  },
  { description: 'Who of the active customers has this e-mail or phone.' },
)
export type Match = Static<typeof MatchSchema>
