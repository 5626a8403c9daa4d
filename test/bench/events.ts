import { createHmac } from 'node:crypto'
import Stripe from 'stripe'
import { requestBytes } from './load.js'

export const WEBHOOK_SECRET = 'whsec_bench_0123456789'

/** A Stripe customer as its events carry it: the size of a real one. */
export function customerObject(
  id: string,
  email: string,
  description: string,
  created: number,
): Record<string, unknown> {
  return {
    id,
    object: 'customer',
    address: {
      city: 'San Francisco',
      country: 'US',
      line1: '510 Townsend St',
      line2: null,
      postal_code: '94103',
      state: 'CA',
    },
    balance: 0,
    created,
    currency: null,
    default_source: null,
    delinquent: false,
    description,
    discount: null,
    email,
    invoice_prefix: id.slice(-8).toUpperCase(),
    invoice_settings: { custom_fields: null, default_payment_method: null, footer: null, rendering_options: null },
    livemode: false,
    metadata: {},
    name: 'Ada Lovelace',
    next_invoice_sequence: 1,
    phone: '+14155550100',
    preferred_locales: ['en'],
    shipping: null,
    tax_exempt: 'none',
    test_clock: null,
  }
}

/** `customer.updated` as Stripe sends it. */
export function updatedEvent(
  id: string,
  customer: Record<string, unknown>,
  previous: Record<string, unknown>,
  created: number,
): object {
  return {
    id,
    object: 'event',
    api_version: Stripe.API_VERSION,
    created,
    data: { object: customer, previous_attributes: previous },
    livemode: false,
    pending_webhooks: 1,
    request: { id: null, idempotency_key: null },
    type: 'customer.updated',
  }
}

/** The delivery of an event, signed now: https://docs.stripe.com/webhooks#verify-manually */
export function deliveryBytes(event: object, secret = WEBHOOK_SECRET): Buffer {
  const body = JSON.stringify(event)
  const at = Math.floor(Date.now() / 1000)
  const signature = createHmac('sha256', secret).update(`${at}.${body}`).digest('hex')
  return requestBytes(
    'POST',
    '/webhooks/stripe',
    { 'content-type': 'application/json; charset=utf-8', 'stripe-signature': `t=${at},v1=${signature}` },
    body,
  )
}
