import type Stripe from 'stripe'
import type { Clock } from '../lib/clock.js'
import { invalid, missing } from './errors.js'
import { items, type Params } from './form.js'
import { type Random, token } from './ids.js'
import { allowOnly, listOf, page, windowOf } from './list.js'
import { type Account, type EndpointRecord, type EventRecord, eventRetentionSeconds, type State } from './state.js'

export const defaultApiVersion = '2026-10-28.endive'

export interface EventDeps {
  state: State
  clock: Clock
  random: Random
  /** The endpoints that are to get an event of this type of this account. */
  subscribers: (account: Account, type: string) => Array<Pick<EndpointRecord, 'id'>>
  isConnected: (account: Account) => boolean
  /** Called with each new event: queues its deliveries. */
  onEmit: (account: Account, event: EventRecord) => void
  /** Whether this change is to be told by two events. */
  twin: () => boolean
  settings: { eventVisibilityLagMs: number; omitPreviousAttributes: boolean }
}

export type Events = ReturnType<typeof makeEvents>

/** The event log of every account: making, reading and queueing for delivery (stripe-facts section 2). */
export function makeEvents({ state, clock, random, subscribers, isConnected, onEmit, twin, settings }: EventDeps) {
  /** Records an event and one delivery per endpoint, with the object as it is now. */
  function emit(
    account: Account,
    type: string,
    object: object,
    request: Stripe.Event.Request,
    previous?: Record<string, unknown>,
  ): EventRecord {
    if (twin()) record(account, type, object, request, previous)
    return record(account, type, object, request, previous)
  }

  function record(
    account: Account,
    type: string,
    object: object,
    request: Stripe.Event.Request,
    previous?: Record<string, unknown>,
  ): EventRecord {
    const now = clock.now()
    let id: string
    do id = `evt_1${token(random, 23)}`
    while (account.eventById.has(id))
    const event: EventRecord = {
      id,
      type,
      created: Math.floor(now / 1000),
      madeAt: now,
      seq: state.nextSeq(),
      data: JSON.stringify({
        object,
        ...(previous && !settings.omitPreviousAttributes && { previous_attributes: previous }),
      }),
      request,
      pending: subscribers(account, type).map((endpoint) => endpoint.id),
    }
    state.commit({ k: 'event', a: account.namespace, event })
    onEmit(account, event)
    return event
  }

  /** The event as the API shows it; `apiVersion` is that of the endpoint it is for. */
  function render(account: Account, record: EventRecord, apiVersion: string | null = defaultApiVersion): Stripe.Event {
    return {
      id: record.id,
      object: 'event',
      ...(isConnected(account) && { account: account.id }),
      api_version: apiVersion,
      created: record.created,
      data: JSON.parse(record.data),
      livemode: account.livemode,
      pending_webhooks: record.pending.length,
      request: record.request,
      type: record.type,
    } as Stripe.Event
  }

  const oldest = () => Math.floor(clock.now() / 1000) - eventRetentionSeconds

  function find(account: Account, id: string): EventRecord | undefined {
    const event = account.eventById.get(id)
    return event && event.created >= oldest() ? event : undefined
  }

  /** `GET /v1/events/:id`: 30 days. */
  function retrieve(account: Account, id: string, params: Params): Stripe.Event {
    allowOnly(params, ['expand'])
    const event = find(account, id)
    if (!event) throw missing('event', id, 'id')
    return render(account, event)
  }

  /** `GET /v1/events`: newest first, 30 days, and only what the visibility lag lets through. */
  function list(account: Account, params: Params): Stripe.ApiList<Stripe.Event> {
    allowOnly(params, [
      'created',
      'delivery_success',
      'ending_before',
      'expand',
      'limit',
      'starting_after',
      'type',
      'types',
    ])
    const wanted = typesOf(params)
    const delivered = booleanOf(params.delivery_success)
    const window = windowOf(params, (id, param) => {
      const event = find(account, id)
      if (!event) throw missing('notification', id, param, { status: 400 })
      return account.events.keyOf(event)
    })
    window.low = Math.max(window.low, oldest())
    const visibleUntil = clock.now() - settings.eventVisibilityLagMs
    const { items: found, hasMore } = page(
      account.events,
      window,
      (event) =>
        event.madeAt <= visibleUntil &&
        wanted(event.type) &&
        (delivered === undefined || delivered === (event.pending.length === 0)),
    )
    const data = found.map((event) => render(account, event))
    return listOf('/v1/events', data, hasMore)
  }

  return { emit, render, retrieve, list, find }
}

/**
 * The values that `next` no longer has: of nested hashes only the changed keys, of arrays the whole, and null for what is new
 * (stripe-facts section 2). Undefined where nothing changed.
 */
export function previousAttributes(before: object, after: object): Record<string, unknown> | undefined {
  const old = before as Record<string, unknown>
  const now = after as Record<string, unknown>
  const previous: Record<string, unknown> = {}
  for (const key of new Set([...Object.keys(old), ...Object.keys(now)])) {
    const [a, b] = [old[key] ?? null, now[key] ?? null]
    if (isHash(a) && isHash(b)) {
      const nested = previousAttributes(a, b)
      if (nested) previous[key] = nested
    } else if (JSON.stringify(a) !== JSON.stringify(b)) previous[key] = a
  }
  return Object.keys(previous).length > 0 ? previous : undefined
}

/** Whether an `enabled_events` or `type` pattern (`*`, `customer.*`, a type) covers a type. */
export function covers(pattern: string, type: string): boolean {
  return pattern.endsWith('*') ? type.startsWith(pattern.slice(0, -1)) : pattern === type
}

const isHash = (value: unknown): value is object => typeof value === 'object' && value !== null && !Array.isArray(value)

function typesOf(params: Params): (type: string) => boolean {
  const types = items(params.types).filter((type) => typeof type === 'string')
  const single = typeof params.type === 'string' && params.type !== '' ? params.type : undefined
  if (single !== undefined && types.length > 0) {
    throw invalid('You may only specify one of these parameters: type, types.', 'type', 'parameters_exclusive')
  }
  if (types.length > 20) throw invalid('Array types exceeded maximum 20 allowed elements.', 'types')
  const patterns = single === undefined ? types : [single]
  return (type) => patterns.length === 0 || patterns.some((pattern) => covers(pattern, type))
}

function booleanOf(value: unknown): boolean | undefined {
  if (value === undefined || value === '') return undefined
  if (value !== 'true' && value !== 'false') throw invalid(`Invalid boolean: ${String(value)}`, 'delivery_success')
  return value === 'true'
}
