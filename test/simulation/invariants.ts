import type Stripe from 'stripe'
import { sameJson } from '../../src/lib/json.js'
import type { FieldPath, FieldValue, SyncedFields } from '../../src/models/synced-fields.js'
import type { Tenant } from '../../src/models/tenant.js'
import { openConflicts } from '../../src/repositories/sync-conflicts.js'
import { fieldValue, pathsOf, remoteState } from '../../src/sync/fields.js'
import { changedFields } from '../../src/sync/observe.js'
import { type Base, type FieldEdit, fieldsOf, type History, type Ledger, type UserJson } from './ledger.js'
import { accountOf } from './moves.js'
import type { World } from './world.js'

/** A rule of the specification (README.md beside this file) that the end state breaks. */
export interface Violation {
  /** The letter of the rule. */
  rule: string
  what: string
}

interface StateRow {
  user_id: string
  status: string
  base: SyncedFields | null
  dirty: boolean
  rejected: Record<string, unknown>
  last_error: { code: string } | null
}

interface ConflictJson {
  user_id: string
  field: string
  reason: string
  status: string
  local: FieldValue
  remote: FieldValue
}

interface LinkRow {
  stripe_customer_id: string
  user_id: string | null
  how: string | null
  deleted_at: string | null
  unlinked_at: string | null
}

/** A user and the Stripe customer that it ended with. */
interface Pair {
  user: UserJson
  customer: Stripe.Customer
  local: SyncedFields
  remote: SyncedFields
}

/** What a tenant ended with, on both sides. */
interface TenantEnd {
  world: World
  tenant: Tenant
  users: UserJson[]
  states: Map<string, StateRow>
  links: LinkRow[]
  conflicts: ConflictJson[]
  /** Why customers are listed as another one's duplicates, by their id. */
  duplicates: Map<string, string>
  /** The live customers of its account, by id. */
  customers: Map<string, Stripe.Customer>
  /** The users that have a live customer, with it. */
  pairs: Pair[]
  foreign: readonly string[]
  breaks(rule: string, what: string): void
}

/** Holds the end state of a quiet world against the specification. */
export async function checkInvariants(world: World, ledger: Ledger): Promise<Violation[]> {
  const violations: Violation[] = []
  const breaks = (rule: string, what: string) => {
    violations.push({ rule, what: world.trace.readable(what) })
  }
  for (const tenant of world.tenants) {
    const end = await readEnd(world, tenant, breaks)
    checkUsers(end)
    for (const pair of end.pairs) checkAgreement(end, pair)
    checkOwners(end)
    checkCreations(end)
    const history = await ledger.read(end.foreign)
    for (const pair of end.pairs) checkEdits(end, pair, history, ledger.deleted)
    checkForeign(end, ledger)
  }
  await checkEvents(world, breaks)
  return violations
}

async function readEnd(world: World, tenant: Tenant, breaks: TenantEnd['breaks']): Promise<TenantEnd> {
  const of = async <Row extends object>(table: string): Promise<Row[]> => {
    const sql = `select to_jsonb(t) as row from ${table} t where tenant_id = $1`
    return (await world.lab.overseer.query<{ row: Row }>(sql, [tenant.id])).map(({ row }) => row)
  }
  const users = await of<UserJson>('users')
  const { data } = world.stripe.controls.dump({ limit: 10_000, ...accountOf(tenant) })
  const customers = new Map(data.map((customer) => [customer.id, customer]))
  const foreign = world.plan.config.settings.foreignMetadataPrefixes
  return {
    world,
    tenant,
    users,
    states: new Map((await of<StateRow>('sync_state')).map((state) => [state.user_id, state])),
    links: await of<LinkRow>('stripe_links'),
    conflicts: await readConflicts(world, tenant, await of<ConflictJson>('sync_conflicts')),
    duplicates: new Map(
      (await of<{ stripe_customer_id: string; reason: string }>('duplicate_customers')).map(
        ({ stripe_customer_id, reason }) => [stripe_customer_id, reason],
      ),
    ),
    customers,
    pairs: users.flatMap((user) => {
      const customer = customers.get(user.stripe_customer_id ?? '')
      if (customer === undefined) return []
      return [{ user, customer, local: fieldsOf(user, foreign), remote: remoteState(customer, foreign).fields }]
    }),
    foreign,
    breaks,
  }
}

/** The conflicts as their readers get them: what they hold of people is sealed. */
async function readConflicts(world: World, tenant: Tenant, rows: ConflictJson[]): Promise<ConflictJson[]> {
  const { overseer } = world.lab
  const db = {
    query: <Row extends object>(sql: string, params: readonly unknown[] = []) => overseer.query<Row>(sql, [...params]),
  }
  const sealed = rows.map((row) => ({ base: null, ...row, userId: row.user_id }))
  return openConflicts(db, world.vault(), tenant.id, sealed)
}

