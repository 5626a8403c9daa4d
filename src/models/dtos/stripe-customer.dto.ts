import Type, { type Static } from 'typebox'

/** Lengths and counts as Stripe enforces them (docs.stripe.com/api/customers/create, docs.stripe.com/api/metadata). */
export const STRIPE_LIMITS = {
  name: 256,
  email: 512,
  phone: 20,
  description: 5000,
  addressPart: 5000,
  metadataKeys: 50,
  metadataKey: 40,
  metadataValue: 500,
} as const

/** One address at most so far as Stripe is concerned: something, an @, something with no blank in between. */
const EMAIL = '^[^\\s@]+@[^\\s@]+$'

const addressPart = Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.addressPart }))

/** Stripe replaces an address whole: a part that is left out is unset. */
export const StripeAddressDto = Type.Object(
  {
    line1: addressPart,
    line2: addressPart,
    city: addressPart,
    state: addressPart,
    postal_code: addressPart,
    country: addressPart,
  },
  { additionalProperties: false },
)

export const StripeShippingDto = Type.Object(
  {
    name: Type.String({ maxLength: 5000 }),
    phone: Type.Optional(Type.String({ maxLength: 20 })),
    address: StripeAddressDto,
  },
  { additionalProperties: false },
)

const unset = Type.Literal('', { description: 'An empty string unsets the field.' })

/** Keys of at most 40 characters without brackets, values of at most 500; on an update "" removes the key. */
const StripeMetadataDto = Type.Record(
  Type.String({ pattern: `^[^\\[\\]]{1,${STRIPE_LIMITS.metadataKey}}$` }),
  Type.String({ maxLength: STRIPE_LIMITS.metadataValue }),
  { maxProperties: STRIPE_LIMITS.metadataKeys, additionalProperties: false },
)

/** What a Stripe customer is made of: {@link CreateStripeCustomerDto} is checked against Stripe's limits before any call. */
export const CreateStripeCustomerDto = Type.Object(
  {
    name: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.name })),
    email: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.email, pattern: EMAIL })),
    phone: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.phone })),
    description: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.description })),
    address: Type.Optional(StripeAddressDto),
    shipping: Type.Optional(StripeShippingDto),
    preferred_locales: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { minItems: 1 })),
    metadata: Type.Optional(StripeMetadataDto),
  },
  { additionalProperties: false },
)
export type CreateStripeCustomerDto = Static<typeof CreateStripeCustomerDto>

/** A change: what is left out stays, "" unsets. Metadata merges key by key; address and shipping are replaced whole. */
export const UpdateStripeCustomerDto = Type.Object(
  {
    name: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.name })),
    email: Type.Optional(Type.Union([Type.String({ maxLength: STRIPE_LIMITS.email, pattern: EMAIL }), unset])),
    phone: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.phone })),
    description: Type.Optional(Type.String({ maxLength: STRIPE_LIMITS.description })),
    address: Type.Optional(Type.Union([StripeAddressDto, unset])),
    shipping: Type.Optional(Type.Union([StripeShippingDto, unset])),
    preferred_locales: Type.Optional(Type.Array(Type.String({ minLength: 1 }), { minItems: 1 })),
    metadata: Type.Optional(StripeMetadataDto),
  },
  { additionalProperties: false },
)
export type UpdateStripeCustomerDto = Static<typeof UpdateStripeCustomerDto>

/** A Stripe customer as other parts of an application need it. */
export const StripeCustomerResponseDto = Type.Object({
  id: Type.String(),
  email: Type.Union([Type.String(), Type.Null()]),
  name: Type.Union([Type.String(), Type.Null()]),
  phone: Type.Union([Type.String(), Type.Null()]),
  created: Type.Integer({ description: 'Seconds since the Unix epoch.' }),
  livemode: Type.Boolean(),
  metadata: Type.Record(Type.String(), Type.String()),
})
export type StripeCustomerResponseDto = Static<typeof StripeCustomerResponseDto>
