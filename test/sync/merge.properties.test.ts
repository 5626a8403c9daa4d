import fc from 'fast-check'
import t from 'tap'
import type { Rejection } from '../../src/models/sync-state.js'
import type { FieldPatch, FieldPath, FieldValue, SyncedFields } from '../../src/models/synced-fields.js'
import type { Policy } from '../../src/models/tenant.js'
import { fieldValue, PLAIN_FIELDS, pathsOf, withPatch } from '../../src/sync/fields.js'
import {
  type FieldConflict,
  isLater,
  type MergeInput,
  type MergeResult,
  merge,
  policyFor,
} from '../../src/sync/merge.js'

// Few values and few keys, so that sides meet often; but of every family of fields, nested ones too.
const text = fc.option(fc.constantFrom('a', 'b', 'c'), { nil: null })
const wholeAddress = fc.record({
  line1: fc.constantFrom('1', '2'),
  line2: fc.constantFrom(null, 'flat'),
  city: fc.constant('x'),
  state: fc.constant(null),
  postalCode: fc.constantFrom('10', null),
  country: fc.constantFrom('SE', 'GB'),
})
const address = fc.option(wholeAddress, { nil: null, freq: 2 })
const shipping = fc.option(
  fc.record({ name: fc.constantFrom('a', 'b'), phone: text, address: fc.option(wholeAddress, { nil: null }) }),
  { nil: null, freq: 2 },
)
// Keys that every object inherits, keys with a dot, and one that is called as a plain field.
const KEYS = ['k1', 'k2', 'a.b', 'email', 'constructor', '__proto__']
const metadata = fc
  .uniqueArray(fc.tuple(fc.constantFrom(...KEYS), fc.constantFrom('a', 'b')), { selector: ([key]) => key })
  .map((entries): Record<string, string> => Object.fromEntries(entries))
const fields: fc.Arbitrary<SyncedFields> = fc.record({
  email: text,
  phone: text,
  name: text,
  description: text,
  locale: text,
  address,
  shipping,
  metadata,
})
const PATHS: FieldPath[] = [...PLAIN_FIELDS, ...KEYS.map((key): FieldPath => `metadata.${key}`)]
const policy = fc.constantFrom<Policy>('latest', 'local', 'stripe', 'manual')
const policies: fc.Arbitrary<Record<string, Policy>> = fc.record(
  { default: policy, metadata: policy, email: policy, locale: policy, address: policy, 'metadata.k1': policy },
  { requiredKeys: [] },
)
const time = fc.option(
  fc.constantFrom(
    '2026-01-01T00:00:10.000Z',
    '2026-01-01T00:00:10.900Z',
    '2026-01-01T00:00:11.000Z',
    '2026-01-01T00:00:20.000Z',
  ),
  { nil: null },
)

/** A time for each field. */
const timesOf = (one: fc.Arbitrary<string | null>) =>
  fc.array(one, { minLength: PATHS.length, maxLength: PATHS.length }).map((times) => {
    const byPath = new Map(PATHS.map((path, index) => [path, times[index] ?? null]))
    return (path: FieldPath) => byPath.get(path) ?? null
  })

/** All that a merge may be given: mostly fields of which one side or none changed, as in life. */
const anything: fc.Arbitrary<MergeInput> = fc
  .record({
    base: fields,
    here: fields,
    there: fields,
    changed: fc.array(fc.nat(3), { minLength: PATHS.length, maxLength: PATHS.length }),
    policies,
    localTime: timesOf(time),
    remoteTime: timesOf(time),
    refused: fc.subarray(PATHS),
  })
  .map(({ base, here, there, changed, refused, ...rest }) => {
    const taken = (side: SyncedFields, bit: number) =>
      Object.fromEntries(
        PATHS.filter((_, index) => ((changed[index] ?? 0) & bit) !== 0).map((path) => [path, fieldValue(side, path)]),
      ) as FieldPatch
    const local = withPatch(base, taken(here, 1))
    // What Stripe refused is what the row has; of some fields it has been corrected since.
    const rejected = Object.fromEntries(
      refused.map((path, index): [string, Rejection] => [
        path,
        { value: fieldValue(index % 2 === 0 ? local : there, path), code: 'x', message: 'no' },
      ]),
    )
    return { base, local, remote: withPatch(base, taken(there, 2)), rejected, ...rest }
  })

