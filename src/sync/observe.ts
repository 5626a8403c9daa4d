import { sameJson } from '../lib/json.js'
import type { StripeWrite, SyncState } from '../models/sync-state.js'
import type { FieldPath, FieldValue, RemoteState, SyncedFields } from '../models/synced-fields.js'
import type { TenantSettings } from '../models/tenant.js'
import type { PendingEvent } from '../repositories/stripe-events.js'
import type { ConflictRecord } from '../repositories/sync-conflicts.js'
import { absorbOwnWrites } from './decide.js'
import { fieldValue, isWholeCustomer, NO_FIELDS, pathsOf, remoteState, sameRemote } from './fields.js'
import { isLater, policyFor } from './merge.js'

/**
 * How far apart two times of Stripe's must be to say which came first: `created` has whole seconds, and so has the `Date`
 * header by which reads are dated.
 */
export const MARGIN_MS = 2_000

/** How long an event that our own write caused waits for that write's answer, which says the same and more. */
export const ANSWER_PATIENCE_MS = 30_000

/** A snapshot of a Stripe customer, from an event or a list, with all that tells how new it is. */
export interface Snapshot {
  customer: unknown
  /** What the event says the changed fields were before; null for a list, which is no change but a state. */
  previous: Record<string, unknown> | null
  /** When Stripe made the snapshot, milliseconds since the Unix epoch, whole seconds. */
  created: number
  /** `event`: the state as the event was made. `list`: the state as it was read. */
  kind: 'event' | 'list'
}

/** The snapshot that an event carries. */
export function snapshotOf(event: Pick<PendingEvent, 'payload' | 'created'>): Snapshot {
  return {
    customer: event.payload.data?.object ?? {},
    previous: event.payload.data?.previous_attributes ?? null,
    created: event.created.getTime(),
    kind: 'event',
  }
}

/** What a snapshot means for what we hold. */
export type Verdict =
  /** Caused by our own write, whose answer we have: nothing in it is new. */
  | { is: 'echo' }
  /** Caused by our own write, whose answer is still to come. */
  | { is: 'in_flight' }
  /** Older than what we hold, which has it in it. `base` is given where what we hold is still our own unanswered write. */
  | { is: 'stale'; base: SyncedFields | null }
  /** As what we hold. `base` as above. */
  | { is: 'no_news'; asOf: Date; base: SyncedFields | null }
  /** The later state. `base` as above. */
  | { is: 'news'; remote: RemoteState; asOf: Date; times: Record<string, string>; base: SyncedFields | null }
  /** It cannot be told: the customer has to be read. */
  | { is: 'hint'; times: Record<string, string> }

/**
 * Judges a snapshot of a customer that is linked to a user. Stripe neither orders events nor dates them finer than a second,
 * and a snapshot is the state when the event was made, not now (docs.stripe.com/webhooks#event-ordering). So a snapshot is
 * taken only where it is certain to be later than what we hold: clearly later by Stripe's clock and, for an event, starting
 * from just what we hold. Pure.
 */
