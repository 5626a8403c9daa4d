import type Stripe from 'stripe'
import { emptyParameter, invalid, missing, missingParameter, unknownParameter } from './errors.js'
import { items, type Param, type Params } from './form.js'
import { integer } from './list.js'
import { mergeMetadata } from './metadata.js'

/** What the facts leave open, as switches. */
export interface FieldSettings {
  /** Whether a blank part of an address stays "" rather than becoming null: captured payloads show both. */
  keepBlankAddressParts: boolean
  /** Whether an e-mail is trimmed rather than refused for the space around it. */
  trimEmail: boolean
}

interface Context extends FieldSettings {
  /** Whether the caller may set what only Stripe itself sets: the simulator's own dashboard. */
  privileged: boolean
}

type Shape = { [key: string]: Shape } | 'any'

interface Field {
  on: 'both' | 'create' | 'update' | 'privileged'
  shape: Shape
  apply: (next: Stripe.Customer, value: Param, context: Context) => void
}

const addressKeys = ['city', 'country', 'line1', 'line2', 'postal_code', 'state'] as const
const addressShape: Shape = Object.fromEntries(addressKeys.map((key) => [key, {}]))

/** The usual effect: the value, once read, is the new one. */
function set<K extends keyof Stripe.Customer>(key: K, read: (value: Param) => Stripe.Customer[K]): Field['apply'] {
  return (next, value) => {
    next[key] = read(value)
  }
}

/**
 * Every parameter of create and update: who may send it, its sub-parameters and its effect (the table of stripe-facts
 * section 1). The order is the order in which wrong values are reported.
 */
const fields: Record<string, Field> = {
  address: {
    on: 'both',
    shape: addressShape,
    apply: (next, value, context) => {
      next.address = value === '' ? null : address(value, 'address', context)
    },
  },
  balance: {
    on: 'both',
    shape: {},
    apply: (next, value) => {
      next.balance = integer(value, 'balance')
      if (next.balance !== 0) next.currency ??= 'usd'
    },
  },
  business_name: { on: 'both', shape: {}, apply: (next, value) => optionalText(next, 'business_name', value, 150) },
  cash_balance: { on: 'both', shape: { settings: { reconciliation_mode: {} } }, apply: () => {} },
  currency: { on: 'privileged', shape: {}, apply: set('currency', (value) => nullable(value)) },
  default_source: {
    on: 'update',
    shape: {},
    apply: (next, value, context) => {
      if (value === '' && !context.privileged) throw emptyParameter('default_source')
      if (!context.privileged) throw missing('source', text(value, 'default_source'), 'default_source', { status: 400 })
      next.default_source = nullable(value)
    },
  },
  delinquent: { on: 'privileged', shape: {}, apply: set('delinquent', (value) => value === 'true') },
  description: {
    on: 'both',
    shape: {},
    apply: set('description', (value) => bounded(text(value, 'description'), 'description', 5000) || null),
  },
  email: {
    on: 'both',
    shape: {},
    apply: (next, value, { trimEmail }) => {
      const raw = text(value, 'email')
      next.email = email(trimEmail ? raw.trim() : raw)
    },
  },
  expand: { on: 'both', shape: 'any', apply: () => {} },
  individual_name: { on: 'both', shape: {}, apply: (next, value) => optionalText(next, 'individual_name', value, 150) },
  invoice_prefix: { on: 'both', shape: {}, apply: set('invoice_prefix', (value) => prefix(value)) },
  invoice_settings: {
    on: 'both',
    shape: {
      custom_fields: 'any',
      default_payment_method: {},
      footer: {},
      rendering_options: { amount_tax_display: {}, template: {} },
    },
    apply: (next, value, context) => {
      next.invoice_settings = invoiceSettings(next.invoice_settings, hash(value, 'invoice_settings'), context)
    },
  },
  metadata: {
    on: 'both',
    shape: 'any',
    apply: (next, value) => {
      next.metadata = mergeMetadata(next.metadata, value)
    },
  },
  name: { on: 'both', shape: {}, apply: set('name', (value) => trimmed(value, 'name', 256)) },
  next_invoice_sequence: {
    on: 'both',
    shape: {},
    apply: set('next_invoice_sequence', (value) => integer(value, 'next_invoice_sequence')),
  },
  payment_method: {
    on: 'create',
    shape: {},
    apply: (_, value) => missingReference('PaymentMethod', value, 'payment_method'),
  },
  phone: { on: 'both', shape: {}, apply: set('phone', (value) => phone(value)) },
  preferred_locales: { on: 'both', shape: 'any', apply: locales },
  shipping: {
    on: 'both',
    shape: { address: addressShape, name: {}, phone: {} },
    apply: (next, value, context) => {
      next.shipping = value === '' ? null : shipping(hash(value, 'shipping'), context)
    },
  },
  source: { on: 'both', shape: {}, apply: (_, value) => missingReference('token', value, 'source') },
  tax: { on: 'both', shape: { ip_address: {}, validate_location: {} }, apply: () => {} },
  tax_exempt: {
    on: 'both',
    shape: {},
    apply: (next, value) => {
      const choice = value === '' ? 'none' : value
      if (choice !== 'none' && choice !== 'exempt' && choice !== 'reverse')
        throw invalid('Invalid tax_exempt: must be one of none, reverse, or exempt', 'tax_exempt')
      next.tax_exempt = choice
    },
  },
  tax_id_data: { on: 'create', shape: 'any', apply: () => {} },
  test_clock: { on: 'create', shape: {}, apply: (_, value) => missingReference('billingclock', value, 'test_clock') },
  validate: { on: 'both', shape: {}, apply: () => {} },
}