const same = (a: FieldValue | undefined, b: FieldValue | undefined) => JSON.stringify(a) === JSON.stringify(b)
const paths = (patch: FieldPatch) => Object.keys(patch) as FieldPath[]
const isEmpty = (patch: FieldPatch) => paths(patch).length === 0
const conflictOf = (result: MergeResult, path: FieldPath) => result.conflicts.find(({ field }) => field === path)

/** What each of the sides has for a field. */
const valuesOf = ({ local, remote, base }: MergeInput, path: FieldPath) => ({
  local: fieldValue(local, path),
  remote: fieldValue(remote, path),
  base: fieldValue(base, path),
})

/** Both sides and the base once the result is carried out. */
function carriedOut({ local, remote, base }: MergeInput, { toLocal, toRemote, agreed }: MergeResult) {
  return {
    local: withPatch(local, toLocal),
    remote: withPatch(remote, toRemote),
    base: withPatch(withPatch(withPatch(base, agreed), toLocal), toRemote),
  }
}

/** Holds a statement against many merges. */
function always(statement: (given: MergeInput, result: MergeResult) => boolean, of = anything) {
  fc.assert(
    fc.property(of, (given) => statement(given, merge(given))),
    { numRuns: 1_000 },
  )
}

/** Holds a statement against each field of many merges. */
function alwaysEach(statement: (given: MergeInput, result: MergeResult, path: FieldPath) => boolean, of = anything) {
  always(
    (given, result) => pathsOf(given.local, given.remote, given.base).every((path) => statement(given, result, path)),
    of,
  )
}

t.test(
  'it invents no value: each is that of the other side, and each conflict tells all three as they are',
  async () => {
    alwaysEach((given, { toLocal, toRemote, agreed, conflicts }, path) => {
      const { local, remote, base } = valuesOf(given, path)
      return (
        (!(path in toLocal) || same(toLocal[path], remote)) &&
        (!(path in toRemote) || same(toRemote[path], local)) &&
        (!(path in agreed) || (same(agreed[path], local) && same(agreed[path], remote))) &&
        conflicts
          .filter(({ field }) => field === path)
          .every((found) => same(found.local, local) && same(found.remote, remote) && same(found.base, base))
      )
    })
  },
)

t.test('it names no field that no side has, and none twice', async () => {
  always((given, { toLocal, toRemote, agreed, conflicts, blocked }) => {
    const known = pathsOf(given.local, given.remote, given.base)
    const conflicting = conflicts.map(({ field }) => field)
    const done = [...paths(toLocal), ...paths(toRemote), ...paths(agreed), ...blocked]
    const frozen = conflicts.filter(({ winner }) => winner === null).map(({ field }) => field)
    return (
      [...done, ...conflicting].every((path) => known.includes(path)) &&
      new Set([...done, ...frozen]).size === done.length + frozen.length &&
      new Set(conflicting).size === conflicting.length
    )
  })
})

t.test('where the sides differ something is done or said, where they agree nothing is', async () => {
  alwaysEach((given, result, path) => {
    const { local, remote, base } = valuesOf(given, path)
    const { toLocal, toRemote, agreed, blocked } = result
    const isHandled =
      path in toLocal || path in toRemote || blocked.includes(path) || conflictOf(result, path)?.winner === null
    return isHandled === !same(local, remote) && path in agreed === (same(local, remote) && !same(local, base))
  })
})

t.test('no edit is lost: what is overwritten was no edit, or is in a conflict', async () => {
  alwaysEach((given, result, path) => {
    const { local, remote, base } = valuesOf(given, path)
    const isTold = conflictOf(result, path) !== undefined
    return (
      (!(path in result.toLocal) || same(local, base) || isTold) &&
      (!(path in result.toRemote) || same(remote, base) || isTold)
    )
  })
})

