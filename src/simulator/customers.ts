import type Stripe from 'stripe'
import type { Clock } from '../lib/clock.js'
import { type CustomerRecord, customerOf, fieldsOf } from './customer-store.js'
import { invalid, missing } from './errors.js'
import { type Events, previousAttributes } from './events.js'
import { expandCustomer } from './expand.js'
import { applyParams, type FieldSettings, refuseUnknownParams } from './fields.js'
import type { Params } from './form.js'
import { type Random, token } from './ids.js'
import { allowOnly, listOf, orderedOf, page, windowOf } from './list.js'
import { searchCustomers } from './search.js'
import type { Account, State } from './state.js'

export interface CustomerSettings extends FieldSettings {
  searchLagMs: number
  /** Whether an update that changes nothing makes an event all the same: what Stripe does is unverified. */
  noopEvents: boolean
  /** Whether `customer.deleted` carries only the stub. */
  deletedEventStub: boolean
}

export interface CustomerDeps {
  state: State
  clock: Clock
  random: Random
  events: Events
  settings: CustomerSettings
}

/** Who asks: an API request, or the dashboard (no request id, and allowed what only Stripe may set). */
export interface Caller {
  request: Stripe.Event.Request
  privileged: boolean
}

export type Customers = ReturnType<typeof makeCustomers>

/** `/v1/customers` (stripe-facts section 1). */
export function makeCustomers({ state, clock, random, events, settings }: CustomerDeps) {
  const show = (account: Account, record: CustomerRecord) => customerOf(record, account.livemode)

  function create(account: Account, params: Params, caller: Caller): Stripe.Customer {
    refuseUnknownParams(params, 'create', caller)
    const record: CustomerRecord = {
      id: newId(account),
      created: Math.floor(clock.now() / 1000),
      seq: 0,
      fields: {},
    }
    const customer = applyParams(show(account, record), params, { ...settings, ...caller })
    refuseTakenPrefix(account, customer, params)
    const answer = expandCustomer(customer, params)
    save(account, { ...record, seq: state.nextSeq() }, customer, null)
    events.emit(account, 'customer.created', customer, caller.request)
    return answer
  }

  function update(account: Account, id: string, params: Params, caller: Caller): Stripe.Customer {
    refuseUnknownParams(params, 'update', caller)
    const record = account.customers.get(id)
    if (!record || record.deletedAt) throw noSuchCustomer(account, id, 'id', record ? 400 : 404)
    const before = show(account, record)
    const customer = applyParams(before, params, { ...settings, ...caller })
    if (customer.invoice_prefix !== before.invoice_prefix) refuseTakenPrefix(account, customer, params)
    const answer = expandCustomer(customer, params)
    const previous = previousAttributes(before, customer)
    if (previous) save(account, record, customer, record.fields)
    if (previous || settings.noopEvents) {
      events.emit(account, 'customer.updated', customer, caller.request, previous ?? {})
    }
    return answer
  }

  /** Answers the stub for a deleted customer, with status 200. */
  function retrieve(account: Account, id: string, params: Params): Stripe.Customer | Stripe.DeletedCustomer {
    allowOnly(params, ['expand'])
    const record = account.customers.get(id)
    if (!record) throw noSuchCustomer(account, id, 'id', 404)
    return record.deletedAt ? stub(id) : expandCustomer(show(account, record), params)
  }

  /** Deleting again is a 404; the event carries the whole last object without a `deleted` flag. */
  function remove(account: Account, id: string, params: Params, caller: Caller): Stripe.DeletedCustomer {
    allowOnly(params, [])
    const record = account.customers.get(id)
    if (!record || record.deletedAt) throw noSuchCustomer(account, id, 'id', 404)
    const earlier = versions(record, record.fields)
    const deleted = { ...record, deletedAt: clock.now(), ...(earlier.length > 0 && { earlier }) }
    state.commit({ k: 'customer', a: account.namespace, record: deleted })
    const last = settings.deletedEventStub ? stub(id) : show(account, record)
    events.emit(account, 'customer.deleted', last, caller.request)
    return stub(id)
  }

  /** Newest first; the `email` filter is exact and case-sensitive; a deleted customer is no cursor. */
  function list(account: Account, params: Params): Stripe.ApiList<Stripe.Customer> {
    allowOnly(params, ['created', 'email', 'ending_before', 'expand', 'limit', 'starting_after', 'test_clock'])
    const { customers } = account
    const window = windowOf(params, (id, param) => {
      const record = customers.get(id)
      if (!record || record.deletedAt) throw noSuchCustomer(account, id, param, 400)
      return customers.keyOf(record)
    })
    if (params.test_clock) throw missing('billingclock', String(params.test_clock), 'test_clock', { status: 400 })
    const { email } = params
    const source =
      typeof email === 'string' && email !== '' ? orderedOf(customers.withEmail(email), customers.keyOf) : customers
    const found = page(source, window)
    const data = found.items.map((record) => expandCustomer(show(account, record), params, 'data.'))
    return listOf('/v1/customers', data, found.hasMore)
  }

  function search(account: Account, params: Params): Stripe.ApiSearchResult<Stripe.Customer> {
    return searchCustomers(account, params, clock.now() - settings.searchLagMs)
  }

  /** What a privacy redaction leaves (stripe-facts section 8): placeholders, no event, and older events redacted too. */
  function redact(account: Account, id: string): Stripe.Customer {
    const record = account.customers.get(id)
    if (!record || record.deletedAt) throw noSuchCustomer(account, id, 'id', 404)
    const before = show(account, record)
    const hidden = redacted(before)
    save(account, { ...record, earlier: [] }, hidden, null)
    for (const event of account.eventById.values()) {
      if (!event.data.includes(`"id":"${id}"`)) continue
      const data: { object: Stripe.Customer; previous_attributes?: unknown } = JSON.parse(event.data)
      const safe = { object: redacted(data.object), ...('previous_attributes' in data && { previous_attributes: {} }) }
      state.commit({ k: 'event-data', a: account.namespace, event: event.id, data: JSON.stringify(safe) })
    }
    return hidden
  }

  function save(
    account: Account,
    record: CustomerRecord,
    customer: Stripe.Customer,
    replaced: CustomerRecord['fields'] | null,
  ): void {
    const { id, created, seq } = record
    const earlier = versions(record, replaced)
    state.commit({
      k: 'customer',
      a: account.namespace,
      record: { id, created, seq, fields: fieldsOf(customer), ...(earlier.length > 0 && { earlier }) },
    })
  }

  /** The older versions that search's lag still needs, with the one being replaced (null: there was none). */
  function versions(record: CustomerRecord, replaced: CustomerRecord['fields'] | null) {
    if (settings.searchLagMs === 0) return []
    const now = clock.now()
    const needed = (record.earlier ?? []).filter(({ until }) => until > now - settings.searchLagMs)
    return [...needed, { until: now, fields: replaced }]
  }

  function newId(account: Account): string {
    let id: string
    do id = `cus_${token(random, 14)}`
    while (account.customers.get(id))
    return id
  }

  function noSuchCustomer(account: Account, id: string, param: string, status: 400 | 404) {
    const elsewhere = state.find(account.id, !account.livemode)?.customers.get(id)
    return missing('customer', id, param, {
      status,
      ...(elsewhere && { otherMode: account.livemode ? ('test' as const) : ('live' as const) }),
    })
  }

  return { create, update, retrieve, remove, list, search, redact }
}

