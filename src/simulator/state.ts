import type Stripe from 'stripe'
import { type CustomerRecord, CustomerStore, type Seeds } from './customer-store.js'
import { Timeline } from './timeline.js'

/** An event, with its object as the JSON text of the moment it was made: it never changes again (stripe-facts section 2). */
export interface EventRecord {
  id: string
  type: string
  created: number
  /** When (ms) it was made, for the visibility lag. */
  madeAt: number
  seq: number
  data: string
  request: Stripe.Event.Request
  /** The endpoints that have not answered 2xx yet. */
  pending: string[]
}

export type EndpointRecord = Stripe.WebhookEndpoint & { secret: string; connect: boolean; seq: number }

/** A delivery to make: one event to one endpoint at a time (ms). */
export interface Job {
  id: string
  at: number
  seq: number
  namespace: string
  event: string
  endpoint: string
  attempt: number
  /** A resend by hand: it doesn't cancel, and isn't followed by, automatic retries. */
  manual?: boolean
}

/** What the first execution under a key answered (stripe-facts section 4). */
export interface IdempotencyRecord {
  /** Path and params; a second request under the key must equal it. */
  fingerprint: string
  status: number
  body: string
  requestId: string
  storedAt: number
}

/** What one account and mode owns: nothing in it is visible from another (stripe-facts section 7). */
export class Account {
  readonly id: string
  readonly livemode: boolean
  readonly customers = new CustomerStore()
  readonly events = new Timeline<EventRecord>((event) => ({ at: event.created, seq: event.seq }))
  readonly eventById = new Map<string, EventRecord>()
  readonly endpoints = new Map<string, EndpointRecord>()
  readonly keys = new Map<string, IdempotencyRecord>()
  /** Prefixes that were asked for; they stay taken after a deletion. */
  readonly prefixes = new Map<string, string>()

  constructor(id: string, livemode: boolean) {
    this.id = id
    this.livemode = livemode
  }

  get namespace(): string {
    return namespaceOf(this.id, this.livemode)
  }
}

/** Every change there is. Replaying the entries in order gives the state again, so the journal is a list of them. */
export type Entry =
  | { k: 'seeds'; a: string; seeds: Seeds }
  | { k: 'customer'; a: string; record: CustomerRecord }
  | { k: 'event'; a: string; event: EventRecord }
  | { k: 'event-data'; a: string; event: string; data: string }
  | { k: 'delivered'; a: string; event: string; endpoint: string }
  | { k: 'endpoint'; a: string; endpoint: EndpointRecord }
  | { k: 'endpoint-gone'; a: string; id: string }
  | { k: 'key'; a: string; key: string; record: IdempotencyRecord }
  | { k: 'job'; job: Job }
  | { k: 'job-gone'; id: string }
  | { k: 'clock'; offset: number; frozen: number | null }

export const eventRetentionSeconds = 30 * 24 * 3600

export const namespaceOf = (account: string, livemode: boolean) => `${account}:${livemode ? 'live' : 'test'}`

/** All the simulator remembers. `commit` is the only way to change it; `persist` must run before the outside learns of it. */
export class State {
  readonly accounts = new Map<string, Account>()
  readonly jobs = new Map<string, Job>()
  readonly queue = new Timeline<Job>((job) => ({ at: job.at, seq: job.seq }))
  clock: { offset: number; frozen: number | null } = { offset: 0, frozen: null }
  readonly #write: (entries: Entry[]) => void
  #unwritten: Entry[] = []
  #seq = 0

  constructor(write: (entries: Entry[]) => void = () => {}) {
    this.#write = write
  }

  account(id: string, livemode: boolean): Account {
    const namespace = namespaceOf(id, livemode)
    const known = this.accounts.get(namespace)
    if (known) return known
    const account = new Account(id, livemode)
    this.accounts.set(namespace, account)
    return account
  }

  /** The account, if anything was ever done in it. */
  find(id: string, livemode: boolean): Account | undefined {
    return this.accounts.get(namespaceOf(id, livemode))
  }

  /** A number above every one that anything has: the order of making within one second. */
  nextSeq(): number {
    return ++this.#seq
  }

  commit(entry: Entry): void {
    this.apply(entry)
    this.#unwritten.push(entry)
  }

  /** Writes what was committed since, as one line: after a crash a request is there whole or not at all. */
  persist(): void {
    if (this.#unwritten.length === 0) return
    const entries = this.#unwritten
    this.#unwritten = []
    this.#write(entries)
  }

  apply(entry: Entry): void {
    switch (entry.k) {
      case 'seeds':
        this.#at(entry.a).customers.setSeeds(entry.seeds)
        this.#seen(entry.seeds.count)
        return
      case 'customer': {
        const account = this.#at(entry.a)
        account.customers.put(entry.record)
        const prefix = entry.record.fields.invoice_prefix
        if (prefix) account.prefixes.set(prefix, entry.record.id)
        this.#seen(entry.record.seq)
        return
      }
      case 'event': {
        const account = this.#at(entry.a)
        account.events.set(entry.event)
        account.eventById.set(entry.event.id, entry.event)
        const old = account.events.cut({ at: entry.event.created - eventRetentionSeconds, seq: 0 })
        for (const event of old) account.eventById.delete(event.id)
        this.#seen(entry.event.seq)
        return
      }
      case 'event-data': {
        const event = this.#at(entry.a).eventById.get(entry.event)
        if (event) event.data = entry.data
        return
      }
      case 'delivered': {
        const event = this.#at(entry.a).eventById.get(entry.event)
        if (event) event.pending = event.pending.filter((id) => id !== entry.endpoint)
        return
      }
      case 'endpoint':
        this.#at(entry.a).endpoints.set(entry.endpoint.id, entry.endpoint)
        this.#seen(entry.endpoint.seq)
        return
      case 'endpoint-gone':
        this.#at(entry.a).endpoints.delete(entry.id)
        return
      case 'key':
        this.#at(entry.a).keys.set(entry.key, entry.record)
        return
      case 'job': {
        const before = this.jobs.get(entry.job.id)
        if (before) this.queue.remove(before)
        this.jobs.set(entry.job.id, entry.job)
        this.queue.add(entry.job)
        this.#seen(entry.job.seq)
        return
      }
      case 'job-gone': {
        const job = this.jobs.get(entry.id)
        if (!job) return
        this.jobs.delete(entry.id)
        this.queue.remove(job)
        return
      }
      case 'clock':
        this.clock = { offset: entry.offset, frozen: entry.frozen }
    }
  }

  /** The shortest list of entries that gives this state: what compaction leaves of a journal. */
  *entries(): Iterable<Entry> {
    if (this.clock.offset !== 0 || this.clock.frozen !== null) yield { k: 'clock', ...this.clock }
    for (const [a, account] of this.accounts) {
      if (account.customers.seeds.count > 0) yield { k: 'seeds', a, seeds: account.customers.seeds }
      for (const record of account.customers.records()) yield { k: 'customer', a, record }
      for (const endpoint of account.endpoints.values()) yield { k: 'endpoint', a, endpoint }
      for (const event of account.eventById.values()) yield { k: 'event', a, event }
      for (const [key, record] of account.keys) yield { k: 'key', a, key, record }
    }
    for (const job of this.jobs.values()) yield { k: 'job', job }
  }

  #at(namespace: string): Account {
    const [id = '', mode] = namespace.split(':')
    return this.account(id, mode === 'live')
  }

  #seen(seq: number): void {
    if (seq > this.#seq) this.#seq = seq
  }
}
