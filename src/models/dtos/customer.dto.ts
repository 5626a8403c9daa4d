import { type Static, Type } from 'typebox'
import { SYNC_STATUSES, type SyncState } from '../sync-state.js'
import { USER_STATES, USER_TYPES, type User } from '../user.js'
import { MapOf, Nullable, OneOf, PAGE_QUERY, PageOf, SearchText, Time } from './parts.js'

const TYPE_RULES =
  '`regular` needs an e-mail or a phone; `unregistered` and `new` at least one of firstName, lastName, email, phone; ' +
  '`anonymous` may have none.'

const part = (description: string, example: string) =>
  Type.Optional(Nullable(Type.String({ maxLength: 5000, description, examples: [example] })))

const AddressInput = Type.Object(
  {
    line1: part('Street, number.', '1 Main St'),
    line2: part('Flat, floor.', 'Apt 2'),
    city: part('City.', 'San Francisco'),
    state: part('State, county, province.', 'CA'),
    postalCode: part('Postal code.', '94105'),
    country: Type.Optional(Nullable(Type.String({ description: 'ISO 3166-1 alpha-2.', examples: ['US'] }))),
  },
  { additionalProperties: false, description: 'A postal address.' },
)

const ShippingInput = Type.Object(
  {
    name: part('To whom. Needed when shipping is given.', 'Ada Lovelace'),
    phone: Type.Optional(
      Nullable(Type.String({ description: 'As `phone` of the customer.', examples: ['+14155550100'] })),
    ),
    address: Type.Optional(Nullable({ ...AddressInput, description: 'Where to. Needed when shipping is given.' })),
  },
  {
    additionalProperties: false,
    description: 'Where goods go: `name` and `address` are needed when any of it is given.',
  },
)

const METADATA_RULES =
  'Your own keys, at most 46: a key has at most 40 characters, no `[` or `]`, and does not begin with `lockstep_`; a value is ' +
  'text of 1 to 500 characters. Synced key by key.'

const profile = {
  firstName: Type.Optional(
    Nullable(
      Type.String({ description: 'With lastName at most 256 characters, joined by a space.', examples: ['Ada'] }),
    ),
  ),
  lastName: Type.Optional(Nullable(Type.String({ description: 'See firstName.', examples: ['Lovelace'] }))),
  email: Type.Optional(
    Nullable(Type.String({ description: 'At most 512 characters.', examples: ['ada@example.com'] })),
  ),
  phone: Type.Optional(
    Nullable(
      Type.String({
        description: 'Kept in E.164. Without a country code it is read as of the tenant’s `defaultRegion`.',
        examples: ['+14155550100'],
      }),
    ),
  ),
  description: Type.Optional(Nullable(Type.String({ description: 'At most 5000 characters.', examples: ['VIP'] }))),
  locale: Type.Optional(Nullable(Type.String({ description: 'BCP 47 language tag.', examples: ['en-GB'] }))),
  address: Type.Optional(Nullable(AddressInput)),
  shipping: Type.Optional(Nullable(ShippingInput)),
}

/** The body of POST and PUT: what is absent is null (`metadata`: empty, `type`: `regular`). */
export const CustomerInputSchema = Type.Object(
  {
    type: Type.Optional(OneOf(USER_TYPES, { description: TYPE_RULES, default: 'regular' })),
    ...profile,
    metadata: Type.Optional(MapOf(Type.String(), { description: METADATA_RULES, examples: [{ tier: 'gold' }] })),
  },
  {
    additionalProperties: false,
    description: `A customer. Blank text counts as not given. ${TYPE_RULES}`,
    examples: [
      {
        firstName: 'Ada',
        lastName: 'Lovelace',
        email: 'ada@example.com',
        phone: '+14155550100',
        metadata: { tier: 'gold' },
      },
    ],
  },
)
export type CustomerInput = Static<typeof CustomerInputSchema>

