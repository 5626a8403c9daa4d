import { type FieldError, ValidationError } from '../lib/errors.js'
import { sameJson } from '../lib/json.js'
import { normalisePhone } from '../lib/phones.js'
import type { Address, Shipping } from '../models/synced-fields.js'
import type { TenantSettings } from '../models/tenant.js'
import type { User, UserType } from '../models/user.js'
import type { CustomerValues } from '../repositories/customers.js'
import { FACT_PREFIX, FIELDS, joinName, localFacts, METADATA_KEY_LIMIT } from '../sync/fields.js'

/** Stripe's limits, in characters (docs.stripe.com/api/customers, docs.stripe.com/api/metadata). */
const LIMITS = { name: 256, email: 512, text: 5000, metadataKey: 40, metadataValue: 500 } as const

/** How many metadata keys are left for the customer's own: Lockstep's facts count too. */
export const OWN_METADATA_KEYS =
  METADATA_KEY_LIMIT - Object.keys(localFacts({ id: '', tenantId: '', type: 'regular', state: 'active' })).length

/** Which of these a customer of each type must have one of. */
const NEEDS: Readonly<Record<UserType, readonly ('email' | 'phone' | 'firstName' | 'lastName')[]>> = {
  regular: ['email', 'phone'],
  unregistered: ['firstName', 'lastName', 'email', 'phone'],
  new: ['firstName', 'lastName', 'email', 'phone'],
  anonymous: [],
}

/**
 * One `@`, no blanks, quoting or characters that do not show, a domain of labels with a dot, the last of them no number (RFC 3696, section
 * 2): what Stripe takes, not all that RFC 5322 allows.
 */