/** Refuses parameters that the call doesn't know, at any depth: Stripe does so before it looks at anything else. */
export function refuseUnknownParams(
  params: Params,
  call: 'create' | 'update',
  { privileged }: { privileged: boolean },
): void {
  for (const [name, value] of Object.entries(params)) {
    const field = Object.hasOwn(fields, name) ? fields[name] : undefined
    const allowed = field && (field.on === 'both' || field.on === call || privileged)
    if (!field || !allowed) throw unknownParameter(name)
    refuseUnknown(value, field.shape, name)
  }
}

/** The customer after these params, or the first complaint about their values. */
export function applyParams(current: Stripe.Customer, params: Params, context: Context): Stripe.Customer {
  const next = { ...current }
  for (const [name, field] of Object.entries(fields)) {
    const value = params[name]
    if (value !== undefined) field.apply(next, value, context)
  }
  return next
}

function refuseUnknown(value: Param, shape: Shape, path: string): void {
  if (typeof value === 'string' || shape === 'any') return
  if (Object.keys(shape).length === 0) return
  for (const [name, inner] of Object.entries(value)) {
    const known = Object.hasOwn(shape, name) ? shape[name] : undefined
    if (!known) throw unknownParameter(`${path}[${name}]`)
    refuseUnknown(inner, known, `${path}[${name}]`)
  }
}

function text(value: Param, path: string): string {
  if (typeof value !== 'string') throw invalid('Invalid string: {...}', path)
  return value
}

function hash(value: Param, path: string): Params {
  if (typeof value === 'string') throw invalid('Invalid hash', path)
  return value
}

const nullable = (value: Param): string | null => (typeof value === 'string' && value !== '' ? value : null)

function bounded(value: string, path: string, limit: number): string {
  const characters = [...value]
  if (characters.length <= limit) return value
  const excerpt = `${characters.slice(0, 4).join('')}...${characters.slice(-4).join('')}`
  throw invalid(`Invalid string: ${excerpt}; must be at most ${limit} characters`, path)
}

const trimmed = (value: Param, path: string, limit: number): string | null =>
  bounded(text(value, path), path, limit).trim() || null

function optionalText(
  next: Stripe.Customer,
  key: 'business_name' | 'individual_name',
  value: Param,
  limit: number,
): void {
  const set = trimmed(value, key, limit)
  if (set === null) delete next[key]
  else next[key] = set
}

function email(value: string): string | null {
  if (value === '') return null
  bounded(value, 'email', 512)
  if (!/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(value))
    throw invalid(`Invalid email address: ${value}`, 'email', 'email_invalid')
  return value
}

function phone(value: Param): string | null {
  const raw = text(value, 'phone')
  if ([...raw].length > 20) throw invalid(`Invalid string length: ${raw} must be at most 20 characters`, 'phone')
  return raw.trim() || null
}

