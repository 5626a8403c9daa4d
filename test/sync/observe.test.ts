import t from 'tap'
import type { StripeWrite, SyncState } from '../../src/models/sync-state.js'
import { NO_FIELDS, remoteState, withPatch } from '../../src/sync/fields.js'
import {
  beforeEvent,
  judge,
  observedTimes,
  overwrittenEdits,
  type Snapshot,
  timeOfEdit,
} from '../../src/sync/observe.js'

const SECOND = 1_000
const NOON = Date.parse('2026-01-01T12:00:00Z')
const customer = (fields: object = {}) => ({
  id: 'cus_1',
  email: 'a@example.com',
  description: 'one',
  metadata: { k: '1' },
  phone: null,
  name: null,
  preferred_locales: [],
  address: null,
  shipping: null,
  balance: 0,
  currency: null,
  delinquent: false,
  tax_exempt: 'none',
  invoice_settings: {},
  invoice_prefix: null,
  ...fields,
})

function stateOf(fields: object = {}, rest: Partial<SyncState> = {}): SyncState {
  return {
    remote: remoteState(customer(fields), []),
    remoteAsOf: new Date(NOON),
    remoteTimes: {},
    base: withPatch(NO_FIELDS, { description: 'one' }),
    ...rest,
  } as SyncState
}

function event(fields: object, previous: Record<string, unknown> | null, secondsAfter: number): Snapshot {
  return { customer: customer(fields), previous, created: NOON + secondsAfter * SECOND, kind: 'event' }
}

function write(rest: Partial<StripeWrite> = {}): StripeWrite {
  return {
    idempotencyKey: 'lockstep-update-1',
    userId: 'u',
    stripeCustomerId: 'cus_1',
    kind: 'update',
    held: { description: 'one' },
    sent: { description: 'ours' },
    disowned: [],
    outcome: null,
    startedAt: new Date(NOON),
    settledAt: null,
    ...rest,
  }
}

const verdict = (
  state: SyncState,
  snapshot: Snapshot,
  own: StripeWrite | null = null,
  unsettled: StripeWrite[] = [],
  now = NOON,
) => judge(state, snapshot, own, unsettled, [], now)

t.test('clearly later and starting from what we hold: the later state', async (t) => {
  const news = verdict(stateOf(), event({ description: 'two' }, { description: 'one' }, 10))
  t.match(news, {
    is: 'news',
    remote: { fields: { description: 'two' } },
    asOf: new Date(NOON + 10 * SECOND),
    times: { description: '2026-01-01T12:00:10.000Z' },
    base: null,
  })
})

t.test('news that hold more than their own change: the rest was changed by then, at the latest', async (t) => {
  const held = { remoteTimes: { email: '2025-01-01T00:00:00.000Z' } }
  const both = event({ description: 'two', email: 'b@example.com' }, { description: 'one' }, 20)
  t.match(verdict(stateOf({}, held), both), {
    is: 'news',
    times: { description: '2026-01-01T12:00:20.000Z', email: '2026-01-01T12:00:20.000Z' },
  })
  const hinted = { remoteTimes: { email: '2026-01-01T12:00:05.000Z' } }
  t.match(verdict(stateOf({}, hinted), both), { times: { email: '2026-01-01T12:00:05.000Z' } }, 'a hint knows better')
})

t.test('hints in any order: the latest change of a field counts', async (t) => {
  const gap = (was: string, is: string, after: number) =>
    verdict(
      stateOf({}, { remoteTimes: { description: '2026-01-01T12:00:30.000Z' } }),
      event({ description: is }, { description: was }, after),
    )
  t.match(gap('b', 'c', 20), { is: 'hint', times: { description: '2026-01-01T12:00:30.000Z' } })
  t.match(gap('b', 'c', 40), { is: 'hint', times: { description: '2026-01-01T12:00:40.000Z' } })
})

t.test('clearly older: what we hold has it in it', async (t) => {
  t.match(verdict(stateOf(), event({ description: 'zero' }, { description: 'x' }, -10)), { is: 'stale' })
})

