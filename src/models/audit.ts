/** A value before and after, and whatever else is to be said of it. One that is `{}` changed, but its values are not known. */
export interface FieldChange {
  from?: unknown
  to?: unknown
  /** What both sides had last agreed on. */
  base?: unknown
  /** Plain facts about the change: never personal data. */
  [note: string]: unknown
}

/** The changes of one customer by field path (`email`, `metadata.tier`, `state`, `stripeCustomerId`). */
export type FieldChanges = Record<string, FieldChange>

/** The fields of a customer that say nothing of a person. */
const PLAIN_FIELDS = new Set(['type', 'state', 'stripeCustomerId'])
const VALUES = ['from', 'to', 'base'] as const

/** The changes with each value of a personal field put through `map`; those that say nothing of a person stay. */
export function mapFieldValues(fields: FieldChanges, map: (value: unknown) => unknown): FieldChanges {
  return Object.fromEntries(Object.entries(fields).map(([path, change]) => [path, mapChange(path, change, map)]))
}

/** Whether the values of the field say nothing of a person. */
export function isPlainField(path: string): boolean {
  return PLAIN_FIELDS.has(path)
}

function mapChange(path: string, change: FieldChange, map: (value: unknown) => unknown): FieldChange {
  if (PLAIN_FIELDS.has(path)) return change
  const values = VALUES.filter((name) => name in change).map((name) => [name, map(change[name])])
  return { ...change, ...Object.fromEntries(values) }
}
