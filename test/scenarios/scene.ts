import Stripe from 'stripe'
import type { Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { mustBeDocumented } from '../helpers/documented.js'
import { countEvents, untilFiled, untilInboxIsEmpty } from '../helpers/inbox.js'
import { type Answer, type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

export type Json = Record<string, unknown>

export const SECOND = 1_000
export const MINUTE = 60 * SECOND
export const HOUR = 60 * MINUTE
export const DAY = 24 * HOUR

/** On a busy machine one step takes long; it only matters when a test fails. */
export const PATIENCE = { timeout: 60_000 }

/** An event as far as the scenarios look into it: the SDK's own type is a union of hundreds, too slow to check. */
export interface StripeEvent {
  id: string
  type: string
  created: number
  request: { idempotency_key: string | null } | null
  data: { object: Json; previous_attributes?: Json }
}

/** A pair in step: the user here and the customer in Stripe. */
export interface Pair {
  id: string
  stripeId: string
}

export type Scene = Awaited<ReturnType<typeof openScene>>

/** The service, with what the scenarios ask of it. Between two tests every switch is set back. */
export async function openScene(t: Test, options: Parameters<typeof startService>[1] = {}) {
  const service = await startService(t, options)
  const { api, pool, simulator, quiet } = service
  const { controls } = simulator
  const { webhookSecret, settings } = service
  t.afterEach(async () => {
    controls.faults.remove()
    controls.setDeliveryFaults()
    controls.unfreezeClock()
    controls.setClock(Date.now())
    controls.changeSettings({ webhookSecret, eventVisibilityLagMs: 0, rateLimit: undefined })
    await settings({ policies: {}, onRemoteCreate: 'import', onRemoteDelete: 'detach' })
  })
  // A delivery that is refused is tried for as long as a slow test needs.
  controls.changeSettings({ retryDelaysMs: Array.from({ length: 300 }, () => 100) })
  await quiet()

  const rowOf = async (id: string) => (await pool.query('select * from users where id = $1', [id])).rows[0]
  const stateOf = async (id: string) => (await pool.query('select * from sync_state where user_id = $1', [id])).rows[0]
  const linksOf = async (id: string) =>
    (await pool.query('select * from stripe_links where user_id = $1 order by linked_at', [id])).rows

  return {
    ...service,
    controls,
    rowOf,
    stateOf,
    linksOf,
    customersBy: (email: string) => service.stripeCustomers().filter((customer) => customer.email === email),
    stripeOf: (stripeId: string) => controls.getCustomer(stripeId) as Stripe.Customer,
    syncOf: async (id: string): Promise<Answer['body']> => (await api('GET', `/customers/${id}/sync`)).body,
    conflictsOf: async (id: string): Promise<Answer['body'][]> =>
      (await api('GET', `/conflicts?userId=${id}`)).body.data,
    /** The users that this customer belongs to. */
    usersWith: async (stripeId: string) =>
      (await pool.query('select * from users where stripe_customer_id = $1', [stripeId])).rows,
    /** The events about a customer, newest first. */
    eventsOf: (stripeId: string) => eventsAbout(controls, stripeId),
    /** How often an operation was called since `resetCalls`. */
    calls: (operation: string): number => controls.summary().calls[operation]?.total ?? 0,
    answers: (operation: string): Record<string, number> => controls.summary().calls[operation]?.byStatus ?? {},
    /** One figure of `/metrics`; 0 while it was never counted. */
    async metric(series: string): Promise<number> {
      const lines = ((await api('GET', '/metrics')).body as string).split('\n')
      return Number(lines.find((line) => line.startsWith(`${series} `))?.slice(series.length + 1) ?? 0)
    },
    /** The stored event; undefined while it is not there. */
    async event(id: string): Promise<{ status: string; outcome: string | null; source: string } | undefined> {
      await untilFiled(pool)
      return (await pool.query('select status, outcome, source from stripe_events where id = $1', [id])).rows[0]
    },
    storedEvents: async (): Promise<number> => countEvents(pool),
    /** Makes changes in Stripe of which no delivery tells, clearly later than all that was read so far. */
    unseen<T>(change: () => T): T {
      controls.setDeliveryFaults({ drop: 1 })
      controls.advanceClock(10 * SECOND)
      const result = change()
      controls.setDeliveryFaults()
      return result
    },
    deliver: (event: object | string, signing: Signing = {}) => deliver(service, event, signing),
    /** Lets both sides change before either hears of the other: meanwhile nobody calls Stripe, then its events come first. */
    async apart(change: () => Promise<unknown>): Promise<void> {
      await quiet()
      await pool.query(`update tenants set lane_paused_at = now(), lane_retry_at = now() + interval '1 hour'`)
      await change()
      await controls.flush()
      await untilInboxIsEmpty(pool, PATIENCE)
      await pool.query('update tenants set lane_paused_at = null, lane_retry_at = null')
      await quiet()
    },
    /** Moves the create under way this far into the past, and has it tried now. */
    async ageCreate(userId: string, age: string): Promise<void> {
      await eventually(
        async () => {
          const { rowCount } = await pool.query(
            `update sync_state set create_started_at = now() - $2::interval, next_attempt_at = now() + interval '1 hour'
             where user_id = $1 and last_error is not null and lease_expires_at is null and create_key is not null`,
            [userId, age],
          )
          return rowCount === 1
        },
        { ...PATIENCE, what: 'a create that was tried' },
      )
    },
    eventually: <T>(probe: () => T | Promise<T>, what: string) => eventually(probe, { ...PATIENCE, what }),
    retryNow: (userId: string) =>
      pool.query('update sync_state set next_attempt_at = null, enqueued_until = null where user_id = $1', [userId]),
  }
}

/** The events about a customer, newest first. */
export function eventsAbout(controls: Service['simulator']['controls'], stripeId: string): StripeEvent[] {
  const events = controls.events() as unknown[] as StripeEvent[]
  return events.filter((event) => event.data.object.id === stripeId)
}

export interface Signing {
  /** Seconds; now when absent. */
  timestamp?: number
  secret?: string
  /** In place of a signature. */
  header?: string
  path?: string
}

export const nowSeconds = () => Math.floor(Date.now() / 1000)

export function sign(payload: string, secret: string, timestamp = nowSeconds()): string {
  return Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp })
}

