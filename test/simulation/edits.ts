import type { Address, FieldPath, FieldValue, Shipping } from '../../src/models/synced-fields.js'
import type { EditedField } from './config.js'
import type { Choices } from './random.js'

/** What a person sets, on either side: canonical values by field. */
export type Edit = Map<FieldPath, FieldValue>

const LOCALES = ['en', 'de', 'fr', 'da', 'ja']

/** The ways to set a field, with how often each is chosen. */
const SETTERS: Record<
  EditedField,
  readonly [weight: number, set: (choices: Choices, tag: string) => [FieldPath, FieldValue]]
> = {
  email: [3, (choices, tag) => ['email', maybe(choices, tag, emailOf)]],
  phone: [2, (choices, tag) => ['phone', maybe(choices, tag, (v) => `+1 555 ${v}`)]],
  name: [3, (choices, tag) => ['name', maybe(choices, tag, (v) => `First${v} Last${v}`)]],
  description: [5, (choices, tag) => ['description', maybe(choices, tag, (v) => `about ${v}`)]],
  locale: [1, (choices) => ['locale', choices.chance(0.2) ? null : choices.pick(LOCALES)]],
  address: [2, (choices, tag) => ['address', maybe(choices, tag, addressOf)]],
  shipping: [
    1,
    (choices, tag) => [
      'shipping',
      maybe(choices, tag, (v): Shipping => ({ name: v, phone: null, address: addressOf(v) })),
    ],
  ],
  metadata: [4, (choices, tag) => [`metadata.k${choices.int(3)}`, maybe(choices, tag, (v) => `m ${v}`)]],
}

/** One or two of the fields, each with a value that no other edit has, but for some that several have, and some that are emptied. */
export function someEdit(choices: Choices, tag: string, fields: readonly EditedField[]): Edit {
  const weighted = fields.map((field) => SETTERS[field])
  const edit: Edit = new Map()
  const count = choices.weighted([
    [6, 1],
    [3, 2],
    [1, 4],
  ])
  for (let n = 0; n < count; n += 1) {
    const [path, value] = choices.weighted(weighted)(choices, tag)
    edit.set(path, value)
  }
  return edit
}

/** As an edit, of someone new: mostly with an e-mail address. */
export function someBeginning(choices: Choices, tag: string, fields: readonly EditedField[]): Edit {
  const edit = someEdit(choices, tag, fields)
  if (choices.chance(0.9)) edit.set('email', emailOf(choices.chance(0.1) ? 'same1' : tag))
  return edit
}

/** Another value for the same field. */
export function otherValue(path: FieldPath, choices: Choices, tag: string): FieldValue {
  if (path.startsWith('metadata.')) return maybe(choices, tag, (v) => `m ${v}`)
  return SETTERS[path as EditedField][1](choices, tag)[1]
}

function emailOf(value: string): string {
  return `${value}@example.com`
}

function maybe<T>(choices: Choices, tag: string, make: (value: string) => T): T | null {
  if (choices.chance(0.15)) return null
  return make(choices.chance(0.08) ? choices.pick(['same1', 'same2']) : tag)
}

function addressOf(line1: string): Address {
  return { line1, line2: null, city: null, state: null, postalCode: `P${line1}`, country: 'US' }
}

/** The edit as columns of `users`; metadata as a merge patch. */
export function columnsOf(edit: Edit): { columns: Record<string, unknown>; metadata: Record<string, string | null> } {
  const columns: Record<string, unknown> = {}
  const metadata: Record<string, string | null> = {}
  for (const [path, value] of edit) {
    if (path.startsWith('metadata.')) metadata[path.slice('metadata.'.length)] = value as string | null
    else if (path === 'name') {
      const [first = null, last = null] = typeof value === 'string' ? value.split(' ') : []
      columns.first_name = first
      columns.last_name = last
    } else columns[path] = typeof value === 'object' && value !== null ? JSON.stringify(value) : value
  }
  return { columns, metadata }
}

/** The edit as the body of a PATCH of the customers API. */
export function patchOf(edit: Edit): Record<string, unknown> {
  const { columns, metadata } = columnsOf(edit)
  const { first_name, last_name, ...rest } = columns
  return {
    ...Object.fromEntries(Object.entries(rest).map(([key, value]) => [key, asJson(key, value)])),
    ...(first_name === undefined ? {} : { firstName: first_name, lastName: last_name }),
    ...(Object.keys(metadata).length === 0 ? {} : { metadata }),
  }
}

function asJson(key: string, value: unknown): unknown {
  return (key === 'address' || key === 'shipping') && typeof value === 'string' ? JSON.parse(value) : value
}

/** The edit as parameters of a Stripe customer, as the dashboard sends them. */
export function stripeParamsOf(edit: Edit): Record<string, unknown> {
  const params: Record<string, unknown> = {}
  const metadata: Record<string, string> = {}
  for (const [path, value] of edit) {
    if (path.startsWith('metadata.')) metadata[path.slice('metadata.'.length)] = (value as string | null) ?? ''
    else if (path === 'locale') {
      if (value !== null) params.preferred_locales = [value]
    } else if (path === 'address') params.address = value === null ? '' : stripeAddress(value as Address)
    else if (path === 'shipping') {
      const shipping = value as Shipping | null
      params.shipping =
        shipping === null ? '' : { name: shipping.name, address: stripeAddress(shipping.address as Address) }
    } else params[path] = value ?? ''
  }
  if (Object.keys(metadata).length > 0) params.metadata = metadata
  return params
}

function stripeAddress({ line1, postalCode, country }: Address): Record<string, unknown> {
  return { line1, postal_code: postalCode, country }
}
