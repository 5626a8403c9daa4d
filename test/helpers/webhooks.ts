import Stripe from 'stripe'
import { newId } from '../../src/lib/ids.js'
import { countEvents, untilFiled } from './inbox.js'
import type { Service } from './service.js'

/** Whatever an event has. */
export type Json = Record<string, unknown>

/** The time as Stripe gives it. */
export const nowSeconds = () => Math.floor(Date.now() / 1000)

/** An event as Stripe would send it about the customer that the simulator has; `changes` replace any part. */
export function eventOf(customer: object, changes: Json = {}): Json & { id: string } {
  return {
    id: `evt_${newId().replaceAll('-', '')}`,
    object: 'event',
    api_version: Stripe.API_VERSION,
    created: nowSeconds(),
    data: { object: customer },
    livemode: false,
    pending_webhooks: 1,
    request: { id: null, idempotency_key: null },
    type: 'customer.updated',
    ...changes,
  }
}

interface Signing {
  timestamp?: number
  path?: string
}

/** Delivers as Stripe does, signed with the service's secret. */
export async function deliver(service: Service, event: Json | string, { timestamp, path = '' }: Signing = {}) {
  const payload = typeof event === 'string' ? event : JSON.stringify(event)
  const response = await fetch(`${service.app.apiUrl}/webhooks/stripe${path}`, {
    method: 'POST',
    headers: { 'stripe-signature': sign(service, payload, timestamp), 'content-type': 'application/json' },
    body: payload,
  })
  return { status: response.status, body: (await response.json()) as Json }
}

/** The header that Stripe sends with this payload. */
export function sign({ webhookSecret: secret }: Service, payload: string, timestamp = nowSeconds()): string {
  return Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp })
}

/** The stored event, once it is settled; null while it is not. */
export async function settled({ pool }: Service, id: string) {
  await untilFiled(pool)
  const { rows } = await pool.query(
    `select tenant_id as "tenantId", status, outcome, api_version as "apiVersion" from stripe_events where id = $1`,
    [id],
  )
  return rows[0] === undefined || rows[0].status === 'pending' ? null : rows[0]
}

/** How many events the inbox has. */
export async function storedEvents({ pool }: Service): Promise<number> {
  return countEvents(pool)
}

/** One figure of `/metrics`; undefined while it has never been counted. */
export async function metric({ api }: Service, series: string): Promise<number | undefined> {
  const line = ((await api('GET', '/metrics')).body as string).split('\n').find((row) => row.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

/** The row of a user. */
export async function rowOf({ pool }: Service, userId: string) {
  return (await pool.query('select * from users where id = $1', [userId])).rows[0]
}
