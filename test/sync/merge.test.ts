import t from 'tap'
import type { FieldPatch } from '../../src/models/synced-fields.js'
import type { Policy } from '../../src/models/tenant.js'
import { NO_FIELDS, withPatch } from '../../src/sync/fields.js'
import { isLater, type MergeInput, merge, policyFor } from '../../src/sync/merge.js'

const EARLY = '2026-01-01T00:00:10.000Z'
const LATE = '2026-01-01T00:00:20.000Z'

function input(
  sides: { base?: FieldPatch; local?: FieldPatch; remote?: FieldPatch },
  rest: Partial<MergeInput> = {},
): MergeInput {
  const base = withPatch(NO_FIELDS, sides.base ?? {})
  return {
    base,
    local: withPatch(base, sides.local ?? {}),
    remote: withPatch(base, sides.remote ?? {}),
    policies: {},
    localTime: () => EARLY,
    remoteTime: () => EARLY,
    rejected: {},
    ...rest,
  }
}

t.test('nothing changed: nothing to do', async (t) => {
  t.strictSame(merge(input({ base: { email: 'a', 'metadata.k': 'v' } })), {
    toLocal: {},
    toRemote: {},
    agreed: {},
    conflicts: [],
    blocked: [],
  })
})

t.test('one side changed since base: its value goes to the other', async (t) => {
  const base: FieldPatch = { email: 'old', name: 'Old', 'metadata.a': '1', 'metadata.b': '1' }
  const merged = merge(
    input({
      base,
      local: { email: 'new', 'metadata.a': null },
      remote: { name: null, 'metadata.b': '2', 'metadata.c': '3' },
    }),
  )
  t.match(merged, { conflicts: [], blocked: [] })
  t.strictSame(merged.toRemote, { email: 'new', 'metadata.a': null })
  t.strictSame(merged.toLocal, { name: null, 'metadata.b': '2', 'metadata.c': '3' })
})

t.test('both changed alike: they agree, and the base follows', async (t) => {
  const merged = merge(input({ base: { phone: '1' }, local: { phone: '2' }, remote: { phone: '2' } }))
  t.match(merged, { toLocal: {}, toRemote: {}, agreed: { phone: '2' }, conflicts: [] })
})

t.test('both changed differently: the policy decides, and both values are in the conflict', async (t) => {
  const sides = { base: { email: 'base' }, local: { email: 'here' }, remote: { email: 'there' } }
  const cases: [Policy, string, string, 'local' | 'stripe' | null][] = [
    ['local', EARLY, LATE, 'local'],
    ['stripe', LATE, EARLY, 'stripe'],
    ['manual', LATE, EARLY, null],
    ['latest', LATE, EARLY, 'local'],
    ['latest', EARLY, LATE, 'stripe'],
    ['latest', EARLY, EARLY, 'local'],
  ]
  for (const [policy, localAt, remoteAt, winner] of cases) {
    const merged = merge(
      input(sides, { policies: { email: policy }, localTime: () => localAt, remoteTime: () => remoteAt }),
    )
    t.strictSame(merged.conflicts, [
      {
        field: 'email',
        reason: 'both_changed',
        policy,
        base: 'base',
        local: 'here',
        remote: 'there',
        localAt,
        remoteAt,
        winner,
      },
    ])
    t.strictSame(merged.toRemote, winner === 'local' ? { email: 'here' } : {})
    t.strictSame(merged.toLocal, winner === 'stripe' ? { email: 'there' } : {})
  }
})

t.test('within one second the edit here counts as the later one; an unknown time is the earliest', async (t) => {
  t.notOk(isLater('2026-01-01T00:00:10.000Z', '2026-01-01T00:00:10.900Z'))
  t.notOk(isLater('2026-01-01T00:00:10.000Z', '2026-01-01T00:00:10.000Z'))
  t.ok(isLater('2026-01-01T00:00:11.000Z', '2026-01-01T00:00:10.999Z'))
  t.notOk(isLater(null, null))
  t.ok(isLater(EARLY, null))
})

t.test('a policy is found by field, by family, by default', async (t) => {
  const policies = { default: 'stripe', metadata: 'manual', 'metadata.k': 'local', email: 'latest' } as const
  t.equal(policyFor('metadata.k', policies), 'local')
  t.equal(policyFor('metadata.other', policies), 'manual')
  t.equal(policyFor('email', policies), 'latest')
  t.equal(policyFor('phone', policies), 'stripe')
  t.equal(policyFor('phone', {}), 'latest')
})

t.test('a locale cannot be cleared at Stripe: it comes back, and that is reported', async (t) => {
  const merged = merge(input({ base: { locale: 'de' }, local: { locale: null } }))
  t.match(merged, {
    toLocal: { locale: 'de' },
    toRemote: {},
    conflicts: [{ reason: 'cannot_clear', winner: 'stripe' }],
  })
})

t.test('a value that Stripe refused stays home until it changes', async (t) => {
  const rejected = { phone: { value: 'bad', code: 'x', message: 'no' } }
  t.match(merge(input({ local: { phone: 'bad' } }, { rejected })), { toRemote: {}, blocked: ['phone'] })
  t.match(merge(input({ local: { phone: 'good' } }, { rejected })), { toRemote: { phone: 'good' }, blocked: [] })
})

t.test('a value that Stripe refused gives way to a later edit there, and freezes with `manual`', async (t) => {
  const rejected = { phone: { value: 'bad', code: 'x', message: 'no' } }
  const sides = { local: { phone: 'bad' }, remote: { phone: 'theirs' } }
  const merged = merge(input(sides, { rejected, remoteTime: () => LATE }))
  t.match(merged, { toLocal: { phone: 'theirs' }, blocked: [], conflicts: [{ winner: 'stripe' }] })
  const manual = merge(input(sides, { rejected, policies: { phone: 'manual' } }))
  t.match(manual, { toLocal: {}, toRemote: {}, blocked: [], conflicts: [{ winner: null }] })
})

t.test('a locale that was cleared here and changed there, by policy', async (t) => {
  const sides = { base: { locale: 'de' }, local: { locale: null }, remote: { locale: 'sv' } }
  for (const policy of ['local', 'stripe', 'latest'] as const) {
    const merged = merge(input(sides, { policies: { default: policy } }))
    t.match(merged, { toLocal: { locale: 'sv' }, conflicts: [{ winner: 'stripe', policy }] }, policy)
    t.strictSame(merged.toRemote, {})
  }
  t.match(merge(input(sides, { policies: { default: 'manual' } })), { toLocal: {}, conflicts: [{ winner: null }] })
})