t.test('as what we hold: no news, only later', async (t) => {
  t.match(verdict(stateOf(), event({}, { description: 'zero' }, 1)), { is: 'no_news' })
  t.match(verdict(stateOf(), event({}, null, 100)), { is: 'no_news', asOf: new Date(NOON + 100 * SECOND) })
})

t.test('all else is a hint: the same second, a gap, no word of before, nothing held', async (t) => {
  for (const after of [-2, -1, 0, 1, 2]) {
    t.match(
      verdict(stateOf(), event({ description: 'two' }, { description: 'one' }, after)),
      { is: 'hint' },
      `${after} s`,
    )
  }
  const gap = event({ description: 'three' }, { description: 'two' }, 10)
  t.match(verdict(stateOf(), gap), { is: 'hint', times: { description: '2026-01-01T12:00:10.000Z' } })
  t.match(verdict(stateOf(), event({ description: 'two' }, null, 10)), { is: 'hint' })
  t.match(verdict(stateOf({}, { remote: null, remoteAsOf: null }), event({}, {}, 10)), { is: 'hint' })
})

t.test('a list shows the state as it is: no word of before is needed', async (t) => {
  const listed: Snapshot = {
    customer: customer({ description: 'two' }),
    previous: null,
    created: NOON + 10 * SECOND,
    kind: 'list',
  }
  t.match(verdict(stateOf(), listed), { is: 'news' })
  t.match(verdict(stateOf(), { ...listed, created: NOON + SECOND }), { is: 'hint' })
})

t.test('changes of what we do not sync are no news; of billing they are', async (t) => {
  t.match(verdict(stateOf(), event({ next_invoice_sequence: 7 }, { next_invoice_sequence: 6 }, 10)), { is: 'no_news' })
  t.match(verdict(stateOf(), event({ balance: 7 }, { balance: 0 }, 10)), {
    is: 'news',
    remote: { billing: { balance: 7 } },
  })
})

t.test('our own write: an echo once its answer is in, to wait for until then', async (t) => {
  const echo = event({ description: 'ours' }, { description: 'one' }, 10)
  t.match(verdict(stateOf(), echo, write({ outcome: 'answered' })), { is: 'echo' })
  t.match(verdict(stateOf(), echo, write(), [], NOON + 29 * SECOND), { is: 'in_flight' })
  const late = verdict(stateOf(), echo, write(), [], NOON + 31 * SECOND)
  t.match(late, { is: 'news', base: { description: 'ours' } }, 'the base moves along: it was us who set that')
})

t.test('a write of ours that lands late does not pass for an edit of theirs', async (t) => {
  const zombie = event({ description: 'ours' }, { description: 'one' }, 10)
  t.match(verdict(stateOf(), zombie, null, [write()]), { is: 'news', base: { description: 'ours' } })
})

t.test('the customer before the event', async (t) => {
  t.strictSame(
    beforeEvent(
      { email: 'b', address: { line1: '2', city: 'x' }, metadata: { a: '1', b: '2' }, list: ['n'] },
      { email: 'a', address: { line1: '1' }, metadata: { a: null, gone: '3' }, list: ['o', 'p'] },
    ),
    { email: 'a', address: { line1: '1', city: 'x' }, metadata: { a: null, b: '2', gone: '3' }, list: ['o', 'p'] },
  )
  t.strictSame(beforeEvent({ address: { line1: '1' } }, { address: null }), { address: null })
  const metadata = event({ metadata: { k: '1', new: '2' } }, { metadata: { new: null } }, 10)
  t.match(verdict(stateOf(), metadata), { is: 'news', remote: { fields: { metadata: { k: '1', new: '2' } } } })
})

