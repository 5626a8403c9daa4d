import t from 'tap'
import type { StripeWrite, SyncState } from '../../src/models/sync-state.js'
import type { FieldPatch } from '../../src/models/synced-fields.js'
import { DEFAULT_SETTINGS, type Tenant } from '../../src/models/tenant.js'
import type { User } from '../../src/models/user.js'
import { absorbOwnWrites, decide, KEY_TRUSTED_MS, type View } from '../../src/sync/decide.js'
import { localFacts, NO_FIELDS, remoteState, withPatch } from '../../src/sync/fields.js'

const NOW = Date.parse('2026-01-01T12:00:00Z')

const user = {
  id: '01a00000-0000-7000-8000-000000000001',
  tenantId: '01a00000-0000-7000-8000-00000000000a',
  type: 'regular',
  state: 'active',
  email: 'a@example.com',
  phone: null,
  firstName: 'Ada',
  lastName: null,
  description: null,
  locale: null,
  address: null,
  shipping: null,
  metadata: {},
  billing: remoteState({}, []).billing,
  stripeCustomerId: null,
  revision: 1,
  fieldTimes: {},
  archivedAt: null,
  createdAt: new Date(NOW),
  updatedAt: new Date(NOW),
} satisfies User

const agreed: FieldPatch = { email: 'a@example.com', name: 'Ada' }
const remoteOf = (fields: object = {}) =>
  remoteState({ email: 'a@example.com', name: 'Ada', metadata: localFacts(user), ...fields }, [])

function view(changes: {
  user?: Partial<User> | null
  state?: Partial<SyncState>
  tenant?: Partial<Tenant>
  linked?: boolean
  unsettled?: StripeWrite[]
  lookedUp?: boolean
}): View {
  const state = {
    status: 'pending',
    base: withPatch(NO_FIELDS, agreed),
    remote: remoteOf(),
    remoteTimes: {},
    needsFetch: false,
    rejected: {},
    createIntent: null,
    createGeneration: 0,
    ...changes.state,
  } as SyncState
  return {
    tenant: { id: user.tenantId, sweptAt: new Date(NOW), settings: DEFAULT_SETTINGS, ...changes.tenant } as Tenant,
    state,
    user: changes.user === null ? null : { ...user, ...changes.user },
    stripeCustomerId: changes.linked === false ? null : 'cus_1',
    unsettled: changes.unsettled ?? [],
    lookedUp: changes.lookedUp ?? false,
    now: NOW,
  }
}

const intent = (ageMs: number) => ({ key: 'k', params: {}, startedAt: new Date(NOW - ageMs) })

