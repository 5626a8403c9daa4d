import type Stripe from 'stripe'
import { prefixFor, seedCustomerId, seedIndexOf } from './ids.js'
import { compareKeys, type Key, lowerBound, merge, type Ordered, Timeline } from './timeline.js'

/** What a customer differs in from an empty one: the compact form in memory and in the journal. */
export type CustomerFields = Partial<Omit<Stripe.Customer, 'id' | 'object' | 'created' | 'livemode' | 'deleted'>>

export interface CustomerRecord {
  id: string
  created: number
  seq: number
  fields: CustomerFields
  /** When (ms) it was deleted: the stub is all that is left to see, the rest is for search's lag. */
  deletedAt?: number
  /** Earlier versions that search may still show, oldest first: each was current until (ms). */
  earlier?: Array<{ until: number; fields: CustomerFields | null }>
}

/** The pre-made customers: `count` of them, created at even distances in the `span` seconds before `end`. */
export interface Seeds {
  count: number
  span: number
  end: number
}

const empty = {
  address: null,
  balance: 0,
  currency: null,
  customer_account: null,
  default_source: null,
  delinquent: false,
  description: null,
  discount: null,
  email: null,
  invoice_settings: { custom_fields: null, default_payment_method: null, footer: null, rendering_options: null },
  metadata: {},
  name: null,
  next_invoice_sequence: 1,
  phone: null,
  preferred_locales: [],
  shipping: null,
  tax_exempt: 'none',
  test_clock: null,
} as const

/** The whole object, with the keys of a fresh customer in 2026 in their order (stripe-facts section 1). */
export function customerOf(
  record: Pick<CustomerRecord, 'id' | 'created' | 'fields'>,
  livemode: boolean,
): Stripe.Customer {
  const { fields } = record
  return {
    id: record.id,
    object: 'customer',
    address: fields.address ?? null,
    balance: fields.balance ?? 0,
    ...(fields.business_name && { business_name: fields.business_name }),
    created: record.created,
    currency: fields.currency ?? null,
    customer_account: fields.customer_account ?? null,
    default_source: fields.default_source ?? null,
    delinquent: fields.delinquent ?? false,
    description: fields.description ?? null,
    discount: fields.discount ?? null,
    email: fields.email ?? null,
    ...(fields.individual_name && { individual_name: fields.individual_name }),
    invoice_prefix: fields.invoice_prefix ?? prefixFor(record.id),
    invoice_settings: { ...empty.invoice_settings, ...fields.invoice_settings },
    livemode,
    metadata: { ...fields.metadata },
    name: fields.name ?? null,
    next_invoice_sequence: fields.next_invoice_sequence ?? 1,
    phone: fields.phone ?? null,
    preferred_locales: [...(fields.preferred_locales ?? [])],
    shipping: fields.shipping ?? null,
    tax_exempt: fields.tax_exempt ?? 'none',
    test_clock: fields.test_clock ?? null,
  }
}

/** The inverse of `customerOf`: leaves out what is as in an empty customer. */
export function fieldsOf(customer: Stripe.Customer): CustomerFields {
  const fields: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(customer)) {
    if (['id', 'object', 'created', 'livemode'].includes(key) || value === undefined) continue
    if (key === 'invoice_prefix' && value === prefixFor(customer.id)) continue
    const usual = (empty as Record<string, unknown>)[key]
    if (value !== usual && JSON.stringify(value) !== JSON.stringify(usual)) fields[key] = value
  }
  return fields as CustomerFields
}

const firstNames = ['Ada', 'Grace', 'Alan', 'Edsger', 'Barbara', 'Donald', 'Frances', 'John', 'Katherine', 'Niklaus']
const lastNames = ['Lovelace', 'Hopper', 'Turing', 'Dijkstra', 'Liskov', 'Knuth', 'Allen', 'Backus', 'Johnson', 'Wirth']
const seedEmail = /^customer(\d+)@example\.com$/

/**
 * One account's customers in creation order. Pre-made ones are computed from their index until something changes them, so
 * they cost no memory; the rest are records. Every way in is a hash look-up or a binary search.
 */