t.test('a snapshot that shows the customer in part, as another API version may: it has to be read', async (t) => {
  const held = { phone: '+14155552671', preferred_locales: ['sv'] }
  const without = (part: string, previous: Record<string, unknown> | null) => {
    const snapshot = event({ ...held, description: 'two' }, previous, 10)
    const entries = Object.entries(snapshot.customer as object).filter(([name]) => name !== part)
    return { ...snapshot, customer: Object.fromEntries(entries) }
  }
  for (const part of Object.keys(customer()).filter((name) => name !== 'id')) {
    t.match(verdict(stateOf(held), without(part, { description: 'one' })), { is: 'hint' }, part)
  }
  t.match(
    verdict(stateOf(held), without('object', { description: 'one' })),
    { is: 'news' },
    'what is not read may lack',
  )
  t.strictSame(verdict(stateOf(held), without('phone', null)), { is: 'hint', times: {} }, 'it tells no times either')
  for (const odd of [
    { email: 1 },
    { phone: {} },
    { preferred_locales: 'sv' },
    { address: [] },
    { shipping: 'here' },
    { metadata: null },
    { metadata: [] },
    { balance: '0' },
    { delinquent: 'no' },
  ]) {
    const snapshot = event({ ...held, description: 'two', ...odd }, { description: 'one' }, 10)
    t.match(verdict(stateOf(held), snapshot), { is: 'hint' }, JSON.stringify(odd))
  }
  const about = {
    write: write({ held: { phone: 'x' }, sent: { phone: '+14155552671' } }),
    settings: { policies: { default: 'stripe' as const }, foreignMetadataPrefixes: [] },
    local: NO_FIELDS,
    localTime: () => null,
    remoteTime: () => null,
  }
  const own = { ...about, snapshot: without('phone', { description: 'one' }) }
  t.strictSame(overwrittenEdits(own), [], 'nor does it say that we overwrote anything')
})

t.test('edits that our write overwrote', async (t) => {
  const about = {
    write: write(),
    snapshot: event({ description: 'ours' }, { description: 'theirs' }, 5),
    settings: { policies: {}, foreignMetadataPrefixes: [] },
    local: withPatch(NO_FIELDS, { description: 'ours' }),
    localTime: () => '2026-01-01T11:59:00.000Z',
    remoteTime: () => null,
  }
  t.match(overwrittenEdits(about), [
    { field: 'description', reason: 'overwritten', base: 'one', local: 'ours', remote: 'theirs', winner: 'local' },
  ])
  t.match(overwrittenEdits({ ...about, remoteTime: () => '2026-01-01T11:59:30.000Z' }), [{ winner: 'stripe' }])
  t.match(overwrittenEdits({ ...about, settings: { policies: { default: 'stripe' }, foreignMetadataPrefixes: [] } }), [
    { winner: 'stripe' },
  ])
  const since = { ...about, settings: { policies: { default: 'stripe' as const }, foreignMetadataPrefixes: [] } }
  t.match(overwrittenEdits({ ...since, local: withPatch(NO_FIELDS, { description: 'newer' }) }), [{ winner: 'local' }])
  t.strictSame(overwrittenEdits({ ...about, snapshot: event({ description: 'ours' }, { description: 'one' }, 5) }), [])
  t.strictSame(overwrittenEdits({ ...about, snapshot: event({ description: 'ours' }, { email: 'x' }, 5) }), [])
  t.strictSame(overwrittenEdits({ ...about, write: write({ kind: 'create', held: null }) }), [])
})

t.test('when an edit was made', async (t) => {
  const events = [
    event({ description: 'a' }, { description: 'one' }, 3),
    event({ description: 'a', email: 'n@example.com' }, { email: 'a@example.com' }, 6),
  ]
  t.equal(
    timeOfEdit(events, [], 'description', 'a'),
    '2026-01-01T12:00:03.000Z',
    'the event that changed it, not a later one',
  )
  t.equal(timeOfEdit(events, [], 'description', 'b'), null)
  const state = stateOf(
    {},
    { remoteTimes: { description: '2026-01-01T12:00:05.000Z', email: '2025-01-01T00:00:00.000Z' } },
  )
  const seen = remoteState(customer({ description: 'two', email: 'n@example.com' }), [])
  t.match(observedTimes(state, seen, new Date(NOON + 60 * SECOND)), {
    description: '2026-01-01T12:00:05.000Z',
    email: '2026-01-01T12:01:00.000Z',
  })
})