/** (a) Nobody waits, and who has no customer has a reason; (g) no customer of a user is one that was deleted. */
function checkUsers({ users, states, customers, breaks }: TenantEnd): void {
  for (const user of users) {
    const state = states.get(user.id)
    if (state === undefined) {
      breaks('a', `user ${user.id} has no sync state`)
      continue
    }
    if (state.dirty && state.status !== 'failed') breaks('a', `user ${user.id} is still dirty (${state.status})`)
    if (user.stripe_customer_id === null) {
      const mayLack =
        user.state !== 'active' ||
        state.status === 'detached' ||
        (state.status === 'conflict' && state.last_error?.code === 'ambiguous_match')
      if (!mayLack) breaks('a', `user ${user.id} (${user.state}, ${state.status}) has no Stripe customer`)
    } else if (!customers.has(user.stripe_customer_id)) {
      breaks('g', `user ${user.id} points to ${user.stripe_customer_id}, which is not there`)
    }
  }
}

/** (a) Both sides and the base are equal, or the field waits for a person. */
function checkAgreement({ states, conflicts, breaks }: TenantEnd, { user, local, remote }: Pair): void {
  const state = states.get(user.id)
  if (state === undefined) return
  const open = new Set(conflicts.filter((c) => c.user_id === user.id && c.status === 'open').map(({ field }) => field))
  for (const path of pathsOf(local, remote)) {
    const l = fieldValue(local, path)
    const r = fieldValue(remote, path)
    const b = state.base === null ? null : fieldValue(state.base, path)
    if (open.has(path) || Object.hasOwn(state.rejected, path)) continue
    if (!sameJson(l, r) || !sameJson(l, b)) {
      breaks('a', `user ${user.id}: ${path} is ${json(l)} here, ${json(r)} in Stripe, ${json(b)} in the base`)
    }
  }
  const expected = open.size > 0 ? 'conflict' : Object.keys(state.rejected).length > 0 ? 'failed' : 'in_sync'
  if (state.status !== expected) breaks('a', `user ${user.id} is ${state.status}, not ${expected}`)
}

/** (b) No user has two customers, no customer two users, and none a customer that was asked about; (a) no customer is left out without a reason. */
function checkOwners({ world, links, duplicates, customers, pairs, breaks }: TenantEnd): void {
  const customerOf = new Map<string, string>()
  for (const link of links) {
    if (link.user_id === null || link.deleted_at !== null || link.unlinked_at !== null) continue
    const other = customerOf.get(link.user_id)
    if (other !== undefined) {
      breaks('b', `user ${link.user_id} has two customers: ${other} and ${link.stripe_customer_id}`)
    }
    customerOf.set(link.user_id, link.stripe_customer_id)
    const isGuess = link.how === 'email' || link.how === 'phone'
    if (isGuess && duplicates.get(link.stripe_customer_id) === 'ambiguous') {
      breaks('b', `customer ${link.stripe_customer_id} was asked about, and given to user ${link.user_id} unanswered`)
    }
  }
  const doesImport = world.plan.config.settings.onRemoteCreate === 'import'
  for (const id of customers.keys()) {
    const users = pairs.filter(({ customer }) => customer.id === id).map(({ user }) => user.id)
    if (users.length > 1) breaks('b', `customer ${id} has users ${users.join(', ')}`)
    const isGivenUp = links.some((link) => link.stripe_customer_id === id && link.unlinked_at !== null)
    const mayBeNobodys = isGivenUp || duplicates.has(id) || !doesImport || users.length > 0
    if (!mayBeNobodys) breaks('a', `customer ${id} is nobody's`)
  }
}

/** (b) Of the customers that we made for a user, one lives at the most. */
function checkCreations({ world, tenant, customers, breaks }: TenantEnd): void {
  const made = new Map<string, Set<string>>()
  for (const event of world.stripe.controls.events(accountOf(tenant).account)) {
    const key = event.request?.idempotency_key
    if (event.type !== 'customer.created' || key == null) continue
    const { id } = event.data.object as { id: string }
    const user = /^lockstep-create-(.*)-\d+$/.exec(key)?.[1] ?? ''
    if (customers.has(id)) made.set(user, (made.get(user) ?? new Set()).add(id))
  }
  for (const [user, ids] of made) {
    if (ids.size > 1) breaks('b', `we made ${ids.size} customers that live for user ${user}: ${[...ids].join(', ')}`)
  }
}