/** Replaces the whole hash: a part that isn't sent becomes null (stripe-facts section 1). */
function address(value: Param, path: string, context: Context): Stripe.Address {
  const sent = hash(value, path)
  const part = (key: (typeof addressKeys)[number]): string | null => {
    const raw = sent[key]
    if (raw === undefined) return null
    const kept = bounded(text(raw, `${path}[${key}]`), `${path}[${key}]`, 5000).trim()
    return kept === '' && !context.keepBlankAddressParts ? null : kept
  }
  return {
    city: part('city'),
    country: part('country')?.toUpperCase() ?? null,
    line1: part('line1'),
    line2: part('line2'),
    postal_code: part('postal_code'),
    state: part('state'),
  }
}

function shipping(sent: Params, context: Context): Stripe.Customer.Shipping {
  if (sent.address === undefined) throw missingParameter('shipping[address]')
  if (sent.name === undefined) throw missingParameter('shipping[name]')
  if (sent.address === '') throw emptyParameter('shipping[address]')
  return {
    address: address(sent.address, 'shipping[address]', context),
    name: bounded(text(sent.name, 'shipping[name]'), 'shipping[name]', 5000).trim(),
    phone: sent.phone === undefined ? null : trimmed(sent.phone, 'shipping[phone]', 5000),
  }
}

function invoiceSettings(
  current: Stripe.Customer.InvoiceSettings,
  sent: Params,
  context: Context,
): Stripe.Customer.InvoiceSettings {
  const next = { ...current }
  const { custom_fields: custom, default_payment_method: method, footer, rendering_options: rendering } = sent
  if (custom !== undefined) next.custom_fields = custom === '' ? null : customFields(custom)
  if (method !== undefined) {
    if (method !== '' && method !== current.default_payment_method && !context.privileged) {
      throw invalid(
        `The customer does not have a payment method with the ID ${text(method, 'default_payment_method')}. The payment method must be attached to the customer.`,
        'invoice_settings[default_payment_method]',
        'resource_missing',
      )
    }
    next.default_payment_method = nullable(method)
  }
  if (footer !== undefined) next.footer = trimmed(footer, 'invoice_settings[footer]', 5000)
  if (rendering !== undefined) {
    next.rendering_options =
      typeof rendering === 'string'
        ? null
        : {
            amount_tax_display: nullable(rendering.amount_tax_display ?? ''),
            template: nullable(rendering.template ?? ''),
          }
  }
  return next
}

function customFields(value: Param): Stripe.Customer.InvoiceSettings.CustomField[] {
  const path = 'invoice_settings[custom_fields]'
  const sent = items(value)
  if (sent.length > 4) throw invalid(`Array ${path} exceeded maximum 4 allowed elements.`, path)
  return sent.map((item, index) => {
    const read = (key: 'name' | 'value', limit: number): string => {
      const at = `${path}[${index}][${key}]`
      const raw = hash(item, `${path}[${index}]`)[key]
      if (raw === undefined) throw missingParameter(at)
      if (raw === '') throw emptyParameter(at)
      return bounded(text(raw, at), at, limit)
    }
    return { name: read('name', 40), value: read('value', 140) }
  })
}

/** Upper-case letters and digits, 1 to 12 of them by the SDK's text; uniqueness is the caller's business. */
function prefix(value: Param): string {
  if (value === '') throw emptyParameter('invoice_prefix')
  const raw = text(value, 'invoice_prefix')
  if (!/^[A-Z0-9]{1,12}$/.test(raw)) {
    throw invalid(
      'Invalid invoice_prefix: must be between 1 and 12 characters long and contain only uppercase letters and numbers.',
      'invoice_prefix',
    )
  }
  return raw
}

/** Neither "" nor [] clears the list: the API takes both for absent (stripe-facts section 1). */
function locales(next: Stripe.Customer, value: Param): void {
  if (value === '') return
  next.preferred_locales = items(value).map((tag, index) => {
    const at = `preferred_locales[${index}]`
    const raw = text(tag, at)
    if (!/^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$/.test(raw)) {
      throw invalid(
        "Not a valid language, try using an IETF language tag, such as 'en-US'. For more information, check https://tools.ietf.org/html/rfc5646",
        at,
      )
    }
    return raw
  })
}

function missingReference(kind: string, value: Param, param: string): never {
  if (value === '') throw emptyParameter(param)
  throw missing(kind, text(value, param), param, { status: 400 })
}
