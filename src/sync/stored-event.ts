import type Stripe from 'stripe'
import type { NewEvent } from '../repositories/stripe-events.js'
import { kindOf } from './event-types.js'
import { storable } from './fields.js'

/**
 * An event as the inbox stores it: whole where it is to be settled. Of any other, which may tell about people whom nothing here names (who
 * paid an invoice, who was at a checkout), only what it is about, by ids: what is not used is not kept.
 */
export function newEvent(
  tenantId: string,
  event: Stripe.Event,
  source: NewEvent['source'],
  isQuarantined = false,
): NewEvent {
  const object = event.data.object as { id?: unknown; object?: unknown; customer?: unknown }
  const isCustomer = event.type.startsWith('customer.') && object.object === 'customer'
  const stripeCustomerId = customerIdOf(isCustomer ? object : object.customer)
  const isHandled = kindOf(event.type) !== null && isCustomer && stripeCustomerId !== null
  const status = isQuarantined ? 'quarantined' : isHandled ? 'pending' : 'ignored'
  return {
    tenantId,
    id: event.id,
    account: textOf(event.account),
    type: storable(event.type),
    apiVersion: textOf(event.api_version),
    livemode: event.livemode,
    stripeCustomerId,
    idempotencyKey: textOf(event.request?.idempotency_key),
    created: new Date(event.created * 1000),
    payload: status === 'pending' ? storableText(event) : withoutContents(event, stripeCustomerId),
    source,
    status,
  }
}

/** Of a customer, or of what names one, as an id or expanded. */
function customerIdOf(named: unknown): string | null {
  const id = typeof named === 'object' && named !== null ? (named as { id?: unknown }).id : named
  return typeof id === 'string' && /^\w{1,255}$/.test(id) ? id : null
}

/** The event, as JSON, with no more of its object than what that is. */
export function withoutContents(event: Stripe.Event, stripeCustomerId: string | null): string {
  const { id, object, type, created, livemode, api_version, account, request, data } = event
  const about = data.object as { id?: unknown; object?: unknown; customer?: unknown }
  return storableText({
    id,
    object,
    type,
    created,
    livemode,
    api_version: textOf(api_version),
    ...(account === undefined ? {} : { account: textOf(account) }),
    request: { id: textOf(request?.id), idempotency_key: textOf(request?.idempotency_key) },
    data: {
      object: {
        id: textOf(about.id),
        object: textOf(about.object),
        ...(about.customer === undefined ? {} : { customer: stripeCustomerId }),
      },
    },
  })
}

/** A part that other API versions may have in another shape. */
export function textOf(value: unknown): string | null {
  return typeof value === 'string' ? storable(value) : null
}

/** As JSON, without what Postgres does not take and a name may hold all the same; that must not keep the event out. */
function storableText(event: object): string {
  const text = JSON.stringify(event)
  return /\\u(?:0000|d[89a-f])/.test(text) ? JSON.stringify(storableJson(event)) : text
}

function storableJson(value: unknown): unknown {
  if (typeof value === 'string') return storable(value)
  if (Array.isArray(value)) return value.map(storableJson)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [storable(key), storableJson(v)]))
}