export function judge(
  state: SyncState,
  snapshot: Snapshot,
  ownWrite: StripeWrite | null,
  unsettled: readonly StripeWrite[],
  foreignPrefixes: readonly string[],
  now: number,
): Verdict {
  if (ownWrite?.outcome === 'answered') return { is: 'echo' }
  if (ownWrite !== null && ownWrite.outcome === null && now - ownWrite.startedAt.getTime() < ANSWER_PATIENCE_MS) {
    return { is: 'in_flight' }
  }
  const seen = remoteState(snapshot.customer, foreignPrefixes)
  const asOf = new Date(snapshot.created)
  const before =
    snapshot.previous === null
      ? null
      : remoteState(beforeEvent(snapshot.customer, snapshot.previous), foreignPrefixes).fields
  const times = latest(changeTimes(snapshot, before ?? state.remote?.fields ?? null, seen, asOf), state.remoteTimes)
  if (state.remote === null || state.remoteAsOf === null) return { is: 'hint', times }
  const lead = snapshot.created - state.remoteAsOf.getTime()
  // It settles the write, which then no longer says that it was us who set what the read after it showed.
  const settledBase =
    ownWrite === null ? null : absorbOwnWrites(state.base ?? NO_FIELDS, state.remote.fields, [ownWrite])
  if (lead < -MARGIN_MS) return { is: 'stale', base: settledBase }
  if (!isWholeCustomer(snapshot.customer)) return { is: 'hint', times }
  if (sameRemote(seen, state.remote)) return { is: 'no_news', asOf, base: settledBase }
  if (lead <= MARGIN_MS) return { is: 'hint', times }
  const isNext = before !== null && startsFrom(state.remote.fields, before, seen.fields)
  if (snapshot.kind === 'event' && !isNext) return { is: 'hint', times }
  const hasOwn = ownWrite !== null || unsettled.length > 0
  const base = hasOwn ? absorbOwnWrites(state.base ?? NO_FIELDS, seen.fields, unsettled, ownWrite) : null
  // What an event that never came, or is still to come, has changed was changed by now.
  return { is: 'news', remote: seen, asOf, times: { ...observedTimes(state, seen, asOf), ...times }, base }
}

/** Whether the fields that an event changed were, before it, what we hold. */
function startsFrom(held: SyncedFields, before: SyncedFields, after: SyncedFields): boolean {
  return pathsOf(before, after)
    .filter((path) => !sameJson(fieldValue(before, path), fieldValue(after, path)))
    .every((path) => sameJson(fieldValue(before, path), fieldValue(held, path)))
}

/**
 * The customer before the event: `previous_attributes` holds prior values of what changed, of nested hashes only the keys
 * that did, a key that was new as null.
 */
export function beforeEvent(customer: unknown, previous: Record<string, unknown>): Record<string, unknown> {
  const result: Record<string, unknown> = { ...(customer as Record<string, unknown>) }
  for (const [key, was] of Object.entries(previous)) {
    const is = result[key]
    result[key] = isHash(was) && isHash(is) ? beforeEvent(is, was) : was
  }
  return result
}

/** The later of both times for each field of `times`: hints come in any order. */
function latest(times: Record<string, string>, known: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(times).map(([path, time]) => {
      const other = known[path]
      return [path, other !== undefined && Date.parse(other) > Date.parse(time) ? other : time]
    }),
  )
}

/** When each field that the snapshot shows as changed was changed, as far as it tells. `before`: null when nothing is known of it. */
function changeTimes(
  snapshot: Snapshot,
  before: SyncedFields | null,
  seen: RemoteState,
  asOf: Date,
): Record<string, string> {
  // Without word of what was before, a part that is not shown would seem to have been cleared.
  if (snapshot.previous === null && !isWholeCustomer(snapshot.customer)) return {}
  return timesOfDifferences(before ?? seen.fields, seen.fields, () => asOf)
}

/**
 * When each field of a customer that was just read was changed: at the time a hint gave for it, if one came since the last
 * look, else no later than now.
 */
export function observedTimes(state: SyncState, remote: RemoteState, asOf: Date): Record<string, string> {
  const held = state.remote?.fields ?? NO_FIELDS
  const lastLook = state.remoteAsOf?.getTime() ?? 0
  const differences = timesOfDifferences(held, remote.fields, (path) => {
    const hinted = state.remoteTimes[path]
    return hinted !== undefined && Date.parse(hinted) >= lastLook - MARGIN_MS ? new Date(hinted) : asOf
  })
  return { ...state.remoteTimes, ...differences }
}

function timesOfDifferences(
  before: SyncedFields,
  after: SyncedFields,
  timeOf: (path: FieldPath) => Date,
): Record<string, string> {
  return Object.fromEntries(
    pathsOf(before, after)
      .filter((path) => !sameJson(fieldValue(before, path), fieldValue(after, path)))
      .map((path) => [path, timeOf(path).toISOString()]),
  )
}