/** (c) No edit of a pair is lost and no conflict invented, (e) no value is, nor comes from another pair. */
function checkEdits(
  { world, tenant, links, conflicts, breaks }: TenantEnd,
  pair: Pair,
  { edits, bases, met }: History,
  deleted: ReadonlySet<string>,
): void {
  const { user, local, remote } = pair
  const ids = links.filter((link) => link.user_id === user.id).map((link) => link.stripe_customer_id)
  const subjects = new Set([user.id, ...ids])
  const own = edits.filter((edit) => subjects.has(edit.subject))
  const records = conflicts.filter((conflict) => conflict.user_id === user.id)
  const lost = lostEdits({
    ...pair,
    edits: own,
    bases: bases.filter(({ userId }) => userId === user.id),
    conflicts: records,
    deleted,
    isHistoryDark: world.plan.config.simulator.omitPreviousAttributes,
    ownWrites: ownWrites(world, tenant, subjects),
    met,
  })
  for (const complaint of lost) breaks('c', `user ${user.id}: ${complaint}`)
  for (const path of pathsOf(local, remote)) {
    for (const value of [fieldValue(local, path), fieldValue(remote, path)]) {
      const isKnown = value === null || own.some((edit) => edit.path === path && sameJson(edit.value, value))
      if (!isKnown) breaks('e', `user ${user.id}: nobody gave ${path} the value ${json(value)}`)
    }
  }
  for (const record of records.filter(({ reason }) => reason === 'both_changed')) {
    const wrote = (sides: FieldEdit['side'][], value: FieldValue) =>
      value === null ||
      own.some((edit) => sides.includes(edit.side) && edit.path === record.field && sameJson(edit.value, value))
    // What stands here may be an edit of Stripe's that was taken over; what stands there must be theirs, never our own write.
    if (!wrote(['local', 'stripe'], record.local) || !wrote(['stripe'], record.remote)) {
      breaks('c', `user ${user.id}: a conflict of ${record.field} that nobody made: ${json(record)}`)
    }
  }
}

/** (f) What is not ours is as others left it; (g) no deleted customer is back. */
function checkForeign({ users, customers, breaks }: TenantEnd, ledger: Ledger): void {
  for (const [id, values] of ledger.foreign) {
    const customer = customers.get(id)
    if (customer === undefined) continue
    const { balance, other_system } = { balance: customer.balance, other_system: customer.metadata.other_system }
    if (!sameJson({ balance, other_system }, values)) {
      breaks('f', `${id} has ${json({ balance, other_system })} where others set ${json(values)}`)
    }
  }
  for (const customer of customers.values()) {
    if (Object.hasOwn(customer.metadata, 'other_local')) breaks('f', `${customer.id} was given metadata of other_`)
  }
  for (const user of users) {
    if (Object.hasOwn(user.metadata, 'other_system')) breaks('f', `user ${user.id} was given metadata of other_`)
    const id = user.stripe_customer_id
    if (id !== null && ledger.deleted.has(id)) breaks('g', `user ${user.id} has ${id}, which was deleted`)
  }
}

/** A value that a write of the service's gave a field in Stripe. */
interface OwnWrite {
  path: FieldPath
  value: FieldValue
}

/** What the service wrote on these customers, as Stripe's events tell. */
function ownWrites(world: World, tenant: Tenant, customers: ReadonlySet<string>): OwnWrite[] {
  const { foreignMetadataPrefixes } = world.plan.config.settings
  return world.stripe.controls.events(accountOf(tenant).account).flatMap((event) => {
    const { object, previous_attributes: previous } = event.data as {
      object: { id: string }
      previous_attributes?: object
    }
    if (event.request?.idempotency_key?.startsWith('lockstep-') !== true || !customers.has(object.id)) return []
    const snapshot = {
      customer: object,
      previous: { ...previous },
      created: event.created * 1000,
      kind: 'event' as const,
    }
    return [...changedFields(snapshot, foreignMetadataPrefixes)].map(([path, value]) => ({ path, value }))
  })
}