/** Delivers as Stripe does: signed, raw. */
async function deliver(
  { app, webhookSecret }: Service,
  event: object | string,
  { timestamp, secret = webhookSecret, header, path = '' }: Signing = {},
): Promise<{ status: number; body: Json }> {
  const payload = typeof event === 'string' ? event : JSON.stringify(event)
  const response = await fetch(`${app.apiUrl}/webhooks/stripe${path}`, {
    method: 'POST',
    headers: {
      'stripe-signature': header ?? sign(payload, secret, timestamp),
      'content-type': 'application/json',
    },
    body: payload,
  })
  const text = await response.text()
  await mustBeDocumented(app.apiUrl ?? '', {
    method: 'POST',
    path: `/webhooks/stripe${path}`,
    status: response.status,
    contentType: response.headers.get('content-type'),
    headers: response.headers,
    text,
  })
  return { status: response.status, body: JSON.parse(text) as Json }
}

/** An event as Stripe would send it about this object; `changes` replace any part. */
export function eventAbout(object: object, changes: Json = {}): Json & { id: string } {
  return {
    id: `evt_${newId().replaceAll('-', '')}`,
    object: 'event',
    api_version: Stripe.API_VERSION,
    created: nowSeconds(),
    data: { object },
    livemode: false,
    pending_webhooks: 1,
    request: { id: null, idempotency_key: null },
    type: 'customer.updated',
    ...changes,
  }
}

/** What must be there. */
export function must<T>(value: T | undefined | null, what = 'it'): T {
  if (value === undefined || value === null) throw new Error(`${what} is missing`)
  return value
}
