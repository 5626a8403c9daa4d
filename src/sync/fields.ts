import { sameJson } from '../lib/json.js'
import type {
  Address,
  Billing,
  FieldPatch,
  FieldPath,
  FieldValue,
  PlainField,
  PlainFields,
  RemoteState,
  Shipping,
  SyncedFields,
} from '../models/synced-fields.js'
import type { User } from '../models/user.js'

/** Metadata keys that begin so are Lockstep's own: written to Stripe, never read into `users.metadata`. */
export const FACT_PREFIX = 'lockstep_'

/** Stripe's limit of metadata keys on one object (docs.stripe.com/api/metadata). */
export const METADATA_KEY_LIMIT = 50

interface FieldRow<F extends PlainField> {
  /** The columns of `users` that hold it. */
  columns: readonly string[]
  /** The canonical value of whatever either side holds: blank is null, and what Stripe normalises is normalised. */
  canonical(value: unknown): PlainFields[F]
  /** Whether Stripe can be made to forget it. `preferred_locales` cannot be cleared once set. */
  clearable: boolean
}

/** The two-way fields: which columns hold each, and its canonical form. */
export const FIELDS: { readonly [F in PlainField]: FieldRow<F> } = {
  email: { columns: ['email'], canonical: text, clearable: true },
  phone: { columns: ['phone'], canonical: text, clearable: true },
  name: { columns: ['first_name', 'last_name'], canonical: personName, clearable: true },
  description: { columns: ['description'], canonical: text, clearable: true },
  locale: { columns: ['locale'], canonical: text, clearable: false },
  address: { columns: ['address'], canonical: address, clearable: true },
  shipping: { columns: ['shipping'], canonical: shipping, clearable: true },
}

export const PLAIN_FIELDS = Object.keys(FIELDS) as PlainField[]

/** The fields of someone of whom nothing is known: the base of a user and a Stripe customer that have just met. */
export const NO_FIELDS: Readonly<SyncedFields> = Object.freeze({
  email: null,
  phone: null,
  name: null,
  description: null,
  locale: null,
  address: null,
  shipping: null,
  metadata: Object.freeze({}),
})

/** Whether the metadata key is synced: not one of our facts, not declared another system's. */
export function isSyncedMetadataKey(key: string, foreignPrefixes: readonly string[]): boolean {
  return !key.startsWith(FACT_PREFIX) && !foreignPrefixes.some((prefix) => key.startsWith(prefix))
}

/** What the row says of every two-way field, in canonical form. */
export function localFields(
  user: Pick<
    User,
    'email' | 'phone' | 'firstName' | 'lastName' | 'description' | 'locale' | 'address' | 'shipping' | 'metadata'
  >,
  foreignPrefixes: readonly string[],
): SyncedFields {
  return {
    email: text(user.email),
    phone: text(user.phone),
    name: joinName(user.firstName, user.lastName),
    description: text(user.description),
    locale: text(user.locale),
    address: address(user.address),
    shipping: shipping(user.shipping),
    metadata: metadata(user.metadata, foreignPrefixes),
  }
}

/** What we tell Stripe about the user, and never take back from it. */
export function localFacts(user: Pick<User, 'id' | 'tenantId' | 'type' | 'state'>): Record<string, string> {
  return {
    lockstep_user_id: user.id,
    lockstep_tenant_id: user.tenantId,
    lockstep_type: user.type,
    lockstep_state: user.state,
  }
}

/**
 * Projects a Stripe customer, as an API answer or an event of any API version carries it, onto what Lockstep knows.
 * Tolerant by design: an absent or odd part reads as not set, since an event must never fail for its shape.
 */
export function remoteState(customer: unknown, foreignPrefixes: readonly string[]): RemoteState {
  const c = record(customer)
  const all = stringValues(record(c.metadata))
  const locales = Array.isArray(c.preferred_locales)
    ? c.preferred_locales.filter((l) => typeof l === 'string').map(storable)
    : []
  return {
    fields: {
      email: text(c.email),
      phone: text(c.phone),
      name: personName(c.name),
      description: text(c.description),
      locale: text(locales[0]),
      address: addressFromStripe(c.address),
      shipping: shippingFromStripe(c.shipping),
      metadata: metadata(all, foreignPrefixes),
    },
    facts: Object.fromEntries(Object.entries(all).filter(([key]) => key.startsWith(FACT_PREFIX))),
    locales,
    metadataKeys: Object.keys(all).length,
    billing: billing(c),
  }
}

/**
 * Whether a customer shows every part that {@link remoteState} reads, in the shape that it reads. In another API version one
 * may be missing, or bear another name: then that it seems not to be set says nothing.
 */
export function isWholeCustomer(customer: unknown): boolean {
  const c = record(customer)
  return Object.entries(PARTS).every(([name, isRight]) => Object.hasOwn(c, name) && isRight(c[name]))
}

const isTextOrNull = (value: unknown) => value === null || typeof value === 'string'
const isHash = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value)
const isHashOrNull = (value: unknown) => value === null || isHash(value)

