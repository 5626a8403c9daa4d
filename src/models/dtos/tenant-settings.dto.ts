import { type Static, type TSchema, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import type { TenantSettings } from '../tenant.js'
import { MapOf, Nullable, OneOf } from './parts.js'
import { RetentionSettingsSchema } from './retention.dto.js'

const POLICIES = ['latest', 'local', 'stripe', 'manual'] as const
const REMOTE_CREATE = ['import', 'link-only', 'ignore'] as const
const REMOTE_DELETE = ['detach', 'archive', 'recreate'] as const

/** How many policies, and prefixes, a tenant may have: more than any need, and a bound on what every reconcile reads. */
export const MAX_POLICIES = 100
const MAX_PREFIXES = 50

const POLICY_RULES =
  'Who wins when both sides changed a field differently, by field: `latest` (the later edit), `local`, `stripe`, or `manual` (frozen until ' +
  'someone decides). Fields: `email`, `phone`, `name`, `description`, `locale`, `address`, `shipping`, `metadata` for all its keys, ' +
  '`metadata.<key>` for one, `default` for the rest. Without any: `latest`.'

/** Every setting of a tenant: one that is not here is refused, and one of the model that is missing here does not compile. */
const SETTINGS = {
  policies: MapOf(OneOf(POLICIES), {
    description: POLICY_RULES,
    examples: [{ default: 'latest', email: 'stripe', 'metadata.tier': 'manual' }],
  }),
  onRemoteCreate: OneOf(REMOTE_CREATE, {
    description:
      'A Stripe customer that fits no user: `import` makes a user of it; `link-only` leaves it alone, and reports one that looks like a user who has another; `ignore` leaves it alone.',
  }),
  onRemoteDelete: OneOf(REMOTE_DELETE, {
    description:
      'The Stripe customer was deleted in Stripe: the user stays so (`detach`), is archived, or gets a new one.',
  }),
  defaultRegion: Type.String({
    pattern: FORMS.country.pattern,
    description: 'Country (ISO 3166-1 alpha-2) by which phone numbers without a country code are read.',
    examples: ['GB'],
  }),
  foreignMetadataPrefixes: Type.Array(
    Type.String({ minLength: 1, maxLength: 40, pattern: FORMS.noNul.pattern, description: 'How their names begin.' }),
    {
      maxItems: MAX_PREFIXES,
      uniqueItems: true,
      description: 'Metadata keys of other systems: never imported, never written.',
      examples: [['crm_']],
    },
  ),
  retention: RetentionSettingsSchema,
} satisfies Record<keyof TenantSettings, TSchema>

/** The settings as they count: what was never set has its default. */
export const TenantSettingsSchema = Type.Object(SETTINGS, { description: 'The settings of a tenant.' })

/** The body of PATCH /tenant/settings: JSON merge patch, RFC 7396. Null, also of one policy, brings the default back. */
export const TenantSettingsPatchSchema = Type.Object(
  {
    policies: Type.Optional(Nullable(MapOf(Nullable(OneOf(POLICIES)), { description: POLICY_RULES }))),
    onRemoteCreate: Type.Optional(Nullable(SETTINGS.onRemoteCreate)),
    onRemoteDelete: Type.Optional(Nullable(SETTINGS.onRemoteDelete)),
    defaultRegion: Type.Optional(Nullable(SETTINGS.defaultRegion)),
    foreignMetadataPrefixes: Type.Optional(Nullable(SETTINGS.foreignMetadataPrefixes)),
    retention: Type.Optional(Nullable(SETTINGS.retention)),
  } satisfies Record<keyof TenantSettings, TSchema>,
  {
    additionalProperties: false,
    description:
      'A JSON merge patch (RFC 7396): what is absent stays, null brings the default back, `policies` and `retention` merge one by one.',
    // The first is what a form sends as it is: it must do no harm.
    examples: [{}, { policies: { email: 'stripe' }, onRemoteDelete: 'archive', defaultRegion: 'GB' }],
  },
)
export type TenantSettingsPatch = Static<typeof TenantSettingsPatchSchema>

/** The settings by name, for documentation and the command line. */
export const SETTING_NAMES = Object.keys(SETTINGS) as (keyof TenantSettings)[]
