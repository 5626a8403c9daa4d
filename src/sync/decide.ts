import { sameJson } from '../lib/json.js'
import type { Rejection, StripeWrite, SyncStatus } from '../models/sync-state.js'
import type { Billing, FieldPatch, FieldPath, FieldValue, RemoteState, SyncedFields } from '../models/synced-fields.js'
import type { User } from '../models/user.js'
import type { UserView } from '../repositories/sync-views.js'
import {
  fieldValue,
  localFacts,
  localFields,
  localTime,
  METADATA_KEY_LIMIT,
  metadataKey,
  NO_FIELDS,
  patchEntries,
  withPatch,
} from './fields.js'
import { type FieldConflict, merge } from './merge.js'

/** All that a reconcile looks at. */
export interface View extends UserView {
  /** Whether this reconcile has already looked in Stripe for a customer to link. */
  lookedUp: boolean
}

/** The one next thing to do about a user. */
export type Step =
  | {
      do: 'settle'
      status: SyncStatus
      base: SyncedFields | null
      open: FieldConflict[]
      rejected: Record<string, Rejection>
    }
  | { do: 'fetch'; stripeCustomerId: string }
  | {
      do: 'apply'
      user: User
      patch: FieldPatch
      base: SyncedFields
      conflicts: FieldConflict[]
      billing: Billing | null
    }
  | {
      do: 'push'
      stripeCustomerId: string
      patch: FieldPatch
      facts: Record<string, string>
      base: SyncedFields
      held: SyncedFields
      conflicts: FieldConflict[]
    }
  | { do: 'look-up'; email: string }
  | { do: 'intend'; fields: SyncedFields; facts: Record<string, string> }
  | { do: 'find-created' }
  | { do: 'create' }
  | { do: 'delete'; stripeCustomerId: string }
  | { do: 'forget'; stripeCustomerId: string | null }

/**
 * Idempotency keys may be forgotten by Stripe from 24 hours on (docs.stripe.com/error-low-level#idempotency); from this age
 * on a create is not sent again before its customer was looked for.
 */
export const KEY_TRUSTED_MS = 23 * 3_600_000

/** The code of a metadata key that stays home because Stripe's customer is full. */
const KEY_LIMIT_CODE = 'metadata_key_limit'

/**
 * Decides the next step for a user, from the state alone: never from what woke the reconcile. Pure. Reconciling is doing
 * the step, reading again and deciding again, until the step is `settle` or `forget`.
 */
export function decide(view: View): Step {
  const { state, user, stripeCustomerId } = view
  if (stripeCustomerId !== null) {
    if (user?.state === 'erased' || (user === null && state.userErased)) return { do: 'delete', stripeCustomerId }
    if (state.remote === null || state.needsFetch) return { do: 'fetch', stripeCustomerId }
    return user === null ? farewell(view, stripeCustomerId) : settleLinked(view, user, stripeCustomerId)
  }
  // A create under way comes first whatever became of the user: it may have made a customer that nobody knows.
  if (state.createIntent !== null) {
    const age = view.now - state.createIntent.startedAt.getTime()
    return age >= KEY_TRUSTED_MS ? { do: 'find-created' } : { do: 'create' }
  }
  if (user === null) return { do: 'forget', stripeCustomerId: null }
  const rejected = stillRejected(state.rejected, localFields(user, view.tenant.settings.foreignMetadataPrefixes))
  const settle = (status: SyncStatus): Step => ({ do: 'settle', status, base: null, open: [], rejected })
  if (user.state !== 'active') return settle('ignored')
  if (state.status === 'detached') return settle('detached')
  return createStep(view, user, rejected)
}

/** The fields that stay home because Stripe refused their present value. */
function stillRejected(rejected: Record<string, Rejection>, local: SyncedFields): Record<string, Rejection> {
  return Object.fromEntries(
    Object.entries(rejected).filter(([path, refusal]) => sameJson(refusal.value, fieldValue(local, path as FieldPath))),
  )
}

function createStep(view: View, user: User, rejected: Record<string, Rejection>): Step {
  const { tenant } = view
  const fields = localFields(user, tenant.settings.foreignMetadataPrefixes)
  // Until a sweep has seen all of Stripe, and while strangers are not imported, a customer may be there that we don't know.
  const mayExist = tenant.sweptAt === null || tenant.settings.onRemoteCreate !== 'import'
  if (mayExist && !view.lookedUp && fields.email !== null) return { do: 'look-up', email: fields.email }
  const without = Object.fromEntries(Object.keys(rejected).map((path) => [path, null])) as FieldPatch
  const facts = localFacts(user)
  return { do: 'intend', fields: withinKeyLimit(withPatch(fields, without), facts), facts }
}

/** Stripe holds at most 50 metadata keys: the surplus, last in the alphabet, is left out, and shows as `failed` later. */
function withinKeyLimit(fields: SyncedFields, facts: Record<string, string>): SyncedFields {
  const keys = Object.keys(fields.metadata)
    .sort()
    .slice(METADATA_KEY_LIMIT - Object.keys(facts).length)
  return withPatch(fields, Object.fromEntries(keys.map((key) => [`metadata.${key}`, null])) as FieldPatch)
}

