import { createHmac } from 'node:crypto'
import type { Clock } from '../lib/clock.js'
import { defaultApiVersion, type Events } from './events.js'
import { type Random, token } from './ids.js'
import type { Account, EventRecord, Job, State } from './state.js'
import { beginning, end } from './timeline.js'
import type { WebhookEndpoints } from './webhook-endpoints.js'

/** What goes wrong with deliveries; probabilities are 0 to 1. */
export interface DeliveryFaults {
  /** Nothing leaves until this is false again, or a flush. */
  paused: boolean
  /** How many events are never delivered. They stay in the event list. */
  drop: number
  /** How many deliveries are made twice. */
  duplicate: number
  /** How many changes are told by two events with different ids. */
  twin: number
  delayMs: number
  /** Shuffles deliveries within `reorderWindowMs`. */
  reorder: boolean
  reorderWindowMs: number
  /** Sends the event as if from the other mode. */
  livemodeMismatch: boolean
  badSignature: boolean
  /** Added to the signature's time: -600 makes it too old. */
  timestampSkewSeconds: number
  /** More active secrets, as while one is being rolled: one more `v1` each. */
  extraSecrets: string[]
}

export const noDeliveryFaults: Readonly<DeliveryFaults> = Object.freeze({
  paused: false,
  drop: 0,
  duplicate: 0,
  twin: 0,
  delayMs: 0,
  reorder: false,
  reorderWindowMs: 1000,
  livemodeMismatch: false,
  badSignature: false,
  timestampSkewSeconds: 0,
  extraSecrets: [],
})

export interface Delivery {
  url: string
  headers: Record<string, string>
  body: string
  event: string
  attempt: number
}

/** Sends one delivery and answers the receiver's status; throwing is a failure like any other. */
export type Transport = (delivery: Delivery, signal: AbortSignal) => Promise<number> | number

export interface DeliveryOutcome {
  event: string
  endpoint: string
  attempt: number
  status: number | null
  delivered: boolean
}

export interface DeliveryDeps {
  state: State
  clock: Clock
  random: Random
  events: Events
  endpoints: WebhookEndpoints
  transport: Transport
  faults: DeliveryFaults
  settings: { retryDelaysMs: number[] }
  log: (message: string, detail?: object) => void
}

export type Deliveries = ReturnType<typeof makeDeliveries>

const concurrency = 16

/**
 * Test mode retries 3 times over a few hours, live for up to 3 days (stripe-facts section 3); the intervals between are ours,
 * as Stripe publishes none.
 */
export function defaultRetryDelays(livemode: boolean): number[] {
  if (!livemode) return [60_000, 1_800_000, 7_200_000]
  const delays: number[] = []
  for (let delay = 60_000, sum = 0; sum + delay <= 72 * 3_600_000; delay = Math.min(delay * 2, 12 * 3_600_000)) {
    delays.push(delay)
    sum += delay
  }
  return delays
}