const EMAIL =
  /^[^\s\p{C}@"(),:;<>[\]\\]{1,64}@(?:[\p{L}\p{N}](?:[\p{L}\p{N}-]*[\p{L}\p{N}])?\.)+(?!\p{N}+$)[\p{L}\p{N}][\p{L}\p{N}-]{0,61}[\p{L}\p{N}]$/u
const DOTS = /^\.|\.\.|\.@/
/** What Postgres cannot hold: U+0000 in text, half a surrogate pair in jsonb. */
const UNSTORABLE = /\0|\p{Surrogate}/u
/** What has no place in a line of text, such as a name: line breaks, tabs and the like. */
const CONTROL = /\p{Cc}/u
/** Codes that CLDR names but ISO 3166-1 does not assign to a country. */
const NOT_COUNTRIES = new Set([
  'AC',
  'AN',
  'CP',
  'CQ',
  'DG',
  'EA',
  'EU',
  'EZ',
  'IC',
  'QO',
  'TA',
  'UN',
  'XA',
  'XB',
  'ZZ',
])
const regionNames = new Intl.DisplayNames('en', { type: 'region', fallback: 'none' })

/** A customer as a request would have it, before its values are checked. */
export interface CustomerDraft {
  type: UserType
  email: string | null
  phone: string | null
  firstName: string | null
  lastName: string | null
  description: string | null
  locale: string | null
  address: Partial<Address> | null
  shipping: { name?: string | null; phone?: string | null; address?: Partial<Address> | null } | null
  metadata: Record<string, string>
}

const NOTHING_GIVEN: CustomerDraft = {
  type: 'regular',
  email: null,
  phone: null,
  firstName: null,
  lastName: null,
  description: null,
  locale: null,
  address: null,
  shipping: null,
  metadata: {},
}

/** What a request gives, with the rest not set. */
export function draftOf(given: unknown): CustomerDraft {
  return { ...NOTHING_GIVEN, ...(given as Partial<CustomerDraft>) }
}

/** What of a row a request can give. */
export function profileOf(user: User): CustomerValues {
  const { type, email, phone, firstName, lastName, description, locale, address, shipping, metadata } = user
  return { type, email, phone, firstName, lastName, description, locale, address, shipping, metadata }
}

/** The target with a JSON merge patch applied (RFC 7396, section 2): null removes, objects merge, all else replaces. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch
  const result: Record<string, unknown> = isObject(target) ? { ...target } : {}
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key]
    else result[key] = mergePatch(result[key], value)
  }
  return result
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

type Rules = Pick<TenantSettings, 'defaultRegion' | 'foreignMetadataPrefixes'>

/**
 * Checks a draft and brings it into the form the row has: trimmed, blank as null, phone in E.164, country in capitals,
 * locale canonical. A value that the row holds already is not judged again, so that a row which another program wrote
 * can be mended field by field.
 *
 * @param present the row to be changed; null for a new one
 * @throws {ValidationError} with every broken rule at once.
 */
export function checkCustomer(draft: CustomerDraft, present: CustomerValues | null, rules: Rules): CustomerValues {
  const errors: FieldError[] = []
  const reject = (path: string, code: string, message: string) => {
    errors.push({ path, code, message })
    return null
  }
  const changed = (field: keyof CustomerDraft) => present === null || !sameJson(draft[field], present[field])
  const kept = <F extends keyof CustomerValues>(field: F, check: () => CustomerValues[F]): CustomerValues[F] =>
    present === null || changed(field) ? check() : present[field]

  const text = (path: string, value: string | null | undefined, limit: number): string | null => {
    const trimmed = value?.trim() ?? ''
    if (trimmed === '') return null
    if (UNSTORABLE.test(trimmed)) return reject(path, 'invalid_characters', 'holds characters that cannot be stored')
    if (trimmed.length > limit) return reject(path, 'too_long', `has more than ${limit} characters`)
    return trimmed
  }
  const line = (path: string, value: string | null | undefined, limit: number): string | null => {
    const given = text(path, value, limit)
    if (given === null || !CONTROL.test(given)) return given
    return reject(path, 'invalid_characters', 'holds control characters, such as a line break')
  }
  const phone = (path: string, value: string | null | undefined): string | null => {
    const given = text(path, value, LIMITS.text)
    return given === null ? null : (normalisePhone(given, rules.defaultRegion) ?? rejectPhone(path, reject))
  }
  const address = (path: string, value: Partial<Address> | null | undefined): Address | null => {
    if (value === null || value === undefined) return null
    const checked = Object.fromEntries(
      Object.entries(value).map(([name, entry]) => [name, line(`${path}.${name}`, entry, LIMITS.text)]),
    )
    const canonical = FIELDS.address.canonical(checked)
    if (typeof canonical?.country === 'string' && !isCountry(canonical.country)) {
      reject(`${path}.country`, 'invalid_country', 'is not an ISO 3166-1 alpha-2 code, such as US')
    }
    return canonical
  }

  const values: CustomerValues = {
    type: draft.type,
    email: kept('email', () => {
      const given = text('email', draft.email, LIMITS.email)
      if (given === null || isEmail(given)) return given
      return reject('email', 'invalid_email', 'is not an e-mail address')
    }),
    phone: kept('phone', () => phone('phone', draft.phone)),
    firstName: kept('firstName', () => line('firstName', draft.firstName, LIMITS.name)),
    lastName: kept('lastName', () => line('lastName', draft.lastName, LIMITS.name)),
    description: kept('description', () => text('description', draft.description, LIMITS.text)),
    locale: kept('locale', () => {
      const given = text('locale', draft.locale, LIMITS.text)
      if (given === null) return null
      return canonicalLocale(given) ?? reject('locale', 'invalid_locale', 'is not a BCP 47 language tag, such as en-GB')
    }),
    address: kept('address', () => address('address', draft.address)),
    shipping: kept('shipping', () => {
      if (draft.shipping === null) return null
      const shipping: Shipping = {
        name: line('shipping.name', draft.shipping.name, LIMITS.text),
        phone: phone('shipping.phone', draft.shipping.phone),
        address: address('shipping.address', draft.shipping.address),
      }
      if (shipping.name === null && !rejectedUnder('shipping.name', errors)) {
        reject('shipping.name', 'required', 'is needed when shipping is given')
      }
      if (shipping.address === null && !rejectedUnder('shipping.address', errors)) {
        reject('shipping.address', 'required', 'is needed when shipping is given')
      }
      return shipping
    }),
    metadata: kept('metadata', () => {
      checkMetadata(draft.metadata, present?.metadata ?? {}, rules.foreignMetadataPrefixes, reject)
      return draft.metadata
    }),
  }

  if (changed('firstName') || changed('lastName')) {
    const name = joinName(values.firstName, values.lastName)
    if (name !== null && name.length > LIMITS.name) {
      reject('lastName', 'name_too_long', `with firstName and a space has more than ${LIMITS.name} characters`)
    }
  }
  checkContact(draft, values, changed, errors)
  if (errors.length > 0) throw new ValidationError(errors)
  return values
}

function rejectPhone(path: string, reject: (path: string, code: string, message: string) => null): null {
  return reject(
    path,
    'invalid_phone',
    'is not a phone number; give it with its country code, such as +14155550100, without an extension',
  )
}

function checkContact(
  draft: CustomerDraft,
  values: CustomerValues,
  changed: (field: keyof CustomerDraft) => boolean,
  errors: FieldError[],
): void {
  const needs = NEEDS[values.type]
  const touched = changed('type') || (['email', 'phone', 'firstName', 'lastName'] as const).some(changed)
  // A value that was given but refused has its own error.
  if (!touched || needs.length === 0 || needs.some((field) => values[field] !== null || rejectedUnder(field, errors))) {
    return
  }
  for (const path of needs) {
    errors.push({
      path,
      code: 'contact_required',
      message: `a customer of type ${draft.type} needs one of ${needs.join(', ')}`,
    })
  }
}

function checkMetadata(
  metadata: Record<string, string>,
  present: Record<string, string>,
  foreignPrefixes: readonly string[],
  reject: (path: string, code: string, message: string) => null,
): void {
  const added = Object.keys(metadata).some((key) => !Object.hasOwn(present, key))
  if (added && Object.keys(metadata).length > OWN_METADATA_KEYS) {
    reject('metadata', 'too_many_keys', `has more than ${OWN_METADATA_KEYS} keys`)
  }
  for (const [key, value] of Object.entries(metadata)) {
    if (present[key] === value) continue
    const path = `metadata.${key}`
    if (key === '' || key.length > LIMITS.metadataKey) {
      reject(path, 'invalid_key', `the key must have 1 to ${LIMITS.metadataKey} characters`)
    }
    if (/[[\]]/.test(key)) reject(path, 'invalid_key', 'the key must not hold [ or ]')
    if (UNSTORABLE.test(key)) reject(path, 'invalid_key', 'the key holds characters that cannot be stored')
    if (key.startsWith(FACT_PREFIX))
      reject(path, 'reserved_key', `keys that begin with ${FACT_PREFIX} are Lockstep’s own`)
    if (foreignPrefixes.some((prefix) => key.startsWith(prefix))) {
      reject(path, 'reserved_key', 'keys with this prefix belong to another system, by the tenant’s settings')
    }
    if (value === '') reject(path, 'blank', 'must not be blank; null in a PATCH removes the key')
    if (value.length > LIMITS.metadataValue) {
      reject(path, 'too_long', `has more than ${LIMITS.metadataValue} characters`)
    }
    if (UNSTORABLE.test(value)) reject(path, 'invalid_characters', 'holds characters that cannot be stored')
  }
}

function rejectedUnder(path: string, errors: FieldError[]): boolean {
  return errors.some((error) => error.path === path || error.path.startsWith(`${path}.`))
}

function isEmail(value: string): boolean {
  return EMAIL.test(value) && !DOTS.test(value)
}

/** Of what BCP 47 allows, what Stripe takes: a language of two or three letters, which all that are registered have. */
function canonicalLocale(value: string): string | null {
  if (!/^[A-Za-z]{2,3}(-|$)/.test(value)) return null
  try {
    return Intl.getCanonicalLocales(value)[0] ?? null
  } catch {
    return null
  }
}

function isCountry(code: string): boolean {
  if (!/^[A-Z]{2}$/.test(code) || NOT_COUNTRIES.has(code) || regionNames.of(code) === undefined) return false
  // Withdrawn codes, such as SU, are aliases of another one.
  return new Intl.Locale('und', { region: code }).region === code
}
