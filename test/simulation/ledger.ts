import type Stripe from 'stripe'
import { sameJson } from '../../src/lib/json.js'
import type { FieldPath, FieldValue, SyncedFields } from '../../src/models/synced-fields.js'
import type { User } from '../../src/models/user.js'
import type { CustomerService } from '../../src/services/customer.service.js'
import { fieldValue, localFields, NO_FIELDS, pathsOf, remoteState } from '../../src/sync/fields.js'
import type { Overseer } from './database.js'

/** How the connections of people are named. */
const PEOPLE = 'simulation people'

/** One value that a person gave one field, on one side. */
export interface FieldEdit {
  /** Its place in the order of all edits. */
  seq: number
  side: 'local' | 'stripe'
  /** The user's id, or the Stripe customer's. */
  subject: string
  path: FieldPath
  value: FieldValue
}

/** What a user and its customer had agreed on, from one moment on. */
export interface Base {
  seq: number
  userId: string
  base: SyncedFields | null
}

/** What people did, and when each pair began. */
export interface History {
  edits: readonly FieldEdit[]
  bases: readonly Base[]
  /** When a Stripe customer first became someone's, by its id. */
  met: ReadonlyMap<string, number>
}

/**
 * Who wrote what, and when: what the end state is held against. Edits in Stripe are told to it; those of `users` it reads from
 * a history that a trigger keeps, so that a write counts where the database made it, whoever sent it.
 */
export class Ledger {
  readonly service: CustomerService
  readonly deleted = new Set<string>()
  /** What other systems set on a Stripe customer, by customer and name. */
  readonly foreign = new Map<string, Record<string, unknown>>()
  readonly #overseer: Overseer
  readonly #stripeEdits: FieldEdit[] = []

  constructor(overseer: Overseer, service: CustomerService) {
    this.#overseer = overseer
    this.service = service
  }

  /** An edit at Stripe that made the customer's newest state. Only what it changed counts: of the rest nobody can know. */
  async stripeEdit(customerId: string, states: readonly SyncedFields[]): Promise<void> {
    const seq = await this.#overseer.nextSeq()
    const [before = NO_FIELDS, after = NO_FIELDS] = [states.at(-2), states.at(-1)]
    this.#stripeEdits.push(...differences('stripe', seq, customerId, before, after))
  }

  foreignEdit(customerId: string, values: Record<string, unknown>): void {
    this.foreign.set(customerId, { ...this.foreign.get(customerId), ...values })
  }

  /** All edits, in order, and what each user and its customer had agreed on when. */
  async read(foreignPrefixes: readonly string[]): Promise<History> {
    const bases = await this.#overseer.query<Base>(
      'select seq::int, user_id as "userId", base from simulation_bases b order by b.seq',
    )
    const rows = await this.#overseer.query<{ seq: string; who: string; new: UserJson }>(
      'select seq::text, who, new from simulation_history h where new is not null order by h.seq',
    )
    const latest = new Map<string, SyncedFields>()
    const local = rows.flatMap((row) => {
      const before = latest.get(row.new.id) ?? NO_FIELDS
      const after = fieldsOf(row.new, foreignPrefixes)
      latest.set(row.new.id, after)
      return row.who === PEOPLE ? differences('local', Number(row.seq), row.new.id, before, after) : []
    })
    const met = new Map<string, number>()
    for (const row of rows) {
      const { stripe_customer_id: customerId } = row.new
      if (customerId !== null && !met.has(customerId)) met.set(customerId, Number(row.seq))
    }
    return { edits: [...local, ...this.#stripeEdits].sort((a, b) => a.seq - b.seq), bases, met }
  }
}

/** The states that customers have been through, as their events tell. */
export function customerStates(
  events: readonly Stripe.Event[],
  foreignPrefixes: readonly string[],
): Map<string, SyncedFields[]> {
  const states = new Map<string, SyncedFields[]>()
  // The events come newest first.
  for (const event of [...events].reverse()) {
    if (event.type !== 'customer.created' && event.type !== 'customer.updated') continue
    const customer = event.data.object
    const known = states.get(customer.id) ?? []
    const fields = remoteState(customer, foreignPrefixes).fields
    // Two events may tell of one change.
    if (!sameJson(known.at(-1), fields)) states.set(customer.id, [...known, fields])
  }
  return states
}

/** A row of `users` as Postgres makes JSON of it. */
export interface UserJson {
  id: string
  tenant_id: string
  state: string
  stripe_customer_id: string | null
  first_name: string | null
  last_name: string | null
  metadata: Record<string, string>
  [column: string]: unknown
}

/** What the row says of the two-way fields. */
export function fieldsOf(row: UserJson, foreignPrefixes: readonly string[]): SyncedFields {
  const user = { ...row, firstName: row.first_name, lastName: row.last_name } as unknown as User
  return localFields(user, foreignPrefixes)
}

function differences(
  side: FieldEdit['side'],
  seq: number,
  subject: string,
  before: SyncedFields,
  after: SyncedFields,
): FieldEdit[] {
  return pathsOf(before, after)
    .filter((path) => !sameJson(fieldValue(before, path), fieldValue(after, path)))
    .map((path) => ({ seq, side, subject, path, value: fieldValue(after, path) }))
}