t.test('a side that alone changed a field has its way, whatever the policy and the times', async () => {
  alwaysEach((given, result, path) => {
    const { local, remote, base } = valuesOf(given, path)
    const { toLocal, toRemote, blocked } = result
    const found = conflictOf(result, path)
    if (same(local, remote)) return found === undefined
    if (same(local, base)) return path in toLocal && found === undefined
    if (!same(remote, base)) return found?.reason === 'both_changed' || found?.reason === 'cannot_clear'
    if (path === 'locale' && local === null) return path in toLocal && found?.reason === 'cannot_clear'
    return (path in toRemote || blocked.includes(path)) && found === undefined
  })
})

t.test('where both changed a field, the policy decides', async () => {
  alwaysEach((given, result, path) => {
    const found = conflictOf(result, path)
    if (found === undefined || found.reason === 'cannot_clear') return true
    const rule = policyFor(path, given.policies)
    const [here, there] = [given.localTime(path), given.remoteTime(path)]
    const expected: Record<Policy, FieldConflict['winner']> = {
      manual: null,
      local: 'local',
      stripe: 'stripe',
      latest: isLater(there, here) ? 'stripe' : 'local',
    }
    const isDone =
      found.winner === null
        ? !(path in result.toLocal) && !(path in result.toRemote)
        : found.winner === 'stripe'
          ? path in result.toLocal
          : path in result.toRemote || result.blocked.includes(path)
    return (
      found.winner === expected[rule] &&
      found.policy === rule &&
      found.localAt === here &&
      found.remoteAt === there &&
      isDone
    )
  })
})

t.test('under `manual` both sides of a conflict stay as they are, until the sides agree by themselves', async () => {
  const manual = anything.map((given): MergeInput => ({ ...given, policies: { default: 'manual' } }))
  alwaysEach((given, result, path) => {
    const { local, remote, base } = valuesOf(given, path)
    const isConflict = !same(local, remote) && !same(local, base) && !same(remote, base)
    if (!isConflict) return conflictOf(result, path)?.winner !== null
    const after = carriedOut(given, result)
    return (
      conflictOf(result, path)?.winner === null &&
      same(fieldValue(after.local, path), local) &&
      same(fieldValue(after.remote, path), remote) &&
      same(fieldValue(after.base, path), base)
    )
  }, manual)
})

t.test('what Stripe cannot be made to forget is not cleared there', async () => {
  always(({ local }, { toRemote, toLocal, conflicts }) => {
    if ('locale' in toRemote && toRemote.locale === null) return false
    const undone = conflicts.filter(({ reason }) => reason === 'cannot_clear')
    return undone.every(
      ({ field, winner }) => field === 'locale' && local.locale === null && winner === 'stripe' && 'locale' in toLocal,
    )
  })
})

t.test('a value that Stripe refused is not sent again, any other is', async () => {
  alwaysEach((given, result, path) => {
    const refusal = given.rejected[path]
    const isRefused = refusal !== undefined && same(refusal.value, fieldValue(given.local, path))
    return isRefused ? !(path in result.toRemote) : !result.blocked.includes(path)
  })
})

t.test(
  'carried out, the sides agree, but for what is frozen or was refused; merged again, nothing is to do',
  async () => {
    always((given, first) => {
      const after = carriedOut(given, first)
      const frozen = first.conflicts.filter(({ winner }) => winner === null)
      const waiting = new Set<FieldPath>([...frozen.map(({ field }) => field), ...first.blocked])
      const again = merge({ ...given, ...after })
      return (
        pathsOf(after.local, after.remote, after.base).every((path) => {
          const { local, remote, base } = valuesOf({ ...given, ...after }, path)
          return waiting.has(path) || (same(local, remote) && same(local, base))
        }) &&
        isEmpty(again.toLocal) &&
        isEmpty(again.toRemote) &&
        isEmpty(again.agreed) &&
        JSON.stringify(again.conflicts.filter(({ winner }) => winner === null)) === JSON.stringify(frozen) &&
        JSON.stringify(again.blocked) === JSON.stringify(first.blocked)
      )
    })
  },
)