/** The body of PATCH: JSON merge patch, RFC 7396. */
export const CustomerPatchSchema = Type.Object(
  {
    type: Type.Optional(OneOf(USER_TYPES, { description: TYPE_RULES })),
    ...profile,
    metadata: Type.Optional(
      Nullable(
        MapOf(Nullable(Type.String()), {
          description: `${METADATA_RULES} Null removes a key; the others stay.`,
          examples: [{ tier: 'platinum', trial: null }],
        }),
      ),
    ),
  },
  {
    additionalProperties: false,
    description:
      'A JSON merge patch (RFC 7396): what is absent stays, null removes, `address`, `shipping` and `metadata` merge part by part.',
    examples: [{ email: 'ada@new.example.com', metadata: { tier: 'platinum', trial: null } }],
  },
)
export type CustomerPatch = Static<typeof CustomerPatchSchema>

export const CUSTOMER_SORTS = [
  '-createdAt',
  'createdAt',
  '-updatedAt',
  'updatedAt',
  'name',
  '-name',
  'email',
  '-email',
  'relevance',
] as const
export type CustomerSort = (typeof CUSTOMER_SORTS)[number]

/** The parameters of GET /customers. */
export const CustomerQuerySchema = Type.Object(
  {
    q: Type.Optional({
      ...SearchText(
        'Words, at most 12, each of which must be somewhere in the name, e-mail, phone, description or metadata values; case and ' +
          'accents do not matter, and a phone may be written in any way or be only its last digits. Words of one or two characters must ' +
          'begin a word. Only if nobody is found so, one slip in each word of letters is forgiven: one wrong, missing, too many, or two ' +
          'swapped. Or a whole id, Stripe’s or ours.',
        200,
      ),
      examples: ['jose nunez'],
    }),
    email: Type.Optional(SearchText('The whole e-mail, in any case.', 512)),
    phone: Type.Optional(SearchText('The whole phone number; E.164, or national in the tenant’s region.', 64)),
    type: Type.Optional(OneOf(USER_TYPES)),
    state: Type.Optional(OneOf([...USER_STATES, 'any'] as const, { default: 'active' })),
    syncStatus: Type.Optional(OneOf(SYNC_STATUSES)),
    stripeCustomerId: Type.Optional(SearchText('The whole Stripe customer id.', 255)),
    createdFrom: Type.Optional(Time('Created at this time or later.')),
    createdTo: Type.Optional(Time('Created before this time.')),
    updatedFrom: Type.Optional(Time('Last changed at this time or later.')),
    updatedTo: Type.Optional(Time('Last changed before this time.')),
    sort: Type.Optional(
      OneOf(CUSTOMER_SORTS, {
        default: '-createdAt',
        description:
          '`-` is newest, or last, first. `name` (first and last, without case and accents) and `email` begin with those that have none. ' +
          '`relevance` needs `q`: first those whose name or e-mail is the text, then those with words that begin so, then the others; ' +
          'newest first in each.',
      }),
    ),
    count: Type.Optional(
      OneOf(['true', 'estimate'] as const, {
        description:
          '`true`: the answer has `total`, counted up to 10,000. `estimate`: beyond that the database’s estimate, and nothing is ' +
          'counted where it expects more than 20,000. Absent: no total, which is quickest.',
      }),
    ),
    limit: PAGE_QUERY.limit,
    cursor: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 1_000,
        description:
          '`nextCursor` of the page before, with the same filters and `sort`; opaque, do not build one. Pages stay right while customers ' +
          'change: none is skipped or repeated that did not itself move.',
      }),
    ),
  },
  { additionalProperties: false },
)
export type CustomerQuery = Static<typeof CustomerQuerySchema>

const text = (example: string) => Nullable(Type.String({ examples: [example] }))
const AddressOutput = Type.Object({
  line1: text('1 Main St'),
  line2: text('Apt 2'),
  city: text('San Francisco'),
  state: text('CA'),
  postalCode: text('94105'),
  country: text('US'),
})

