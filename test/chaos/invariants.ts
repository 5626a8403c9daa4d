import { sameJson } from '../../src/lib/json.js'
import type { SyncedFields } from '../../src/models/synced-fields.js'
import type { User } from '../../src/models/user.js'
import { makeDb } from '../../src/repositories/database.js'
import { openConflicts } from '../../src/repositories/sync-conflicts.js'
import { fieldValue, localFields, pathsOf, remoteState } from '../../src/sync/fields.js'
import { testVault } from '../helpers/vault.js'
import type { Cluster, Json } from './cluster.js'
import type { Edit, Ledger } from './load.js'

/** The rules of the specification (test/simulation/README.md) as they can be held against a live cluster, by letter. */
export interface Check {
  rule: string
  what: string
  /** How many things were looked at. */
  checked: number
  broken: string[]
}

/** Holds the quiet cluster against the specification. */
export async function checkCluster(cluster: Cluster, ledger: Ledger): Promise<Check[]> {
  const { pool } = cluster
  const rowsOf = async (sql: string): Promise<Json[]> =>
    (await pool.query(`select to_jsonb(t) as row from (${sql}) t`)).rows.map(({ row }) => row)
  const users = await rowsOf('select * from users')
  const states = new Map((await rowsOf('select * from sync_state')).map((state) => [state.user_id, state]))
  const [tenant] = await rowsOf('select id from tenants')
  const sealed = (await rowsOf('select * from sync_conflicts')).map((row) => ({ ...row, userId: row.user_id }))
  const conflicts = await openConflicts(makeDb(pool), testVault(), tenant.id, sealed)
  const events = new Map(
    (await rowsOf('select id, status from stripe_events')).map((event) => [event.id, event.status]),
  )
  const { data: customers } = await cluster.simulator('GET', '/customers?limit=10000')
  const { data: stripeEvents } = await cluster.simulator('GET', '/events')
  const byId = new Map<string, Json>(customers.map((customer: Json) => [customer.id, customer]))

  const checks: Check[] = []
  const check = (rule: string, what: string) => {
    const entry: Check = { rule, what, checked: 0, broken: [] }
    checks.push(entry)
    return (isKept: boolean, complaint: () => string) => {
      entry.checked += 1
      if (!isKept) entry.broken.push(complaint())
    }
  }

  const agree = check('a', 'local = remote = base')
  const one = check('b', 'one user, one live customer')
  const kept = check('c', 'no edit is lost')
  const stored = check('d', 'events are stored and settled')
  const foreign = check('f', 'fields of others are as they left them')
  const dead = check('g', 'deleted ids stay dead')

  const owners = new Map<string, string[]>()
  for (const user of users) {
    const state = states.get(user.id)
    agree(state !== undefined && !state.dirty, () => `user ${user.id} is ${state?.status}, dirty`)
    const id: string | null = user.stripe_customer_id
    if (id === null) {
      agree(
        user.state !== 'active' || state?.status === 'detached',
        () => `user ${user.id} (${state?.status}) has no customer`,
      )
      continue
    }
    owners.set(id, [...(owners.get(id) ?? []), user.id])
    const customer = byId.get(id)
    dead(customer !== undefined, () => `user ${user.id} points to ${id}, which is not there`)
    if (customer === undefined) continue
    const local = localFields({ ...user, firstName: user.first_name, lastName: user.last_name } as User, [])
    const remote = remoteState(customer, []).fields
    const base = (state?.base ?? null) as SyncedFields | null
    for (const path of pathsOf(local, remote)) {
      const [l, r, b] = [local, remote, base].map((side) => (side === null ? null : fieldValue(side, path)))
      agree(
        sameJson(l, r) && sameJson(l, b),
        () => `user ${user.id}: ${path} is ${l} here, ${r} in Stripe, ${b} in the base`,
      )
    }
    for (const complaint of lostEdits(
      ledger.edits.filter((edit) => edit.user === user.id),
      remote,
      conflicts.filter((c) => c.user_id === user.id),
    )) {
      kept(complaint === null, () => `user ${user.id}: ${complaint}`)
    }
  }
  for (const id of ledger.created)
    agree(
      users.some((user) => user.id === id),
      () => `user ${id} was answered and is not there`,
    )
  const made = new Map<string, Set<string>>()
  for (const { type, data, request } of stripeEvents) {
    const owner = /^lockstep-create-(.*)-\d+$/.exec(request?.idempotency_key ?? '')?.[1]
    if (type === 'customer.created' && owner !== undefined && byId.has(data.object.id)) {
      made.set(owner, (made.get(owner) ?? new Set()).add(data.object.id))
    }
  }
  for (const [user, ids] of made) one(ids.size === 1, () => `user ${user} was given ${[...ids].join(' and ')}`)
  for (const customer of customers) {
    const of = owners.get(customer.id) ?? []
    one(of.length === 1, () => `customer ${customer.id} has ${of.length} users: ${of.join(', ')}`)
  }
  for (const event of stripeEvents) {
    const status = events.get(event.id)
    stored(
      status === 'processed' || status === 'ignored',
      () => `event ${event.id} (${event.type}) is ${status ?? 'not in the inbox'}`,
    )
  }
  for (const [id, balances] of ledger.balances) {
    const customer = byId.get(id)
    if (customer !== undefined) foreign(balances.has(customer.balance), () => `${id} has balance ${customer.balance}`)
  }
  for (const id of ledger.deleted) {
    const isOwned = owners.has(id) && !byId.has(id)
    dead(!isOwned, () => `${id} was deleted and is still ${owners.get(id)?.join(', ')}'s`)
  }
  return checks
}

/** Per acknowledged edit: null, or what is wrong. Edits whose times overlap are concurrent, and either may stand. */
function lostEdits(edits: readonly Edit[], end: SyncedFields, conflicts: readonly Json[]): (string | null)[] {
  return edits
    .filter(({ acknowledgedAt }) => acknowledgedAt !== null)
    .map((edit) => {
      const now = fieldValue(end, edit.field)
      const isThere = now === edit.value
      const isOverwritten = edits.some(
        (other) =>
          other !== edit &&
          other.field === edit.field &&
          (other.acknowledgedAt ?? Number.POSITIVE_INFINITY) >= edit.startedAt,
      )
      const isShown = conflicts.some(
        (c) => c.field === edit.field && (c.local === edit.value || c.remote === edit.value),
      )
      if (isThere || isOverwritten || isShown) return null
      return `${edit.field} = ${edit.value} (${edit.side}, ${new Date(edit.startedAt).toISOString()}) is lost: it is ${now}`
    })
}