/** The queue of deliveries. Nothing here has a timer: `deliverDue` and `flush` step it, and a server may call the first in a loop. */
export function makeDeliveries(deps: DeliveryDeps) {
  const { state, clock, random, events, endpoints, transport, faults, settings, log } = deps
  const sending = new Set<string>()
  const recent: DeliveryOutcome[] = []
  const stopping = new AbortController()
  let onChange: () => void = () => {}

  const chance = (probability: number) => probability > 0 && random() < probability

  /** Queues a new event for everyone who is to get it. */
  function enqueue(account: Account, event: EventRecord): void {
    const dropped = chance(faults.drop)
    for (const endpoint of event.pending) {
      if (dropped) continue
      add(account, event.id, endpoint, clock.now() + delay())
      if (chance(faults.duplicate)) add(account, event.id, endpoint, clock.now() + delay())
    }
  }

  const delay = () => faults.delayMs + (faults.reorder ? Math.floor(random() * faults.reorderWindowMs) : 0)

  function add(account: Account, event: string, endpoint: string, at: number, manual = false): void {
    const job: Job = {
      id: `wh_${token(random, 16)}`,
      at,
      seq: state.nextSeq(),
      namespace: account.namespace,
      event,
      endpoint,
      attempt: 1,
      ...(manual && { manual }),
    }
    state.commit({ k: 'job', job })
    onChange()
  }

  /** As the dashboard's "resend": to all current endpoints, without touching the automatic retries. */
  function resend(account: Account, event: EventRecord): number {
    const destinations = endpoints.subscribers(account, event.type)
    for (const { id } of destinations) add(account, event.id, id, clock.now(), true)
    state.persist()
    return destinations.length
  }

  /** When (ms) the next delivery is due; undefined while there is none or they are paused. */
  function nextDueAt(): number | undefined {
    if (faults.paused) return undefined
    for (const job of state.queue.ascend(beginning)) if (!sending.has(job.id)) return job.at
    return undefined
  }

  /** Makes the deliveries that are due by the clock (or the first `limit`), oldest first, and answers how each went. */
  function deliverDue(limit?: number): Promise<DeliveryOutcome[]> {
    return faults.paused ? Promise.resolve([]) : deliver(take(clock.now(), limit))
  }

  /** Makes every waiting delivery once, due or not, paused or not; retries of what fails wait for their time. */
  function flush(): Promise<DeliveryOutcome[]> {
    return deliver(take(end.at))
  }

  function take(until: number, limit = Number.POSITIVE_INFINITY): Job[] {
    const jobs: Job[] = []
    for (const job of state.queue.ascend(beginning)) {
      if (job.at > until || jobs.length >= limit) break
      if (!sending.has(job.id)) jobs.push(job)
    }
    for (const job of jobs) sending.add(job.id)
    return jobs
  }

  async function deliver(jobs: Job[]): Promise<DeliveryOutcome[]> {
    const outcomes: DeliveryOutcome[] = []
    let next = 0
    const worker = async () => {
      for (let job = jobs[next++]; job !== undefined && !stopping.signal.aborted; job = jobs[next++]) {
        const outcome = await attempt(job)
        if (outcome) outcomes.push(outcome)
      }
    }
    await Promise.all(Array.from({ length: Math.min(concurrency, jobs.length) }, worker))
    return outcomes
  }

  async function attempt(job: Job): Promise<DeliveryOutcome | undefined> {
    const [id = '', mode] = job.namespace.split(':')
    const account = state.account(id, mode === 'live')
    const event = events.find(account, job.event)
    const destination = endpoints.destination(account, job.endpoint)
    if (!event || !destination) {
      finish(job)
      return undefined
    }
    const body = payload(account, event, destination.apiVersion)
    const headers = {
      'Content-Type': 'application/json; charset=utf-8',
      'User-Agent': 'Stripe/1.0 (+https://stripe.com/docs/webhooks)',
      'Stripe-Signature': signature(body, [...destination.secrets, ...faults.extraSecrets]),
    }
    let status: number | null = null
    try {
      status = await transport(
        { url: destination.url, headers, body, event: event.id, attempt: job.attempt },
        stopping.signal,
      )
    } catch (error) {
      if (stopping.signal.aborted) return undefined
      log('webhook delivery failed', { event: event.id, attempt: job.attempt, error: String(error) })
    }
    const delivered = status !== null && status >= 200 && status < 300
    const outcome = { event: event.id, endpoint: job.endpoint, attempt: job.attempt, status, delivered }
    recent.push(outcome)
    if (recent.length > 100) recent.shift()
    if (delivered) state.commit({ k: 'delivered', a: job.namespace, event: event.id, endpoint: job.endpoint })
    const wait = delivered || job.manual ? undefined : settings.retryDelaysMs[job.attempt - 1]
    finish(job, wait)
    return outcome
  }

  /** Takes a job from the queue, or moves it to its next attempt. */
  function finish(job: Job, wait?: number): void {
    sending.delete(job.id)
    if (wait === undefined) state.commit({ k: 'job-gone', id: job.id })
    else state.commit({ k: 'job', job: { ...job, at: clock.now() + wait, attempt: job.attempt + 1 } })
    state.persist()
    onChange()
  }

  function payload(account: Account, event: EventRecord, apiVersion: string | null): string {
    const shown = events.render(account, event, apiVersion ?? defaultApiVersion)
    return JSON.stringify(faults.livemodeMismatch ? { ...shown, livemode: !shown.livemode } : shown, null, 2)
  }

  /** `t=…,v1=…` with one v1 per active secret; every attempt is signed anew (stripe-facts section 3). */
  function signature(body: string, secrets: string[]): string {
    const at = Math.floor(clock.now() / 1000) + faults.timestampSkewSeconds
    const signed = secrets.map((secret) => {
      const key = faults.badSignature ? `${secret}-wrong` : secret
      return `v1=${createHmac('sha256', key).update(`${at}.${body}`).digest('hex')}`
    })
    return [`t=${at}`, ...signed].join(',')
  }

  return {
    enqueue,
    resend,
    nextDueAt,
    deliverDue,
    flush,
    /** The last hundred attempts. */
    recent: (): readonly DeliveryOutcome[] => recent,
    /** Calls `listener` whenever the next due time may have changed. */
    listen: (listener: () => void) => {
      onChange = listener
    },
    /** Breaks off what is being sent and starts nothing more: it stays queued. */
    abort: () => stopping.abort(),
    /** To be called where a switch may have changed what is due. */
    changed: () => onChange(),
    chance,
  }
}

/** Sends over HTTP: redirects are not followed, and a receiver that takes too long has failed. */
export function httpTransport(timeoutMs: () => number): Transport {
  return async ({ url, headers, body }, stopping) => {
    const signal = AbortSignal.any([stopping, AbortSignal.timeout(timeoutMs())])
    const response = await fetch(url, { method: 'POST', headers, body, redirect: 'manual', signal })
    await response.arrayBuffer()
    return response.status
  }
}