t.test('the same result merged with the same input again, and the input untouched', async () => {
  always((given, result) => {
    const before = JSON.stringify(given)
    return JSON.stringify(merge(given)) === JSON.stringify(result) && JSON.stringify(given) === before
  })
})

t.test('each field is for itself: what the others hold makes no difference', async () => {
  fc.assert(
    fc.property(anything, anything, fc.constantFrom(...PATHS), (given, other, path) => {
      const only = (side: SyncedFields, from: SyncedFields) => withPatch(side, { [path]: fieldValue(from, path) })
      const mixed = merge({
        ...given,
        base: only(other.base, given.base),
        local: only(other.local, given.local),
        remote: only(other.remote, given.remote),
      })
      const of = (result: MergeResult) =>
        JSON.stringify([
          result.toLocal[path],
          result.toRemote[path],
          result.agreed[path],
          conflictOf(result, path),
          result.blocked.includes(path),
        ])
      return of(mixed) === of(merge(given))
    }),
    { numRuns: 1_000 },
  )
})

t.test('the order of keys within a value is no difference', async () => {
  const turned = (value: unknown): unknown =>
    typeof value === 'object' && value !== null
      ? Object.fromEntries(
          Object.entries(value)
            .reverse()
            .map(([key, part]) => [key, turned(part)]),
        )
      : value
  const sameSides = fields.map((side): MergeInput => {
    const other = turned(side) as SyncedFields
    return {
      local: side,
      remote: other,
      base: other,
      policies: {},
      localTime: () => null,
      remoteTime: () => null,
      rejected: {},
    }
  })
  always(
    (_, { toLocal, toRemote, agreed, conflicts }) =>
      isEmpty(toLocal) && isEmpty(toRemote) && isEmpty(agreed) && conflicts.length === 0,
    sameSides,
  )
})

t.test('swapping the sides, with policies and times, swaps the answer', async () => {
  // Three things prefer a side by design: within one second the edit here counts as the later one, a locale cannot be
  // cleared there, and only there values are refused. Without them nothing must.
  const MIRROR: Record<Policy, Policy> = { local: 'stripe', stripe: 'local', latest: 'latest', manual: 'manual' }
  const early = fc.constantFrom(null, '2026-01-01T00:00:10.900Z')
  const late = fc.constantFrom('2026-01-01T00:00:11.000Z', '2026-01-01T00:00:20.000Z')
  const times = fc
    .tuple(timesOf(early), timesOf(late), fc.boolean())
    .map(([a, b, isLocalLate]) => (isLocalLate ? { localTime: b, remoteTime: a } : { localTime: a, remoteTime: b }))
  const even = fc.tuple(anything, times).map(([given, when]): MergeInput => {
    const set = (side: SyncedFields) => ({ ...side, locale: side.locale ?? 'd' })
    const sides = { local: set(given.local), remote: set(given.remote), base: set(given.base) }
    return { ...given, ...sides, ...when, rejected: {} }
  })
  always((given, forward) => {
    const back = merge({
      ...given,
      local: given.remote,
      remote: given.local,
      policies: Object.fromEntries(Object.entries(given.policies).map(([path, rule]) => [path, MIRROR[rule]])),
      localTime: given.remoteTime,
      remoteTime: given.localTime,
    })
    const turned = ({ conflicts }: MergeResult) =>
      conflicts.map((found) => ({
        ...found,
        policy: MIRROR[found.policy],
        local: found.remote,
        remote: found.local,
        localAt: found.remoteAt,
        remoteAt: found.localAt,
        winner: found.winner === null ? null : found.winner === 'local' ? 'stripe' : 'local',
      }))
    return (
      JSON.stringify(forward.toLocal) === JSON.stringify(back.toRemote) &&
      JSON.stringify(forward.toRemote) === JSON.stringify(back.toLocal) &&
      JSON.stringify(forward.agreed) === JSON.stringify(back.agreed) &&
      JSON.stringify(forward.conflicts) === JSON.stringify(turned(back))
    )
  }, even)
})