t.test('with a Stripe customer', async (t) => {
  const cases: [string, View, object][] = [
    ['both agree', view({}), { do: 'settle', status: 'in_sync' }],
    ['nothing of it was read yet', view({ state: { remote: null } }), { do: 'fetch', stripeCustomerId: 'cus_1' }],
    ['a hint came', view({ state: { needsFetch: true } }), { do: 'fetch' }],
    [
      'changed here',
      view({ user: { email: 'b@example.com' } }),
      { do: 'push', patch: { email: 'b@example.com' }, facts: {} },
    ],
    [
      'changed there',
      view({ state: { remote: remoteOf({ phone: '1' }) } }),
      { do: 'apply', patch: { phone: '1' }, billing: null },
    ],
    [
      'changed on both: home first',
      view({ user: { email: 'b' }, state: { remote: remoteOf({ phone: '1' }) } }),
      { do: 'apply', patch: { phone: '1' } },
    ],
    [
      'billing',
      view({ state: { remote: remoteOf({ balance: 5 }) } }),
      { do: 'apply', patch: {}, billing: { balance: 5 } },
    ],
    ['facts', view({ user: { type: 'new' } }), { do: 'push', patch: {}, facts: { lockstep_type: 'new' } }],
    ['archived', view({ user: { state: 'archived' } }), { do: 'push', facts: { lockstep_state: 'archived' } }],
    ['erased', view({ user: { state: 'erased' } }), { do: 'delete', stripeCustomerId: 'cus_1' }],
    ['the row is gone', view({ user: null }), { do: 'push', patch: {}, facts: { lockstep_state: 'deleted' } }],
    ['the row is gone after it was erased', view({ user: null, state: { userErased: true } }), { do: 'delete' }],
    [
      'the row is gone, and Stripe knows',
      view({ user: null, state: { remote: remoteOf({ metadata: { lockstep_state: 'deleted' } }) } }),
      { do: 'forget', stripeCustomerId: 'cus_1' },
    ],
    [
      'a field that Stripe refused',
      view({ user: { phone: 'bad' }, state: { rejected: { phone: { value: 'bad', code: 'c', message: 'm' } } } }),
      { do: 'settle', status: 'failed', rejected: { phone: {} } },
    ],
    [
      'a new value of that field',
      view({ user: { phone: 'good' }, state: { rejected: { phone: { value: 'bad', code: 'c', message: 'm' } } } }),
      { do: 'push', patch: { phone: 'good' } },
    ],
    [
      'frozen',
      view({
        user: { email: 'b' },
        state: { remote: remoteOf({ email: 'c' }) },
        tenant: { settings: { ...DEFAULT_SETTINGS, policies: { email: 'manual' } } },
      }),
      { do: 'settle', status: 'conflict', open: [{ field: 'email', winner: null }] },
    ],
  ]
  for (const [name, given, expected] of cases) t.match(decide(given), expected, name)
  t.strictSame((decide(view({})) as { open: unknown[] }).open, [])
})

t.test('without one', async (t) => {
  const none = { linked: false, state: { remote: null, base: null } }
  const cases: [string, View, object][] = [
    [
      'a new user',
      view(none),
      { do: 'intend', fields: { email: 'a@example.com', name: 'Ada' }, facts: { lockstep_user_id: user.id } },
    ],
    ['before the first sweep', view({ ...none, tenant: { sweptAt: null } }), { do: 'look-up', email: 'a@example.com' }],
    ['looked up already', view({ ...none, tenant: { sweptAt: null }, lookedUp: true }), { do: 'intend' }],
    ['nothing to look up by', view({ ...none, tenant: { sweptAt: null }, user: { email: null } }), { do: 'intend' }],
    [
      'strangers are not imported',
      view({ ...none, tenant: { settings: { ...DEFAULT_SETTINGS, onRemoteCreate: 'ignore' } } }),
      { do: 'look-up' },
    ],
    [
      'a create under way',
      view({ ...none, state: { ...none.state, createIntent: intent(KEY_TRUSTED_MS - 1) } }),
      { do: 'create' },
    ],
    [
      'one whose key may be forgotten',
      view({ ...none, state: { ...none.state, createIntent: intent(KEY_TRUSTED_MS) } }),
      { do: 'find-created' },
    ],
    [
      'a create under way of a row that is gone',
      view({ ...none, user: null, state: { ...none.state, createIntent: intent(1) } }),
      { do: 'create' },
    ],
    ['archived', view({ ...none, user: { state: 'archived' } }), { do: 'settle', status: 'ignored' }],
    ['erased', view({ ...none, user: { state: 'erased' } }), { do: 'settle', status: 'ignored' }],
    ['detached', view({ ...none, state: { ...none.state, status: 'detached' } }), { do: 'settle', status: 'detached' }],
    ['the row is gone', view({ ...none, user: null }), { do: 'forget', stripeCustomerId: null }],
  ]
  for (const [name, given, expected] of cases) t.match(decide(given), expected, name)

  const refused = decide(
    view({ ...none, state: { ...none.state, rejected: { name: { value: 'Ada', code: 'c', message: 'm' } } } }),
  )
  t.match(refused, { do: 'intend', fields: { email: 'a@example.com', name: null } }, 'a refused field is left out')
})