/** The fields that the event itself says it changed, with their new values; none without word of what was before. */
export function changedFields(snapshot: Snapshot, foreignPrefixes: readonly string[]): Map<FieldPath, FieldValue> {
  return new Map(
    Object.entries(eventChanges(snapshot, foreignPrefixes)).map(([path, { to }]) => [path as FieldPath, to]),
  )
}

/** The same with the values before. */
export function eventChanges(
  snapshot: Snapshot,
  foreignPrefixes: readonly string[],
): Record<string, { from: FieldValue; to: FieldValue }> {
  if (snapshot.previous === null) return {}
  const before = remoteState(beforeEvent(snapshot.customer, snapshot.previous), foreignPrefixes).fields
  const after = remoteState(snapshot.customer, foreignPrefixes).fields
  return differences(before, after)
}

/** The fields in which two states differ. */
export function differences(
  before: SyncedFields,
  after: SyncedFields,
): Record<string, { from: FieldValue; to: FieldValue }> {
  return Object.fromEntries(
    pathsOf(before, after)
      .map((path) => [path, { from: fieldValue(before, path), to: fieldValue(after, path) }] as const)
      .filter(([, { from, to }]) => !sameJson(from, to)),
  )
}

/** What an own update overwrote, and what is known of the two edits. */
export interface Overwrite {
  write: StripeWrite
  /** The snapshot of the event that our update caused. */
  snapshot: Snapshot
  settings: Pick<TenantSettings, 'policies' | 'foreignMetadataPrefixes'>
  local: SyncedFields
  localTime(path: FieldPath): string | null
  /** When Stripe was told the value that we overwrote, if its event is known. ISO 8601. */
  remoteTime(path: FieldPath, value: FieldValue): string | null
}

/**
 * The edits at Stripe that our own update overwrote between our read and our write: its event says that a field was
 * something else before than what we held. They are conflicts like any other, and the policy decides; only that under
 * `manual`, and where the field has been changed here again since, what is done stays done. Pure.
 */
export function overwrittenEdits(overwrite: Overwrite): ConflictRecord[] {
  const { write, snapshot, settings, local } = overwrite
  if (write.kind !== 'update' || write.held === null || snapshot.previous === null) return []
  if (!isWholeCustomer(snapshot.customer)) return []
  const before = remoteState(beforeEvent(snapshot.customer, snapshot.previous), settings.foreignMetadataPrefixes).fields
  return Object.entries(write.sent).flatMap(([name, sent]): ConflictRecord[] => {
    const path = name as FieldPath
    const held = write.held?.[path] ?? null
    const was = fieldValue(before, path)
    if (sameJson(was, held) || sameJson(was, sent)) return []
    const policy = policyFor(path, settings.policies)
    const localAt = overwrite.localTime(path) ?? write.startedAt.toISOString()
    const remoteAt = overwrite.remoteTime(path, was)
    const isStillOurs = sameJson(fieldValue(local, path), sent)
    const theirsWins = policy === 'stripe' || (policy === 'latest' && isLater(remoteAt, localAt))
    const winner = theirsWins && isStillOurs ? 'stripe' : 'local'
    return [
      { field: path, reason: 'overwritten', policy, base: held, local: sent, remote: was, localAt, remoteAt, winner },
    ]
  })
}

/** When the latest of these events set the field to this value, ISO 8601; null when none did. */
export function timeOfEdit(
  events: readonly Snapshot[],
  foreignPrefixes: readonly string[],
  path: FieldPath,
  value: FieldValue,
): string | null {
  const times = events
    .filter(({ customer, previous }) => {
      if (previous === null || !sameJson(fieldValue(remoteState(customer, foreignPrefixes).fields, path), value))
        return false
      return !sameJson(fieldValue(remoteState(beforeEvent(customer, previous), foreignPrefixes).fields, path), value)
    })
    .map(({ created }) => created)
  return times.length === 0 ? null : new Date(Math.max(...times)).toISOString()
}

function isHash(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