/** The row is gone: Stripe's customer stays, marked so, and the two part. */
function farewell(view: View, stripeCustomerId: string): Step {
  const { remote, base } = view.state
  if (remote === null) return { do: 'forget', stripeCustomerId }
  const { facts } = fitMetadata({}, differing({ lockstep_state: 'deleted' }, remote.facts), remote)
  if (Object.keys(facts).length === 0) return { do: 'forget', stripeCustomerId }
  return {
    do: 'push',
    stripeCustomerId,
    patch: {},
    facts,
    base: base ?? NO_FIELDS,
    held: remote.fields,
    conflicts: [],
  }
}

function settleLinked(view: View, user: User, stripeCustomerId: string): Step {
  const { tenant, state } = view
  const { settings } = tenant
  if (state.remote === null) return { do: 'fetch', stripeCustomerId }
  const { fields: remote, billing } = state.remote
  const local = localFields(user, settings.foreignMetadataPrefixes)
  const base = absorbOwnWrites(state.base ?? NO_FIELDS, remote, view.unsettled)
  // Whether there is room for a metadata key is judged anew each time: the other side may have made some.
  const refusals = Object.entries(state.rejected).filter(([, refusal]) => refusal.code !== KEY_LIMIT_CODE)
  const merged = merge({
    local,
    remote,
    base,
    policies: settings.policies,
    localTime: (path) => localTime(user.fieldTimes, path),
    remoteTime: (path) => state.remoteTimes[path] ?? null,
    rejected: Object.fromEntries(refusals),
  })
  const agreed = withPatch(base, merged.agreed)
  const billingDiffers = !sameJson(user.billing, billing)
  if (Object.keys(merged.toLocal).length > 0 || billingDiffers) {
    return {
      do: 'apply',
      user,
      patch: merged.toLocal,
      base: withPatch(agreed, merged.toLocal),
      conflicts: merged.conflicts.filter((conflict) => conflict.winner === 'stripe'),
      billing: billingDiffers ? billing : null,
    }
  }
  const newFacts = differing(localFacts(user), state.remote.facts)
  const { patch, facts, surplus } = fitMetadata(merged.toRemote, newFacts, state.remote)
  if (Object.keys(patch).length > 0 || Object.keys(facts).length > 0) {
    return {
      do: 'push',
      stripeCustomerId,
      patch,
      facts,
      base: agreed,
      held: remote,
      conflicts: merged.conflicts.filter((conflict) => conflict.winner === 'local'),
    }
  }
  const open = merged.conflicts.filter((conflict) => conflict.winner === null)
  const refused = { ...pick(state.rejected, merged.blocked), ...surplus }
  const status = open.length > 0 ? 'conflict' : Object.keys(refused).length > 0 ? 'failed' : 'in_sync'
  return { do: 'settle', status, base: agreed, open, rejected: refused }
}

/**
 * Where Stripe holds what we ourselves sent and never had an answer to, the base moves there: it was us who changed it, so
 * that is not news from Stripe, and a later local edit must win over it. A field that is known to have been set since is not
 * ours, be it the same value.
 *
 * @param known the write that the snapshot itself names as its cause
 */
export function absorbOwnWrites(
  base: SyncedFields,
  remote: SyncedFields,
  unsettled: readonly StripeWrite[],
  known: StripeWrite | null = null,
): SyncedFields {
  const patch: FieldPatch = {}
  for (const write of known === null ? unsettled : [...unsettled, known]) {
    for (const [path, value] of patchEntries(write.sent as FieldPatch)) {
      const isOurs = write === known || !write.disowned.includes(path)
      if (isOurs && sameJson(fieldValue(remote, path), value)) patch[path] = value
    }
  }
  return withPatch(base, patch)
}

function pick(rejected: Record<string, Rejection>, paths: readonly FieldPath[]): Record<string, Rejection> {
  return Object.fromEntries(Object.entries(rejected).filter(([path]) => (paths as readonly string[]).includes(path)))
}

function differing(wanted: Record<string, string>, held: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(wanted).filter(([key, value]) => held[key] !== value))
}

/** Takes out the new metadata keys that Stripe has no room for; removals make room first, then our facts take theirs. */
function fitMetadata(
  patch: FieldPatch,
  newFacts: Record<string, string>,
  remote: RemoteState,
): { patch: FieldPatch; facts: Record<string, string>; surplus: Record<string, Rejection> } {
  const surplus: Record<string, Rejection> = {}
  const fitting: FieldPatch = {}
  const facts: Record<string, string> = {}
  const isNewKey = (path: FieldPath) => metadataKey(path) !== null && fieldValue(remote.fields, path) === null
  const removed = patchEntries(patch).filter(([path, value]) => metadataKey(path) !== null && value === null).length
  let room = METADATA_KEY_LIMIT - remote.metadataKeys + removed
  for (const [key, value] of Object.entries(newFacts)) {
    if (!Object.hasOwn(remote.facts, key) && room-- <= 0) surplus[`metadata.${key}`] = keyLimitRejection(value)
    else facts[key] = value
  }
  for (const [path, value] of patchEntries(patch)) {
    if (value !== null && isNewKey(path) && room-- <= 0) surplus[path] = keyLimitRejection(value)
    else fitting[path] = value
  }
  return { patch: fitting, facts, surplus }
}

function keyLimitRejection(value: FieldValue): Rejection {
  return {
    value,
    code: KEY_LIMIT_CODE,
    message: `Stripe holds at most ${METADATA_KEY_LIMIT} metadata keys on a customer; remove some on either side.`,
  }
}
