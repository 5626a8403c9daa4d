import { type Static, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import { Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

const STRIPE_STATES = ['connected', 'refused', 'not_connected'] as const
const MODES = ['test', 'live'] as const

const slug = Type.String({
  pattern: FORMS.slug.pattern,
  description:
    'Names it in tokens and on the command line: 2 to 63 lower-case letters, digits and hyphens; cannot change.',
  examples: ['acme'],
})
const name = Type.String({
  minLength: 1,
  maxLength: 200,
  pattern: FORMS.noNul.pattern,
  description: 'For people.',
  examples: ['Acme Ltd'],
})
const connectAccount = Nullable(
  Type.String({
    pattern: FORMS.stripeAccount.pattern,
    description: "An account that is connected to the key's; null: the account of the key itself.",
    examples: ['acct_1AbcDefGhiJklMno'],
  }),
)

/** The body of POST /tenants. */
export const NewTenantSchema = Type.Object(
  { slug, name },
  { additionalProperties: false, examples: [{ slug: 'acme', name: 'Acme Ltd' }] },
)
export type NewTenantInput = Static<typeof NewTenantSchema>

/** The body of PATCH /tenants/:id. */
export const TenantPatchSchema = Type.Object(
  { name: Type.Optional(name), connectAccount: Type.Optional(connectAccount) },
  { additionalProperties: false, examples: [{ name: 'Acme Holdings Ltd' }] },
)
export type TenantPatch = Static<typeof TenantPatchSchema>

/** The body of PUT /tenant/stripe. What is absent stays; a secret that was given once cannot be asked back. */
export const StripeConnectionInputSchema = Type.Object(
  {
    secretKey: Type.Optional(
      Nullable(
        Type.String({
          pattern: FORMS.stripeKey.pattern,
          description:
            'Secret or restricted key; it must read and write customers and read events. Tried before it is stored. Null removes it.',
          examples: ['sk_test_51AbcDefGhi'],
        }),
      ),
    ),
    webhookSecrets: Type.Optional(
      Type.Array(
        Type.String({
          pattern: FORMS.webhookSecret.pattern,
          description: 'What the endpoint signs with, `whsec_…`.',
        }),
        {
          maxItems: 10,
          uniqueItems: true,
          description:
            'All of them: any may have signed a delivery, so that one can replace another. Empty: none of its own.',
          examples: [['whsec_0123456789AbcDefGhi']],
        },
      ),
    ),
    connectAccount: Type.Optional(connectAccount),
  },
  {
    additionalProperties: false,
    description: 'What is absent stays as it is.',
    // The first is what a form sends as it is: it must do no harm.
    examples: [{}, { secretKey: 'sk_test_51AbcDefGhi', webhookSecrets: ['whsec_0123456789AbcDefGhi'] }],
  },
)
export type StripeConnectionInput = Static<typeof StripeConnectionInputSchema>

const SecretSchema = Type.Object({
  last4: Nullable(
    Type.String({
      description: 'The last four characters; null when it cannot be opened, or is too short to show some.',
    }),
  ),
  sealedWith: Nullable(Type.String({ description: 'The id of the encryption key that seals it.' })),
})

const StripeConnectionSchema = Type.Object({
  status: OneOf(STRIPE_STATES, {
    description: '`refused`: Stripe refuses the key, the work is kept. `not_connected`: nothing is synced yet.',
  }),
  account: Nullable(
    Type.String({
      description: 'Where its Stripe customers are; null for the platform’s, or where the key may not say.',
    }),
  ),
  connectAccount,
  mode: OneOf(MODES),
  key: Nullable(
    Type.Object({
      ...SecretSchema.properties,
      setAt: Nullable(Time('When it was set.')),
    }),
  ),
  webhookSecrets: Type.Array(SecretSchema),
  refusedSince: Nullable(Time('Since when Stripe refuses the key.')),
  refusal: Nullable(Type.String({ description: 'What Stripe says to the key.' })),
})

const tenant = {
  id: Type.String({ format: 'uuid' }),
  slug: Type.String(),
  name: Type.String(),
  stripe: StripeConnectionSchema,
  createdAt: Time('When it was made.'),
  updatedAt: Time('When it last changed.'),
}
export const TenantSchema = Type.Object(tenant, { description: 'A tenant, without its secrets.' })
export const TenantPageSchema = PageOf(TenantSchema)
/** A tenant with its first key, which is shown once. */
export const CreatedTenantSchema = Type.Object(
  {
    ...tenant,
    adminKey: Type.String({ description: 'An admin key of the tenant. Hand it over: it is shown this once.' }),
  },
  { description: 'A new tenant. `adminKey` is shown this once.' },
)
export const TenantQuerySchema = Type.Object(PAGE_QUERY, { additionalProperties: false })
export type TenantQuery = Static<typeof TenantQuerySchema>
export type TenantView = Static<typeof TenantSchema>
