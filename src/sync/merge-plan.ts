import { sameJson } from '../lib/json.js'
import type { MergeConflict, NotMoved } from '../models/customer-merge.js'
import type { FieldPatch, FieldPath, FieldValue, SyncedFields } from '../models/synced-fields.js'
import { FACT_PREFIX, fieldValue, isSyncedMetadataKey, metadataKey, pathsOf, withPatch } from './fields.js'

/** What merging two sets of fields comes to. */
export interface MergePlan {
  /** The survivor's, with its gaps filled. */
  fields: SyncedFields
  /** What was filled. */
  filled: FieldPath[]
  conflicts: MergeConflict[]
  /** Keys for which the survivor has no room. */
  notMoved: NotMoved[]
}

/**
 * Fills the survivor's gaps with what the loser has. Nothing that the survivor has is overwritten: where both have a value the
 * survivor's stays, and where they differ it is a conflict. A name counts as one. Pure.
 *
 * @param keyLimit how many metadata keys the survivor may have
 */
export function planMerge(survivor: SyncedFields, loser: SyncedFields, keyLimit: number): MergePlan {
  const plan: MergePlan = { fields: survivor, filled: [], conflicts: [], notMoved: [] }
  const patch: FieldPatch = {}
  let room = keyLimit - Object.keys(survivor.metadata).length
  for (const path of pathsOf(survivor, loser)) {
    const [ours, theirs] = [fieldValue(survivor, path), fieldValue(loser, path)]
    if (theirs === null || isSame(path, ours, theirs)) continue
    if (ours !== null) {
      plan.conflicts.push({ field: path, survivor: ours, loser: theirs })
    } else if (metadataKey(path) !== null && room-- <= 0) {
      plan.notMoved.push({ what: path, why: `A customer has at most ${keyLimit} metadata keys of its own.` })
    } else {
      patch[path] = theirs
      plan.filled.push(path)
    }
  }
  return { ...plan, fields: withPatch(survivor, patch) }
}

function isSame(path: FieldPath, a: FieldValue, b: FieldValue): boolean {
  if (path === 'email' && typeof a === 'string' && typeof b === 'string') return a.toLowerCase() === b.toLowerCase()
  return sameJson(a, b)
}

/** What would turn `from` into `to`. */
export function differenceOf(from: SyncedFields, to: SyncedFields): FieldPatch {
  const changed = pathsOf(from, to).filter((path) => !sameJson(fieldValue(from, path), fieldValue(to, path)))
  return Object.fromEntries(changed.map((path) => [path, fieldValue(to, path)]))
}

/** What a losing Stripe customer keeps, and whether it speaks against deleting that customer. */
const KEPT: readonly {
  what: string
  why: string
  isStake: boolean
  shows(customer: Record<string, unknown>): boolean
}[] = [
  {
    what: 'payment_methods',
    why: 'Stripe cannot move a payment method to another customer: the person has to give it again.',
    isStake: true,
    shows: ({ default_source, invoice_settings }) =>
      isSet(default_source) || isSet(record(invoice_settings).default_payment_method),
  },
  {
    what: 'balance',
    why: 'Stripe cannot move a balance: adjust both by hand.',
    isStake: true,
    shows: ({ balance }) => typeof balance === 'number' && balance !== 0,
  },
  {
    what: 'subscriptions_and_invoices',
    why: 'It was billed: Stripe cannot move subscriptions and invoices to another customer.',
    isStake: true,
    shows: ({ currency, next_invoice_sequence, delinquent }) =>
      isSet(currency) ||
      delinquent === true ||
      (typeof next_invoice_sequence === 'number' && next_invoice_sequence > 1),
  },
  {
    what: 'discount',
    why: 'Stripe cannot move a discount: give the survivor one.',
    isStake: true,
    shows: ({ discount }) => isSet(discount),
  },
  {
    what: 'invoice_settings',
    why: 'What its invoices show is not synced: set it on the survivor.',
    isStake: false,
    shows: ({ invoice_settings }) =>
      isSet(record(invoice_settings).custom_fields) || isSet(record(invoice_settings).footer),
  },
  {
    what: 'tax_exempt',
    why: 'Whether taxes are due is not synced: set it on the survivor.',
    isStake: false,
    shows: ({ tax_exempt }) => tax_exempt === 'exempt' || tax_exempt === 'reverse',
  },
]

/** What stays with a losing Stripe customer, by what the customer itself shows. Pure. */
export function keptByStripe(customer: unknown, foreignPrefixes: readonly string[]): NotMoved[] {
  const shown = record(customer)
  const foreign = Object.keys(record(shown.metadata)).filter(
    (key) => !key.startsWith(FACT_PREFIX) && !isSyncedMetadataKey(key, foreignPrefixes),
  )
  return [
    ...KEPT.filter((one) => one.shows(shown)).map(({ what, why }) => ({ what, why })),
    ...foreign.sort().map((key) => ({ what: `metadata.${key}`, why: 'The key belongs to another system.' })),
  ]
}

/** Whether something of it would be lost with the customer. */
export function isStake({ what }: NotMoved): boolean {
  return KEPT.some((one) => one.what === what && one.isStake)
}

function isSet(value: unknown): boolean {
  return value !== null && value !== undefined && value !== ''
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
