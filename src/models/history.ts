/** From where a value came, or who decided: the REST API, plain SQL, Stripe (dashboard or API), the sync, an operator. */
export const ORIGINS = ['rest', 'sql', 'stripe', 'sync', 'operator'] as const
export type Origin = (typeof ORIGINS)[number]

/**
 * Why a value won. `only_change`: only its side had changed the field. `later_edit`: both had, and policy `latest` took the later edit.
 * `policy`: both had, and the policy names the side. `cannot_clear`: Stripe cannot be made to forget it. `overwritten`: our write
 * went over an edit that nobody had seen. `manual`: someone decided. `stripe_decides`: the field is Stripe's alone. `linked`,
 * `deleted_in_stripe`, `erased`, `row_deleted`: why the Stripe customer came or went.
 */
export const REASONS = [
  'only_change',
  'later_edit',
  'policy',
  'cannot_clear',
  'overwritten',
  'manual',
  'stripe_decides',
  'linked',
  'deleted_in_stripe',
  'erased',
  'row_deleted',
] as const
export type Reason = (typeof REASONS)[number]

/** The fields that have a story; `metadata` stands for all its keys, and `metadata.<key>` is the field of one. */
export const HISTORY_FIELDS = [
  'email',
  'phone',
  'name',
  'description',
  'locale',
  'address',
  'shipping',
  'metadata',
  'type',
  'state',
  'billing',
  'stripeCustomerId',
] as const

/** The field whose story tells of this one, by the name that the customers API has for it; null for one that has none. */
export function historyFieldOf(name: string): string | null {
  if (name === 'firstName' || name === 'lastName') return 'name'
  const isField = (HISTORY_FIELDS as readonly string[]).includes(name) || name.startsWith('metadata.')
  return isField ? name : null
}