/** The parts of a Stripe customer that {@link remoteState} reads, with the check of their shape. */
const PARTS: Readonly<Record<string, (value: unknown) => boolean>> = {
  email: isTextOrNull,
  phone: isTextOrNull,
  name: isTextOrNull,
  description: isTextOrNull,
  preferred_locales: (value) => value === null || Array.isArray(value),
  address: isHashOrNull,
  shipping: isHashOrNull,
  metadata: isHash,
  balance: (value) => typeof value === 'number',
  currency: isTextOrNull,
  delinquent: (value) => value === null || typeof value === 'boolean',
  tax_exempt: isTextOrNull,
  invoice_settings: isHashOrNull,
  invoice_prefix: isTextOrNull,
}

/** What a privacy redaction leaves in place of a text (docs.stripe.com/privacy/redaction). */
const PLACEHOLDER = /^\[redacted\]$/i

/**
 * Whether the customer was redacted in Stripe: for good, and without an event of its own. Its placeholders are nobody's values.
 * Only what no one writes by hand counts: Stripe's own mark, a placeholder for an e-mail (which Stripe takes from no one), or
 * for our own id.
 */
export function isRedacted(customer: unknown): boolean {
  const c = record(customer)
  const id = record(c.metadata)[`${FACT_PREFIX}user_id`]
  const isCovered = (value: unknown) => typeof value === 'string' && PLACEHOLDER.test(value)
  return isHash(c.redaction) || isCovered(c.email) || isCovered(id)
}

/** Whether two projections agree in all that Lockstep keeps of a Stripe customer. */
export function sameRemote(a: RemoteState, b: RemoteState): boolean {
  return sameJson(a, b)
}

/** The value of one field; a metadata key that is not there is null. */
export function fieldValue(fields: SyncedFields, path: FieldPath): FieldValue {
  const key = metadataKey(path)
  if (key === null) return fields[path as PlainField]
  // A key may have the name of something that every object inherits, such as `constructor`.
  return Object.hasOwn(fields.metadata, key) ? (fields.metadata[key] ?? null) : null
}

/** Every field that at least one of the given sides knows of: all plain ones, and the union of metadata keys. */
export function pathsOf(...sides: SyncedFields[]): FieldPath[] {
  const keys = new Set(sides.flatMap((side) => Object.keys(side.metadata)))
  return [...PLAIN_FIELDS, ...[...keys].sort().map((key): FieldPath => `metadata.${key}`)]
}

/** A copy of `fields` with the patch applied. */
export function withPatch(fields: SyncedFields, patch: FieldPatch): SyncedFields {
  const result: SyncedFields = { ...fields }
  const metadata = new Map(Object.entries(fields.metadata))
  for (const [path, value] of patchEntries(patch)) {
    const key = metadataKey(path)
    if (key === null) Object.assign(result, { [path]: value })
    else if (typeof value === 'string') metadata.set(key, value)
    else metadata.delete(key)
  }
  return { ...result, metadata: Object.fromEntries(metadata) }
}

/** The entries of a patch, typed. */
export function patchEntries(patch: FieldPatch): [FieldPath, FieldValue][] {
  return Object.entries(patch) as [FieldPath, FieldValue][]
}

/** The metadata key that a path names, or null for a plain field. */
export function metadataKey(path: string): string | null {
  return path.startsWith('metadata.') ? path.slice('metadata.'.length) : null
}

/** When the row's field last changed, ISO 8601, from `users.field_times`; null when never. */
export function localTime(fieldTimes: Record<string, string>, path: FieldPath): string | null {
  return (
    timeKeys(path)
      .map((column) => fieldTimes[column])
      .filter((time) => time !== undefined)
      .sort()
      .at(-1) ?? null
  )
}

/** The keys of `users.field_times` that tell of a field. */
export function timeKeys(path: FieldPath): readonly string[] {
  return metadataKey(path) === null ? FIELDS[path as PlainField].columns : [path]
}

/** One name of its parts, as Stripe wants it; null when there are none. */
export function joinName(firstName: string | null, lastName: string | null): string | null {
  return personName([text(firstName), text(lastName)].filter((part) => part !== null).join(' '))
}

/** The parts of a name: those the row has when they still join to it, else split at the first space. */
export function splitName(
  name: string | null,
  present: { firstName: string | null; lastName: string | null },
): { firstName: string | null; lastName: string | null } {
  if (name === joinName(present.firstName, present.lastName)) return present
  if (name === null) return { firstName: null, lastName: null }
  const space = name.indexOf(' ')
  if (space < 0) return { firstName: name, lastName: null }
  return { firstName: name.slice(0, space), lastName: text(name.slice(space + 1)) }
}

/**
 * The parameters of a Stripe create or update for a patch. Address and shipping go whole, since Stripe replaces them;
 * an unset field goes as "" (docs.stripe.com/api: an empty string unsets).
 */
