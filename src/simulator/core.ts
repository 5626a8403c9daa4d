import { type Clock, systemClock } from '../lib/clock.js'
import { makeApi } from './api.js'
import { makeControls } from './controls.js'
import { makeCustomers } from './customers.js'
import { type DeliveryFaults, httpTransport, makeDeliveries, noDeliveryFaults, type Transport } from './delivery.js'
import { makeEvents } from './events.js'
import { Faults } from './faults.js'
import type { Random } from './ids.js'
import { openJournal } from './journal.js'
import { type ApiKey, makeKeys } from './keys.js'
import { RateLimiter } from './rate-limit.js'
import { type Settings, settingsFrom } from './settings.js'
import { SimulatorClock } from './sim-clock.js'
import { State } from './state.js'
import { makeWebhookEndpoints } from './webhook-endpoints.js'

export interface CoreOptions extends Partial<Settings> {
  clock?: Clock
  /** Numbers in [0, 1): with a seeded source, ids and chances repeat. */
  random?: Random
  /** How many customers are there from the start. */
  customers?: number
  /** Over how many seconds before the start their creation is spread; default 30 days. */
  createdSpanSeconds?: number
  livemode?: boolean
  /** The platform's account id. */
  account?: string
  /** Without it any secret or restricted key of the mode is accepted. */
  apiKeys?: Array<string | ApiKey>
  /** Keeps everything in a journal there, safe from a kill. */
  dataDir?: string
  /** How deliveries leave; default HTTP. */
  transport?: Transport
  log?: (message: string, detail?: object) => void
}

export const platformAccountId = 'acct_1L0ckst3pS1mulat'

export type SimulatorCore = ReturnType<typeof makeSimulatorCore>

/**
 * The whole simulator without a server or a timer: API calls by `begin`/`handle`/`fetch`, deliveries by
 * `controls.deliverDue`/`flush`. With a manual clock and a seeded random source every run is the same.
 */
export function makeSimulatorCore(options: CoreOptions = {}) {
  const { random = Math.random, livemode = false, log = () => {} } = options
  const journal = options.dataDir === undefined ? undefined : openJournal(options.dataDir)
  const state = journal?.state ?? new State()
  const clock = new SimulatorClock(options.clock ?? systemClock, state)
  const settings = settingsFrom(options, livemode)
  const deliveryFaults: DeliveryFaults = { ...noDeliveryFaults }

  const keys = makeKeys({ state, livemode, platformId: options.account ?? platformAccountId, apiKeys: options.apiKeys })
  const { isConnected, platform } = keys
  const target = () => {
    const { webhookUrl: url, webhookSecret } = settings
    return url === undefined ? undefined : { url, secrets: webhookSecret.split(',').map((secret) => secret.trim()) }
  }
  const endpoints = makeWebhookEndpoints({ state, clock, random, isConnected, platform, target })
  const events = makeEvents({
    state,
    clock,
    random,
    subscribers: endpoints.subscribers,
    isConnected,
    onEmit: (account, event) => deliveries.enqueue(account, event),
    twin: () => deliveries.chance(deliveryFaults.twin),
    settings,
  })
  const deliveries = makeDeliveries({
    state,
    clock,
    random,
    events,
    endpoints,
    transport: options.transport ?? httpTransport(() => settings.webhookTimeoutMs),
    faults: deliveryFaults,
    settings,
    log,
  })
  const customers = makeCustomers({ state, clock, random, events, settings })
  const faults = new Faults(random)
  const limiter = new RateLimiter(clock, settings)
  const api = makeApi({ state, clock, random, keys, customers, events, endpoints, faults, limiter, settings })
  const controls = makeControls({
    state,
    clock,
    keys,
    customers,
    events,
    deliveries,
    deliveryFaults,
    faults,
    settings,
    api,
    livemode,
  })

  const count = options.customers ?? 0
  const account = platform()
  const isFresh = account.customers.seeds.count === 0 && account.customers.size === 0
  if (count > 0 && isFresh) {
    const span = options.createdSpanSeconds ?? 30 * 24 * 3600
    const end = Math.floor(clock.now() / 1000)
    state.commit({ k: 'seeds', a: account.namespace, seeds: { count, span, end } })
    state.persist()
  }

  let closed = false
  return {
    ...api,
    controls,
    state,
    clock,
    settings,
    deliveries,
    accountId: account.id,
    /** Closes the journal; nothing may be called after it. */
    close: () => {
      if (closed) return
      closed = true
      state.persist()
      journal?.close()
    },
  }
}