export class CustomerStore implements Ordered<CustomerRecord> {
  #seeds: Seeds = { count: 0, span: 0, end: 0 }
  #live = 0
  readonly #records = new Map<string, CustomerRecord>()
  readonly #made = new Timeline<CustomerRecord>((record) => this.keyOf(record))
  readonly #byEmail = new Map<string, Set<string>>()

  get size(): number {
    return this.#live
  }

  get seeds(): Seeds {
    return this.#seeds
  }

  /** Must be called before anything is put. */
  setSeeds(seeds: Seeds): void {
    this.#seeds = seeds
    this.#live = seeds.count
  }

  keyOf(record: CustomerRecord): Key {
    return { at: record.created, seq: record.seq }
  }

  /** The record with this id, deleted ones too (see `deletedAt`). */
  get(id: string): CustomerRecord | undefined {
    const record = this.#records.get(id)
    if (record) return record
    const index = seedIndexOf(id)
    return index !== undefined && index < this.#seeds.count ? this.#seed(index) : undefined
  }

  put(record: CustomerRecord): void {
    const before = this.get(record.id)
    const isSeed = record.seq < this.#seeds.count
    if (before?.fields.email) this.#forgetEmail(before.fields.email, record.id)
    if (before && !before.deletedAt) this.#live--
    this.#records.set(record.id, record)
    if (!isSeed && record.deletedAt) this.#made.remove(record)
    if (record.deletedAt) return
    if (!isSeed) this.#made.set(record)
    this.#live++
    if (record.fields.email) this.#rememberEmail(record.fields.email, record.id)
  }

  /** Live customers with exactly this e-mail: list's filter is case-sensitive (stripe-facts section 1). */
  withEmail(email: string): CustomerRecord[] {
    const ids = new Set(this.#byEmail.get(email))
    const index = Number(seedEmail.exec(email)?.[1] ?? Number.NaN)
    if (index < this.#seeds.count) ids.add(seedCustomerId(index))
    return [...ids]
      .flatMap((id) => this.get(id) ?? [])
      .filter((record) => !record.deletedAt && record.fields.email === email)
      .sort((a, b) => compareKeys(this.keyOf(a), this.keyOf(b)))
  }

  /** All records that differ from their seed, for the journal and for search. */
  records(): Iterable<CustomerRecord> {
    return this.#records.values()
  }

  *descend(below: Key): Iterable<CustomerRecord> {
    yield* merge(
      this.#seedsDown(below),
      this.#made.descend(below),
      (a, b) => compareKeys(this.keyOf(a), this.keyOf(b)) > 0,
    )
  }

  *ascend(above: Key): Iterable<CustomerRecord> {
    yield* merge(
      this.#seedsUp(above),
      this.#made.ascend(above),
      (a, b) => compareKeys(this.keyOf(a), this.keyOf(b)) < 0,
    )
  }

  *#seedsDown(below: Key): Iterable<CustomerRecord> {
    for (let index = this.#seedFrom(below) - 1; index >= 0; index--) {
      const record = this.get(seedCustomerId(index))
      if (record && !record.deletedAt) yield record
    }
  }

  *#seedsUp(above: Key): Iterable<CustomerRecord> {
    for (let index = this.#seedFrom({ at: above.at, seq: above.seq + 1 }); index < this.#seeds.count; index++) {
      const record = this.get(seedCustomerId(index))
      if (record && !record.deletedAt) yield record
    }
  }

  #seedFrom(key: Key): number {
    return lowerBound(this.#seeds.count, (index) => compareKeys({ at: this.#seedCreated(index), seq: index }, key) < 0)
  }

  #seedCreated(index: number): number {
    const { count, span, end } = this.#seeds
    return end - span + Math.floor((index * span) / count)
  }

  #seed(index: number): CustomerRecord {
    const name = `${firstNames[index % 10]} ${lastNames[Math.floor(index / 10) % 10]}`
    return {
      id: seedCustomerId(index),
      created: this.#seedCreated(index),
      seq: index,
      fields: { email: `customer${index}@example.com`, name },
    }
  }

  #rememberEmail(email: string, id: string): void {
    const ids = this.#byEmail.get(email)
    if (ids) ids.add(id)
    else this.#byEmail.set(email, new Set([id]))
  }

  #forgetEmail(email: string, id: string): void {
    const ids = this.#byEmail.get(email)
    ids?.delete(id)
    if (ids?.size === 0) this.#byEmail.delete(email)
  }
}