export function stripeParams(
  patch: FieldPatch,
  facts: Record<string, string>,
  heldLocales: readonly string[] = [],
): Record<string, unknown> {
  const params: Record<string, unknown> = {}
  const keys = new Map(Object.entries(facts))
  for (const [path, value] of patchEntries(patch)) {
    const key = metadataKey(path)
    if (key !== null) keys.set(key, typeof value === 'string' ? value : '')
    else if (path === 'locale') {
      if (typeof value === 'string')
        params.preferred_locales = [value, ...heldLocales.slice(1).filter((l) => l !== value)]
    } else if (path === 'address') params.address = value === null ? '' : addressToStripe(value as Address)
    else if (path === 'shipping') params.shipping = value === null ? '' : shippingToStripe(value as Shipping)
    else params[path] = value ?? ''
  }
  if (keys.size > 0) params.metadata = Object.fromEntries(keys)
  return params
}

/** The field that a Stripe `param` such as `shipping[address][country]` or `metadata[tier]` speaks of; null when none of ours. */
export function fieldOfStripeParam(param: string): FieldPath | 'metadata' | null {
  // A metadata key may hold dots and slashes itself.
  const key = /^metadata\[(.+)\]$/s.exec(param)?.[1]
  if (key !== undefined) return `metadata.${key}`
  const [head = ''] = param.split(/[[\].]+/)
  if (head === 'metadata') return 'metadata'
  if (head === 'preferred_locales') return 'locale'
  return (PLAIN_FIELDS as string[]).includes(head) ? (head as PlainField) : null
}

function text(value: unknown): string | null {
  if (typeof value !== 'string') return null
  const trimmed = storable(value).trim()
  return trimmed === '' ? null : trimmed
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: that one is what it is about
const UNSTORABLE = /[\u0000\p{Surrogate}]/u

/** Without what Postgres cannot hold: U+0000, and halves of characters. */
export function storable(value: string): string {
  return UNSTORABLE.test(value) ? value.replaceAll('\u0000', '').replace(/\p{Surrogate}/gu, '') : value
}

/** Blanks within a name count as one: parts that are split at a blank and joined again would else not be the same name. */
function personName(value: unknown): string | null {
  return text(value)?.replace(/\s+/g, ' ') ?? null
}

function address(value: unknown): Address | null {
  if (typeof value !== 'object' || value === null) return null
  const a = record(value)
  const country = text(a.country)
  const result: Address = {
    line1: text(a.line1),
    line2: text(a.line2),
    city: text(a.city),
    state: text(a.state),
    postalCode: text(a.postalCode),
    country: country === null ? null : country.toUpperCase(),
  }
  return Object.values(result).every((part) => part === null) ? null : result
}

function shipping(value: unknown): Shipping | null {
  if (typeof value !== 'object' || value === null) return null
  const s = record(value)
  const result: Shipping = { name: text(s.name), phone: text(s.phone), address: address(s.address) }
  return Object.values(result).every((part) => part === null) ? null : result
}

function metadata(value: unknown, foreignPrefixes: readonly string[]): Record<string, string> {
  const entries = Object.entries(stringValues(record(value)))
  // Stripe reads "" as "remove this key", so a blank value is no value.
  return Object.fromEntries(entries.filter(([key, v]) => v !== '' && isSyncedMetadataKey(key, foreignPrefixes)))
}

function addressFromStripe(value: unknown): Address | null {
  if (typeof value !== 'object' || value === null) return null
  const { postal_code, ...rest } = record(value)
  return address({ ...rest, postalCode: postal_code })
}

function shippingFromStripe(value: unknown): Shipping | null {
  if (typeof value !== 'object' || value === null) return null
  const s = record(value)
  return shipping({ name: s.name, phone: s.phone, address: addressAsLocal(s.address) })
}

function addressAsLocal(value: unknown): unknown {
  const { postal_code, ...rest } = record(value)
  return { ...rest, postalCode: postal_code }
}

function addressToStripe(value: Address): Record<string, string> {
  const { postalCode, ...rest } = value
  return Object.fromEntries(
    Object.entries({ ...rest, postal_code: postalCode }).filter(
      (entry): entry is [string, string] => entry[1] !== null,
    ),
  )
}

function shippingToStripe(value: Shipping): Record<string, unknown> {
  return {
    name: value.name ?? '',
    ...(value.phone === null ? {} : { phone: value.phone }),
    address: value.address === null ? {} : addressToStripe(value.address),
  }
}

function billing(c: Record<string, unknown>): Billing {
  const settings = record(c.invoice_settings)
  const method = settings.default_payment_method
  return {
    balance: typeof c.balance === 'number' ? c.balance : 0,
    currency: text(c.currency),
    delinquent: c.delinquent === true,
    taxExempt: c.tax_exempt === 'exempt' || c.tax_exempt === 'reverse' ? c.tax_exempt : 'none',
    defaultPaymentMethod: text(typeof method === 'object' && method !== null ? record(method).id : method),
    invoicePrefix: text(c.invoice_prefix),
  }
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}

function stringValues(value: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, v]) => v !== null && v !== undefined)
      .map(([key, v]) => [storable(key), typeof v === 'string' ? storable(v) : JSON.stringify(v)]),
  )
}
