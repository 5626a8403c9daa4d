import { setTimeout as sleep } from 'node:timers/promises'
import type { Choices } from '../simulation/random.js'
import type { Cluster } from './cluster.js'

/** One edit of one field. Without `acknowledgedAt` nobody knows whether it took place. */
export interface Edit {
  side: 'local' | 'stripe'
  /** The user's id. */
  user: string
  field: 'description' | 'metadata.a' | 'metadata.b'
  value: string
  startedAt: number
  acknowledgedAt: number | null
}

/** Everything that people did, and what they know of it. */
export interface Ledger {
  edits: Edit[]
  /** Users whose creation was acknowledged. */
  created: Set<string>
  /** The balance that the dashboard set, by Stripe customer; not ours to touch. */
  balances: Map<string, Set<number>>
  deleted: Set<string>
  counts: Record<string, number>
}

const FIELDS = ['description', 'metadata.a', 'metadata.b'] as const

/** Edits both sides until told to stop, as people and other programs do: some at a time, each value once. */
export function startLoad(
  cluster: Cluster,
  users: number,
  choices: Choices,
): { ledger: Ledger; stop(): Promise<void> } {
  const ledger: Ledger = { edits: [], created: new Set(), balances: new Map(), deleted: new Set(), counts: {} }
  const { pool, api, simulator } = cluster
  let isStopped = false
  let values = 0
  let customers: { id: string; user: string }[] = []

  const count = (name: string) => {
    ledger.counts[name] = (ledger.counts[name] ?? 0) + 1
  }

  async function create(): Promise<void> {
    const email = `user${ledger.created.size}-${values++}@example.com`
    if (choices.chance(0.5)) {
      const { status, body } = await api('POST', '/customers', { email })
      if (status !== 201) return
      ledger.created.add(body.id)
    } else {
      const { rows } = await pool.query<{ id: string }>('insert into users (email) values ($1) returning id', [email])
      for (const { id } of rows) ledger.created.add(id)
    }
    count('created here')
  }

  async function edit(side: Edit['side'], how: string, user: string, send: (edit: Edit) => Promise<boolean>) {
    const entry: Edit = {
      side,
      user,
      field: choices.pick(FIELDS),
      value: `v${values++}`,
      startedAt: Date.now(),
      acknowledgedAt: null,
    }
    ledger.edits.push(entry)
    if (!(await send(entry))) return
    entry.acknowledgedAt = Date.now()
    count(how)
  }

  const bodyOf = ({ field, value }: Edit) =>
    field === 'description' ? { description: value } : { metadata: { [field.slice('metadata.'.length)]: value } }

  async function act(): Promise<void> {
    const ids = [...ledger.created]
    if (ids.length < users && choices.chance(0.3)) return create()
    if (ids.length === 0) return create()
    const what = choices.weighted([
      [3, 'rest'],
      [3, 'sql'],
      [5, 'dashboard'],
      [1, 'balance'],
      [0.1, 'delete'],
      [1, 'look'],
    ] as const)
    if (what === 'look' || (customers.length === 0 && what !== 'rest' && what !== 'sql')) {
      const { data } = (await simulator('GET', '/customers?limit=10000')) as {
        data: { id: string; metadata: Record<string, string> }[]
      }
      customers = data.flatMap(({ id, metadata }) =>
        metadata.lockstep_user_id === undefined ? [] : [{ id, user: metadata.lockstep_user_id }],
      )
      return
    }
    if (what === 'rest') {
      const id = choices.pick(ids)
      return edit('local', 'REST', id, async (e) => (await api('PATCH', `/customers/${id}`, bodyOf(e))).status === 200)
    }
    if (what === 'sql') {
      const id = choices.pick(ids)
      return edit('local', 'SQL', id, async ({ field, value }) => {
        const sets =
          field === 'description'
            ? 'description = $2'
            : `metadata = metadata || jsonb_build_object('${field.slice(9)}', $2::text)`
        return (await pool.query(`update users set ${sets} where id = $1`, [id, value])).rowCount === 1
      })
    }
    const customer = choices.pick(customers)
    if (ledger.deleted.has(customer.id)) return
    if (what === 'dashboard') {
      return edit('stripe', 'dashboard', customer.user, async (e) => {
        await simulator('PATCH', `/customers/${customer.id}`, bodyOf(e))
        return true
      })
    }
    if (what === 'balance') {
      const balance = values++
      // Any of those tried may be the last: two may be under way, and an answer may be lost.
      ledger.balances.set(customer.id, (ledger.balances.get(customer.id) ?? new Set()).add(balance))
      await simulator('PATCH', `/customers/${customer.id}`, { balance })
      count('fields of others')
      return
    }
    // Users whose customer is gone stay without one: some may, most must go on.
    if (ledger.deleted.size >= users / 5) return
    ledger.deleted.add(customer.id)
    await simulator('DELETE', `/customers/${customer.id}`)
    count('deleted in Stripe')
  }

  async function person(): Promise<void> {
    while (!isStopped) {
      await act().catch(() => count('met a process that was down'))
      await sleep(choices.int(60))
    }
  }
  const people = Array.from({ length: 4 }, person)
  return {
    ledger,
    async stop() {
      isStopped = true
      await Promise.all(people)
    },
  }
}