const stub = (id: string): Stripe.DeletedCustomer => ({ id, object: 'customer', deleted: true })

/** Unique per account, deleted customers included (stripe-facts section 1). */
function refuseTakenPrefix(account: Account, customer: Stripe.Customer, params: Params): void {
  if (params.invoice_prefix === undefined || !customer.invoice_prefix) return
  const owner = account.prefixes.get(customer.invoice_prefix)
  if (owner === undefined || owner === customer.id) return
  throw invalid(
    `This invoice prefix is already in use by another customer on your account: ${customer.invoice_prefix}.`,
    'invoice_prefix',
    'resource_already_exists',
  )
}

function redacted(customer: Stripe.Customer): Stripe.Customer {
  const cover = (value: string | null | undefined) => (value == null ? null : '[redacted]')
  const coverAll = <T extends object>(hash: T): T =>
    Object.fromEntries(
      Object.entries(hash).map(([key, value]) => [key, typeof value === 'string' ? '[redacted]' : value]),
    ) as T
  return {
    ...customer,
    name: cover(customer.name),
    email: cover(customer.email),
    phone: cover(customer.phone),
    description: cover(customer.description),
    address: customer.address ? coverAll(customer.address) : null,
    shipping: customer.shipping
      ? {
          ...coverAll(customer.shipping),
          ...(customer.shipping.address && { address: coverAll(customer.shipping.address) }),
        }
      : null,
    metadata: coverAll(customer.metadata),
  }
}
