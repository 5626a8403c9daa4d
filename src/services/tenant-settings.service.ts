import { isSupportedCountry } from 'libphonenumber-js'
import { Value } from 'typebox/value'
import { ConflictError, type FieldError, NotFoundError, ValidationError } from '../lib/errors.js'
import { fieldErrorsOf } from '../lib/field-errors.js'
import { sameJson } from '../lib/json.js'
import {
  MAX_POLICIES,
  SETTING_NAMES,
  type TenantSettingsPatch,
  TenantSettingsPatchSchema,
  TenantSettingsSchema,
} from '../models/dtos/tenant-settings.dto.js'
import type { PlainField } from '../models/synced-fields.js'
import { DEFAULT_SETTINGS, type TenantSettings } from '../models/tenant.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { statementsOf } from '../repositories/database.js'
import type { Prisma, PrismaClient } from '../repositories/generated/client.js'
import { inTransaction } from '../repositories/prisma.js'
import { findTenantRecord, lockTenantRecord, saveSettings } from '../repositories/tenant-records.js'

/** What a policy may be set for, beside single keys of the metadata. */
const POLICY_FIELDS = [
  'default',
  'email',
  'phone',
  'name',
  'description',
  'locale',
  'address',
  'shipping',
  'metadata',
] as const satisfies readonly (PlainField | 'default' | 'metadata')[]
/** Stripe's rule for keys of metadata (docs.stripe.com/metadata#data), and our own prefix, which is nobody's to decide about. */
const METADATA_POLICY = /^metadata\.(?!lockstep_)[^[\]\0]{1,40}$/

export type TenantSettingsService = ReturnType<typeof makeTenantSettingsService>

/** What a tenant decided about its sync. Throws `ValidationError`, `NotFoundError`, `ConflictError` and `DatabaseError`. */
export function makeTenantSettingsService({ prisma }: { prisma: PrismaClient }) {
  return {
    /** The settings as they count: what was never set has its default. */
    async get(tenantId: string): Promise<TenantSettings> {
      const tenant = await findTenantRecord(statementsOf(prisma), tenantId)
      if (tenant === null) throw new NotFoundError('tenant', tenantId)
      return mustFit(tenant.settings)
    },

    /** Applies a merge patch, all of it or nothing; it counts from the next write on, within a second in every process. */
    async patch(by: Actor, patch: TenantSettingsPatch): Promise<TenantSettings> {
      checkRules(patch)
      return inTransaction(prisma, async (tx) => {
        const db = statementsOf(tx)
        const tenant = await lockTenantRecord(db, by.tenantId)
        if (tenant === null) throw new NotFoundError('tenant', by.tenantId)
        const stored = merged(tenant.storedSettings, patch)
        const settings = mustFit({ ...DEFAULT_SETTINGS, ...stored })
        if (Object.keys(settings.policies).length > MAX_POLICIES) {
          throw new ValidationError([
            { path: 'policies', code: 'too_many', message: `must not be more than ${MAX_POLICIES} in all` },
          ])
        }
        const changed = SETTING_NAMES.filter((name) => !sameJson(tenant.settings[name], settings[name]))
        if (changed.length === 0) return settings
        await saveSettings(db, by.tenantId, stored)
        await writeAudit(tx, by, {
          action: 'tenant.settings',
          entity: 'tenant',
          entityId: by.tenantId,
          changes: { before: only(tenant.settings, changed), after: only(settings, changed) },
        })
        return settings
      })
    },
  }
}

/**
 * A patch that came from no route, and was therefore checked by none.
 *
 * @throws {ValidationError} naming each part that is none of a settings patch
 */
export function parseSettingsPatch(value: unknown): TenantSettingsPatch {
  if (Value.Check(TenantSettingsPatchSchema, value)) return value as TenantSettingsPatch
  const errors = fieldErrorsOf(Value.Errors(TenantSettingsPatchSchema, value), 'body').map((error) =>
    error.code === 'unknown_field' && !error.path.includes('.')
      ? { ...error, message: `is no setting; there are ${SETTING_NAMES.join(', ')}` }
      : error,
  )
  throw new ValidationError(errors)
}

/**
 * The settings, if they are any: another program may have stored others.
 *
 * @throws {ConflictError} `settings_invalid`, naming what is wrong
 */
function mustFit(settings: TenantSettings): TenantSettings {
  if (Value.Check(TenantSettingsSchema, settings)) return settings
  const wrong = fieldErrorsOf(Value.Errors(TenantSettingsSchema, settings), 'settings')
  throw new ConflictError(
    `The stored settings are not valid: ${wrong.map(({ path, message }) => `${path} ${message}`).join('; ')}. ` +
      'PATCH /tenant/settings with null for each brings its default back.',
    'settings_invalid',
  )
}

/** What a schema cannot say. */
function checkRules({ policies, defaultRegion, foreignMetadataPrefixes }: TenantSettingsPatch): void {
  const errors: FieldError[] = []
  for (const field of Object.keys(policies ?? {})) {
    if ((POLICY_FIELDS as readonly string[]).includes(field) || METADATA_POLICY.test(field)) continue
    const message = `is no field; there are ${POLICY_FIELDS.join(', ')}, and metadata.<key>`
    errors.push({ path: `policies.${field}`, code: 'unknown_field', message })
  }
  if (defaultRegion != null && !isSupportedCountry(defaultRegion)) {
    errors.push({ path: 'defaultRegion', code: 'not_allowed', message: 'is no country with phone numbers of its own' })
  }
  for (const [index, prefix] of (foreignMetadataPrefixes ?? []).entries()) {
    if (!prefix.startsWith('lockstep_')) continue
    const message = "must not begin with 'lockstep_', which is our own"
    errors.push({ path: `foreignMetadataPrefixes.${index}`, code: 'not_allowed', message })
  }
  if (errors.length > 0) throw new ValidationError(errors)
}

/** RFC 7396, over what is stored: what goes back to its default is stored no more. */
function merged(
  stored: Partial<TenantSettings>,
  { policies, retention, ...rest }: TenantSettingsPatch,
): Partial<TenantSettings> {
  const next: Record<string, unknown> = { ...stored, ...rest }
  if (policies === null) next.policies = null
  else if (policies !== undefined) next.policies = withoutNulls({ ...stored.policies, ...policies })
  if (retention === null) next.retention = null
  else if (retention !== undefined) next.retention = withoutNulls({ ...stored.retention, ...retention })
  return withoutNulls(next) as Partial<TenantSettings>
}

function withoutNulls(values: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null && value !== undefined))
}

/** Settings are no personal data, so the audit log holds their values. */
function only(settings: TenantSettings, names: readonly (keyof TenantSettings)[]): Prisma.InputJsonObject {
  return Object.fromEntries(names.map((name) => [name, settings[name] as unknown as Prisma.InputJsonValue]))
}
