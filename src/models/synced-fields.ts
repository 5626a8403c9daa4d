/** A postal address. An absent part is null; parts are never blank. */
export interface Address {
  line1: string | null
  line2: string | null
  city: string | null
  state: string | null
  postalCode: string | null
  country: string | null
}

/** Where goods go, and to whom. Stripe demands `name` and `address` whenever any of it is given. */
export interface Shipping {
  name: string | null
  phone: string | null
  address: Address | null
}

/** The scalar and whole-object fields that both sides may change. Metadata, which merges key by key, stands beside them. */
export interface PlainFields {
  email: string | null
  phone: string | null
  name: string | null
  description: string | null
  locale: string | null
  address: Address | null
  shipping: Shipping | null
}

export type PlainField = keyof PlainFields

/** Every two-way field in canonical form: what `local`, `remote` and `base` of the design hold. */
export interface SyncedFields extends PlainFields {
  metadata: Record<string, string>
}

/** One field of the merge: a plain field, or one metadata key. */
export type FieldPath = PlainField | `metadata.${string}`

/** The value of a field; null is "not set". */
export type FieldValue = string | Address | Shipping | null

/** Changes to make to one side. A field that is absent stays as it is; a metadata key set to null goes. */
export type FieldPatch = { [F in FieldPath]?: FieldValue }

/** What Stripe alone decides about a customer; copied to `users.billing`. Amounts are integer minor units of `currency`. */
export interface Billing {
  balance: number
  currency: string | null
  delinquent: boolean
  taxExempt: 'none' | 'exempt' | 'reverse'
  defaultPaymentMethod: string | null
  invoicePrefix: string | null
}

/** A Stripe customer as Lockstep sees it: the projection of one snapshot. */
export interface RemoteState {
  fields: SyncedFields
  /** The `lockstep_` metadata as Stripe holds it. */
  facts: Record<string, string>
  /** All preferred locales; the first is the two-way field `locale`, the rest is not ours to touch. */
  locales: string[]
  /** How many metadata keys the customer has in all: Stripe's limit of 50 counts foreign ones too. */
  metadataKeys: number
  billing: Billing
}