/** (c) Every value that someone wrote is there at the end, or was overwritten later, or stands in a conflict. */
function lostEdits(
  end: Pair & {
    edits: readonly FieldEdit[]
    conflicts: readonly ConflictJson[]
    deleted: ReadonlySet<string>
    isHistoryDark: boolean
    ownWrites: OwnWrite[]
    met: History['met']
    bases: readonly Base[]
  },
): string[] {
  const { edits } = end
  return edits.flatMap((edit) => {
    // What was set on a customer that is gone went with it.
    if (edit.side === 'stripe' && end.deleted.has(edit.subject)) return []
    const isThere = [end.local, end.remote].some((fields) => sameJson(fieldValue(fields, edit.path), edit.value))
    if (isThere) return []
    const isOverwritten = edits.some((later) => later.seq > edit.seq && later.path === edit.path)
    if (isOverwritten) return []
    const isShown = end.conflicts.some(
      (c) => c.field === edit.path && (sameJson(c.local, edit.value) || sameJson(c.remote, edit.value)),
    )
    if (isShown || isUndone(edit, end)) return []
    if (wasAgreedByChance(edit, end)) return []
    // Nobody can see that a field of a stranger was emptied, and not empty: as they meet it is filled.
    if (edit.side === 'stripe' && edit.value === null && edit.seq < (end.met.get(edit.subject) ?? 0)) return []
    // Without word of what was before, nobody can see that our own write overwrote an edit.
    if (end.isHistoryDark && edit.side === 'stripe') return []
    const now = `${json(fieldValue(end.local, edit.path))} here, ${json(fieldValue(end.remote, edit.path))} in Stripe`
    return [`the last edit of ${edit.path}, ${json(edit.value)} (${edit.side}, #${edit.seq}), is lost: it is ${now}`]
  })
}

/**
 * Whether the edit took back earlier ones of its side, to what both sides had last agreed on: then nothing was changed, as in
 * any three-way merge, and the other side's value stands. Agreed is also what a write of ours had already set there, when its answer
 * was still on its way.
 */
function isUndone(
  edit: FieldEdit,
  { edits, bases, ownWrites }: { edits: readonly FieldEdit[]; bases: readonly Base[]; ownWrites: OwnWrite[] },
): boolean {
  const isSame = ({ path, value }: OwnWrite) => path === edit.path && sameJson(value, edit.value)
  const isAgreed = (base: Base | undefined) =>
    sameJson(base?.base == null ? null : fieldValue(base.base, edit.path), edit.value)
  if (isAgreed(bases.filter(({ seq }) => seq < edit.seq).at(-1))) return true
  const hadIt = edits.some((earlier) => earlier.seq < edit.seq && earlier.side === 'local' && isSame(earlier))
  const next = bases.find(({ seq }) => seq > edit.seq)
  return edit.side === 'local' && hadIt && ownWrites.some(isSame) && next !== undefined && isAgreed(next)
}

/**
 * Whether both sides were found to hold this value alike, or to lack it as they met, though nothing carried it over: that is
 * agreement too, and what the other side shows only later comes after it. An edit in Stripe counts as one where the same had been set
 * here before: a write of ours that says the same changes nothing there.
 */
function wasAgreedByChance(
  edit: FieldEdit,
  { edits, bases, ownWrites }: { edits: readonly FieldEdit[]; bases: readonly Base[]; ownWrites: OwnWrite[] },
): boolean {
  const isSame = ({ path, value }: OwnWrite) => path === edit.path && sameJson(value, edit.value)
  const wasBase = bases.some(
    ({ seq, base }) => seq > edit.seq && base !== null && sameJson(fieldValue(base, edit.path), edit.value),
  )
  if (!wasBase) return false
  if (edit.side === 'local') return !ownWrites.some(isSame)
  return edits.some((earlier) => earlier.seq < edit.seq && earlier.side === 'local' && isSame(earlier))
}

/** (d) An acknowledged event is in the inbox and settled; (e) under the tenant whose account it is of. */
async function checkEvents(world: World, breaks: TenantEnd['breaks']): Promise<void> {
  const rows = await world.lab.overseer.query<{
    id: string
    account: string | null
    owner: string | null
    status: string
    error: string | null
  }>(
    `select e.id, e.account, t.stripe_account as owner, e.status, e.error from stripe_events e join tenants t on t.id = e.tenant_id`,
  )
  const stored = new Set(rows.map((row) => `${row.account ?? ''}/${row.id}`))
  for (const name of world.tooEarly) breaks('d', `event ${name} was acknowledged before it was stored`)
  for (const name of world.acknowledged) {
    if (!stored.has(name)) breaks('d', `event ${name} was acknowledged and is not in the inbox`)
  }
  for (const row of rows) {
    if (row.status !== 'processed' && row.status !== 'ignored') {
      breaks('d', `event ${row.id} is ${row.status}${row.error === null ? '' : `: ${row.error}`}`)
    }
    if (row.account !== row.owner) breaks('e', `event ${row.id} of ${row.account} is filed under ${row.owner}`)
  }
}

function json(value: FieldValue | object | undefined): string {
  return JSON.stringify(value)
}
