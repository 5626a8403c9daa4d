import { sameJson } from '../lib/json.js'
import type { Rejection } from '../models/sync-state.js'
import type { FieldPatch, FieldPath, FieldValue, PlainField, SyncedFields } from '../models/synced-fields.js'
import type { Policy } from '../models/tenant.js'
import { FIELDS, fieldValue, metadataKey, pathsOf } from './fields.js'

/** The three states of one user, and by which rules they meet. Times are ISO 8601, or null when unknown. */
export interface MergeInput {
  local: SyncedFields
  remote: SyncedFields
  base: SyncedFields
  policies: Record<string, Policy>
  localTime(path: FieldPath): string | null
  remoteTime(path: FieldPath): string | null
  /** Local values that Stripe refused; each stays home while it is unchanged. */
  rejected: Record<string, Rejection>
}

/** A field that both sides changed, differently. */
export interface FieldConflict {
  field: FieldPath
  reason: 'both_changed' | 'cannot_clear'
  policy: Policy
  base: FieldValue
  local: FieldValue
  remote: FieldValue
  localAt: string | null
  remoteAt: string | null
  /** Null: frozen until someone decides. */
  winner: 'local' | 'stripe' | null
}

/** What has to be written where so that both sides agree. */
export interface MergeResult {
  toLocal: FieldPatch
  toRemote: FieldPatch
  /** The fields both sides hold alike: their next base. */
  agreed: FieldPatch
  conflicts: FieldConflict[]
  /** Fields that stay apart because Stripe refused the local value. */
  blocked: FieldPath[]
}

/**
 * The three-way merge: per field, the side that changed since base wins; where both changed alike they agree; where
 * they changed differently the policy decides and the conflict is reported with both values. Metadata merges key by
 * key. Pure; reads every field of all three sides; invents no value: each patch value is the other side's.
 */
export function merge(input: MergeInput): MergeResult {
  const result: MergeResult = { toLocal: {}, toRemote: {}, agreed: {}, conflicts: [], blocked: [] }
  for (const path of pathsOf(input.local, input.remote, input.base)) mergeField(path, input, result)
  return result
}

function mergeField(path: FieldPath, input: MergeInput, result: MergeResult): void {
  const local = fieldValue(input.local, path)
  const remote = fieldValue(input.remote, path)
  const base = fieldValue(input.base, path)

  if (sameJson(local, remote)) {
    if (!sameJson(base, local)) result.agreed[path] = local
    return
  }
  if (sameJson(local, base)) {
    result.toLocal[path] = remote
    return
  }
  const bothChanged = !sameJson(remote, base)
  const policy = bothChanged ? policyFor(path, input.policies) : 'local'
  const winner = bothChanged ? winnerBy(policy, path, input) : 'local'
  const cannotClear = winner === 'local' && local === null && !isClearable(path)
  if (bothChanged || cannotClear) {
    result.conflicts.push({
      field: path,
      reason: cannotClear ? 'cannot_clear' : 'both_changed',
      policy,
      base,
      local,
      remote,
      localAt: input.localTime(path),
      remoteAt: input.remoteTime(path),
      winner: cannotClear ? 'stripe' : winner,
    })
  }
  if (winner === 'stripe' || cannotClear) result.toLocal[path] = remote
  else if (winner === 'local') {
    const refused = input.rejected[path]
    if (refused !== undefined && sameJson(refused.value, local)) result.blocked.push(path)
    else result.toRemote[path] = local
  }
}

/** The policy for a field: its own, else its family's (`metadata`), else the tenant's default, else `latest`. */
export function policyFor(path: FieldPath, policies: Record<string, Policy>): Policy {
  const family = metadataKey(path) === null ? undefined : policies.metadata
  return policies[path] ?? family ?? policies.default ?? 'latest'
}

function winnerBy(policy: Policy, path: FieldPath, input: MergeInput): 'local' | 'stripe' | null {
  if (policy === 'manual') return null
  if (policy !== 'latest') return policy
  return isLater(input.remoteTime(path), input.localTime(path)) ? 'stripe' : 'local'
}

/**
 * Whether an edit at Stripe was later than one here. Stripe's times have one-second resolution, so within one second the
 * edit here counts as the later one: the application is where most edits are made. An unknown time is the earliest of all.
 */
export function isLater(remote: string | null, local: string | null): boolean {
  return secondOf(remote) > secondOf(local)
}

function secondOf(time: string | null): number {
  return time === null ? Number.NEGATIVE_INFINITY : Math.floor(Date.parse(time) / 1000)
}

function isClearable(path: FieldPath): boolean {
  return metadataKey(path) !== null || FIELDS[path as PlainField].clearable
}
