import type Stripe from 'stripe'
import type { Api, CallCounts } from './api.js'
import { customerOf } from './customer-store.js'
import type { Caller, Customers } from './customers.js'
import type { Deliveries, DeliveryFaults } from './delivery.js'
import { noDeliveryFaults } from './delivery.js'
import { missing } from './errors.js'
import type { Events } from './events.js'
import type { Faults } from './faults.js'
import { paramsOf } from './form.js'
import type { Keys } from './keys.js'
import type { Settings } from './settings.js'
import type { SimulatorClock } from './sim-clock.js'
import type { Account, State } from './state.js'
import { beginning, end } from './timeline.js'

export interface ControlDeps {
  state: State
  clock: SimulatorClock
  keys: Keys
  customers: Customers
  events: Events
  deliveries: Deliveries
  deliveryFaults: DeliveryFaults
  faults: Faults
  settings: Settings
  api: Api
  livemode: boolean
}

export interface StateSummary {
  account: string
  livemode: boolean
  now: number
  frozen: boolean
  accounts: Record<string, { customers: number; events: number; webhookEndpoints: number; idempotencyKeys: number }>
  calls: CallCounts
  pendingDeliveries: number
  nextDeliveryAt: number | null
  recentDeliveries: ReturnType<Deliveries['recent']>
}

/** As Stripe's own dashboard is in events: no request id, no key. */
const dashboard: Caller = { privileged: true, request: { id: null, idempotency_key: null } }

const maxDump = 10_000

export type Controls = ReturnType<typeof makeControls>

/** The switches of `/_simulator`, as functions. `account` is the platform's unless it is given. */
export function makeControls(deps: ControlDeps) {
  const { state, clock, keys, customers, events, deliveries, deliveryFaults, faults, settings, api, livemode } = deps

  const accountOf = (id?: string): Account => (id === undefined ? keys.platform() : state.account(id, livemode))

  /** Runs a change and makes it durable, as an API call would. */
  const persisted = <T>(change: () => T): T => {
    const result = change()
    state.persist()
    return result
  }

  function summary(): StateSummary {
    const accounts: StateSummary['accounts'] = {}
    for (const [namespace, account] of state.accounts) {
      accounts[namespace] = {
        customers: account.customers.size,
        events: account.events.size,
        webhookEndpoints: account.endpoints.size,
        idempotencyKeys: account.keys.size,
      }
    }
    return {
      account: keys.platform().id,
      livemode,
      now: clock.now(),
      frozen: clock.frozen,
      accounts,
      calls: api.calls,
      pendingDeliveries: state.jobs.size,
      nextDeliveryAt: deliveries.nextDueAt() ?? null,
      recentDeliveries: deliveries.recent(),
    }
  }

  /** Oldest first, in pages of up to 10,000: for holding the whole of it against something. */
  function dump(options: { account?: string; limit?: number; after?: string } = {}) {
    const account = accountOf(options.account)
    const start = options.after === undefined ? undefined : account.customers.get(options.after)
    if (options.after !== undefined && !start) throw missing('customer', options.after, 'after')
    const limit = Math.min(maxDump, Math.max(1, options.limit ?? 100))
    const data: Stripe.Customer[] = []
    for (const record of account.customers.ascend(start ? account.customers.keyOf(start) : beginning)) {
      if (data.length === limit) return { data, has_more: true, total: account.customers.size }
      data.push(customerOf(record, livemode))
    }
    return { data, has_more: false, total: account.customers.size }
  }

  function findEvent(id: string, account?: string) {
    const owner = accountOf(account)
    const event = events.find(owner, id)
    if (!event) throw missing('event', id, 'id')
    return { owner, event }
  }

  return {
    summary,
    dump,
    resetCalls: api.resetCalls,

    /** An edit as if made in the dashboard; Stripe's field names, and what only Stripe may set (delinquent, currency …) too. */
    createCustomer: (fields: Record<string, unknown>, account?: string) =>
      persisted(() => customers.create(accountOf(account), paramsOf(fields), dashboard)),
    updateCustomer: (id: string, fields: Record<string, unknown>, account?: string) =>
      persisted(() => customers.update(accountOf(account), id, paramsOf(fields), dashboard)),
    deleteCustomer: (id: string, account?: string) =>
      persisted(() => customers.remove(accountOf(account), id, {}, dashboard)),
    /** A privacy redaction: placeholders in the customer and in its events, and no event about it. */
    redactCustomer: (id: string, account?: string) => persisted(() => customers.redact(accountOf(account), id)),
    getCustomer: (id: string, account?: string) => customers.retrieve(accountOf(account), id, {}),

    /** All events that are kept, newest first, whatever the visibility lag. */
    events: (account?: string): Stripe.Event[] =>
      [...accountOf(account).events.descend(end)].map((event) => events.render(accountOf(account), event)),
    /** Makes an event of any type about any object. */
    emitEvent: (type: string, object: object, account?: string): Stripe.Event =>
      persisted(() => {
        const owner = accountOf(account)
        return events.render(owner, events.emit(owner, type, object, dashboard.request))
      }),
    /** Answers to how many endpoints it goes. */
    resendEvent: (id: string, account?: string): number => {
      const { owner, event } = findEvent(id, account)
      return deliveries.resend(owner, event)
    },

    changeKey: keys.change,
    faults,
    deliveryFaults: (): Readonly<DeliveryFaults> => deliveryFaults,
    /** Replaces all delivery faults: what isn't given is off. */
    setDeliveryFaults: (next: Partial<DeliveryFaults> = {}): Readonly<DeliveryFaults> => {
      Object.assign(deliveryFaults, noDeliveryFaults, next)
      deliveries.changed()
      return deliveryFaults
    },
    deliverDue: () => deliveries.deliverDue(),
    flush: deliveries.flush,
    pendingDeliveries: () => [...state.queue.ascend(beginning)],

    settings: (): Readonly<Settings> => settings,
    changeSettings: (next: Partial<Settings>): Readonly<Settings> => Object.assign(settings, next),

    now: () => clock.now(),
    advanceClock: (milliseconds: number) => moved(() => clock.advance(milliseconds)),
    setClock: (time: number) => moved(() => clock.set(time)),
    freezeClock: () => moved(() => clock.freeze()),
    unfreezeClock: () => moved(() => clock.unfreeze()),
  }

  function moved(move: () => void): { now: number; frozen: boolean } {
    move()
    deliveries.changed()
    return { now: clock.now(), frozen: clock.frozen }
  }
}