t.test("Stripe's 50 metadata keys", async (t) => {
  const metadata = Object.fromEntries(Array.from({ length: 50 }, (_, n) => [`key${String(n).padStart(2, '0')}`, 'v']))
  const made = decide(view({ linked: false, state: { remote: null, base: null }, user: { metadata } }))
  t.equal(made.do === 'intend' && Object.keys(made.fields.metadata).length, 46, 'four are ours')

  const full = remoteOf({
    metadata: { ...Object.fromEntries(Object.entries(metadata).slice(0, 46)), ...localFacts(user) },
  })
  const base = withPatch(full.fields, {})
  const settled = decide(view({ user: { metadata }, state: { remote: full, base } }))
  t.match(settled, { do: 'settle', status: 'failed', rejected: { 'metadata.key49': { code: 'metadata_key_limit' } } })

  const { key00: _gone, ...fewer } = metadata
  const pushed = decide(view({ user: { metadata: fewer }, state: { remote: full, base } }))
  t.strictSame(
    pushed.do === 'push' && pushed.patch,
    { 'metadata.key00': null, 'metadata.key46': 'v' },
    'a removal makes room',
  )
})

t.test('a Stripe customer that is full of others’ keys', async (t) => {
  const keys = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, n) => [`other${n}`, 'v']))
  const theirs = (count: number) => ({
    remote: remoteState({ email: 'old@example.com', name: 'Ada', metadata: keys(count) }, ['other']),
  })
  const tenant = { settings: { ...DEFAULT_SETTINGS, foreignMetadataPrefixes: ['other'] } }
  const base = withPatch(NO_FIELDS, { ...agreed, email: 'old@example.com' })
  const step = decide(view({ tenant, state: { ...theirs(48), base } }))
  t.match(step, { do: 'push', patch: { email: 'a@example.com' } }, 'holds no other field back')
  t.strictSame(step.do === 'push' && Object.keys(step.facts), ['lockstep_user_id', 'lockstep_tenant_id'])

  const full = decide(view({ tenant, user: { email: 'old@example.com' }, state: { ...theirs(50), base } }))
  t.match(full, {
    do: 'settle',
    status: 'failed',
    rejected: { 'metadata.lockstep_user_id': { code: 'metadata_key_limit' } },
  })
  t.match(decide(view({ tenant, user: null, state: { ...theirs(50), base } })), { do: 'forget' }, 'no farewell fits')
  t.match(decide(view({ tenant, user: null, state: { ...theirs(49), base } })), { do: 'push' })
})

t.test('what we sent ourselves is no news from Stripe', async (t) => {
  const write = {
    sent: { email: 'ours@example.com' },
    disowned: [] as string[],
  } as Partial<StripeWrite> as StripeWrite
  const base = withPatch(NO_FIELDS, { email: 'old@example.com' })
  const remote = withPatch(NO_FIELDS, { email: 'ours@example.com' })
  t.equal(absorbOwnWrites(base, remote, [write]).email, 'ours@example.com')
  t.equal(absorbOwnWrites(base, withPatch(remote, { email: 'theirs' }), [write]).email, 'old@example.com')
  const disowned = { ...write, disowned: ['email'] }
  t.equal(absorbOwnWrites(base, remote, [disowned]).email, 'old@example.com', 'someone else has set the same since')
  t.equal(absorbOwnWrites(base, remote, [disowned], disowned).email, 'ours@example.com', 'the event names it')

  // Sent, answer lost, edited again here: without this it would be a conflict with ourselves, which a policy may lose.
  const again = view({
    user: { email: 'newer@example.com' },
    state: { base, remote: remoteOf({ email: 'ours@example.com' }) },
    tenant: { settings: { ...DEFAULT_SETTINGS, policies: { default: 'stripe' } } },
    unsettled: [write],
  })
  t.match(decide(again), { do: 'push', patch: { email: 'newer@example.com' }, conflicts: [] })
})