/** A customer as the API answers it. */
export const CustomerSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    type: OneOf(USER_TYPES),
    state: OneOf(USER_STATES, {
      description: '`archived` is soft-deleted; `erased` has lost its personal data for good.',
    }),
    firstName: text('Ada'),
    lastName: text('Lovelace'),
    email: text('ada@example.com'),
    phone: text('+14155550100'),
    description: text('VIP'),
    locale: text('en-GB'),
    address: Nullable(AddressOutput),
    shipping: Nullable(
      Type.Object({ name: text('Ada Lovelace'), phone: text('+14155550100'), address: Nullable(AddressOutput) }),
    ),
    metadata: MapOf(Type.String(), { examples: [{ tier: 'gold' }] }),
    billing: Nullable(
      Type.Object(
        {
          balance: Type.Integer({ description: 'Minor units of `currency`; negative is credit.' }),
          currency: text('usd'),
          delinquent: Type.Boolean(),
          taxExempt: OneOf(['none', 'exempt', 'reverse'] as const),
          defaultPaymentMethod: text('pm_1'),
          invoicePrefix: text('ABC123'),
        },
        { description: 'What Stripe alone decides; null until it was first read.' },
      ),
    ),
    stripeCustomerId: text('cus_NffrFeUfNV2Hib'),
    revision: Type.Integer({ description: 'Counts the changes of what Stripe should know; `If-Match` compares it.' }),
    sync: Type.Object(
      {
        status: OneOf(SYNC_STATUSES),
        settled: Type.Boolean({ description: 'Nothing waits to be carried to or from Stripe.' }),
        syncedAt: Nullable(Time('When both sides last agreed.')),
        errorCode: Nullable(Type.String({ description: 'Why the last try failed; see GET /customers/:id/sync.' })),
      },
      { description: 'How the customer stands with Stripe.' },
    ),
    archivedAt: Nullable(Time('When it was archived or erased.')),
    createdAt: Time('When it was created.'),
    updatedAt: Time('When a synced field last changed here.'),
  },
  { description: 'A customer: a row of `users`, with how it stands with Stripe.' },
)
export type Customer = Static<typeof CustomerSchema>

/** How many customers there are on all pages. */
export const CustomerTotalSchema = Type.Object(
  {
    value: Type.Integer({ minimum: 0, examples: [17] }),
    relation: OneOf(['exact', 'at_least', 'estimate'] as const, {
      description: 'How `value` stands to the real number.',
    }),
  },
  { description: 'Only when the request has `count`.' },
)
export type CustomerTotal = Static<typeof CustomerTotalSchema>

export const CustomerPageSchema = Type.Object(
  {
    ...PageOf(CustomerSchema).properties,
    total: Type.Optional(CustomerTotalSchema),
  },
  { description: 'A page of customers, in the order asked for.' },
)

/** The part of the sync state that stands beside every customer. */
export type SyncSummary = Pick<SyncState, 'status' | 'dirty' | 'syncedAt' | 'lastError'>

/** The row and its sync state as the API answers them. */
export function toCustomer(user: User, sync: SyncSummary): Customer {
  return {
    id: user.id,
    type: user.type,
    state: user.state,
    firstName: user.firstName,
    lastName: user.lastName,
    email: user.email,
    phone: user.phone,
    description: user.description,
    locale: user.locale,
    address: wholeAddress(user.address),
    shipping:
      user.shipping === null
        ? null
        : {
            name: user.shipping.name ?? null,
            phone: user.shipping.phone ?? null,
            address: wholeAddress(user.shipping.address ?? null),
          },
    metadata: user.metadata,
    billing: user.billing,
    stripeCustomerId: user.stripeCustomerId,
    revision: user.revision,
    sync: {
      status: sync.status,
      settled: !sync.dirty,
      syncedAt: sync.syncedAt?.toISOString() ?? null,
      errorCode: sync.lastError?.code ?? null,
    },
    archivedAt: user.archivedAt?.toISOString() ?? null,
    createdAt: user.createdAt.toISOString(),
    updatedAt: user.updatedAt.toISOString(),
  }
}

/** Another program may have written an address with parts missing. */
function wholeAddress(address: User['address']): Customer['address'] {
  if (address === null) return null
  const { line1, line2, city, state, postalCode, country } = address
  return {
    line1: line1 ?? null,
    line2: line2 ?? null,
    city: city ?? null,
    state: state ?? null,
    postalCode: postalCode ?? null,
    country: country ?? null,
  }
}
