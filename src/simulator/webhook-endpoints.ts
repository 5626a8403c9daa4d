import type Stripe from 'stripe'
import type { Clock } from '../lib/clock.js'
import { emptyParameter, invalid, missing, missingParameter } from './errors.js'
import { covers } from './events.js'
import { items, type Param, type Params } from './form.js'
import { type Random, token } from './ids.js'
import { allowOnly, listOf, orderedOf, page, windowOf } from './list.js'
import { mergeMetadata } from './metadata.js'
import type { Account, EndpointRecord, State } from './state.js'
import type { Key } from './timeline.js'

const maxEndpoints = 16

export interface EndpointDeps {
  state: State
  clock: Clock
  random: Random
  isConnected: (account: Account) => boolean
  platform: () => Account
  /** Where events go besides the endpoints that were made through the API. */
  target: () => { url: string; secrets: string[] } | undefined
}

/** Where deliveries go: an endpoint of the API, or the simulator's own target. */
export interface Destination {
  id: string
  url: string
  secrets: string[]
  apiVersion: string | null
}

export const targetId = 'we_simulator_target'

export type WebhookEndpoints = ReturnType<typeof makeWebhookEndpoints>

/** `/v1/webhook_endpoints` and the question who gets an event (stripe-facts section 3). */
export function makeWebhookEndpoints({ state, clock, random, isConnected, platform, target }: EndpointDeps) {
  const at = (endpoint: EndpointRecord): Key => ({ at: endpoint.created, seq: endpoint.seq })

  /** Only this answer has the secret. */
  function create(account: Account, params: Params): Stripe.WebhookEndpoint {
    allowOnly(params, ['api_version', 'connect', 'description', 'enabled_events', 'expand', 'metadata', 'url'])
    const endpoint: EndpointRecord = {
      id: `we_1${token(random, 23)}`,
      object: 'webhook_endpoint',
      api_version: typeof params.api_version === 'string' && params.api_version !== '' ? params.api_version : null,
      application: null,
      created: Math.floor(clock.now() / 1000),
      description: description(params.description) ?? null,
      enabled_events: enabledEvents(params.enabled_events),
      livemode: account.livemode,
      metadata: params.metadata === undefined ? {} : mergeMetadata({}, params.metadata),
      status: 'enabled',
      url: checkedUrl(params.url, account.livemode),
      secret: `whsec_${token(random, 32)}`,
      connect: params.connect === 'true',
      seq: state.nextSeq(),
    }
    if (account.endpoints.size >= maxEndpoints) {
      throw invalid(`You have reached the maximum of ${maxEndpoints} test webhook endpoints.`)
    }
    state.commit({ k: 'endpoint', a: account.namespace, endpoint })
    return { ...show(endpoint), secret: endpoint.secret }
  }

  function update(account: Account, id: string, params: Params): Stripe.WebhookEndpoint {
    allowOnly(params, ['description', 'disabled', 'enabled_events', 'expand', 'metadata', 'url'])
    const before = find(account, id)
    const { disabled, enabled_events: events, url, metadata } = params
    const endpoint: EndpointRecord = {
      ...before,
      ...(params.description !== undefined && { description: description(params.description) ?? null }),
      ...(disabled !== undefined && { status: disabled === 'true' ? 'disabled' : 'enabled' }),
      ...(events !== undefined && { enabled_events: enabledEvents(events) }),
      ...(url !== undefined && { url: checkedUrl(url, account.livemode) }),
      ...(metadata !== undefined && { metadata: mergeMetadata(before.metadata, metadata) }),
    }
    state.commit({ k: 'endpoint', a: account.namespace, endpoint })
    return show(endpoint)
  }

  function retrieve(account: Account, id: string, params: Params): Stripe.WebhookEndpoint {
    allowOnly(params, ['expand'])
    return show(find(account, id))
  }

  function remove(account: Account, id: string, params: Params): Stripe.DeletedWebhookEndpoint {
    allowOnly(params, [])
    find(account, id)
    state.commit({ k: 'endpoint-gone', a: account.namespace, id })
    return { id, object: 'webhook_endpoint', deleted: true }
  }

  function list(account: Account, params: Params): Stripe.ApiList<Stripe.WebhookEndpoint> {
    allowOnly(params, ['ending_before', 'expand', 'limit', 'starting_after'])
    const window = windowOf(params, (id, param) => at(find(account, id, param)))
    const oldestFirst = [...account.endpoints.values()].sort((a, b) => a.created - b.created || a.seq - b.seq)
    const found = page(orderedOf(oldestFirst, at), window)
    return listOf('/v1/webhook_endpoints', found.items.map(show), found.hasMore)
  }

  /**
   * Who gets a new event: the account's own enabled endpoints, for a connected account the platform's Connect endpoints, and
   * the simulator's target for both. What is made while an endpoint is disabled is never sent to it.
   */
  function subscribers(account: Account, type: string): Destination[] {
    const own = [...account.endpoints.values()].filter((endpoint) => !endpoint.connect)
    const connected = isConnected(account)
    const connect = connected ? [...platform().endpoints.values()].filter((endpoint) => endpoint.connect) : []
    const chosen = [...own, ...connect].filter(
      ({ status, enabled_events }) => status === 'enabled' && enabled_events.some((pattern) => covers(pattern, type)),
    )
    const fixed = connected || account === platform() ? targetDestination() : undefined
    return [...chosen.map(destinationOf), ...(fixed ? [fixed] : [])]
  }

  /** The destination of a waiting delivery, unless it is gone or disabled by now. */
  function destination(account: Account, id: string): Destination | undefined {
    if (id === targetId) return targetDestination()
    const endpoint = account.endpoints.get(id) ?? platform().endpoints.get(id)
    return endpoint?.status === 'enabled' ? destinationOf(endpoint) : undefined
  }

  function targetDestination(): Destination | undefined {
    const fixed = target()
    return fixed && { id: targetId, url: fixed.url, secrets: fixed.secrets, apiVersion: null }
  }

  function find(account: Account, id: string, param?: string): EndpointRecord {
    const endpoint = account.endpoints.get(id)
    if (!endpoint) throw missing('webhook endpoint', id, param ?? 'id', { status: param ? 400 : 404 })
    return endpoint
  }

  return { create, update, retrieve, remove, list, subscribers, destination }
}

function show({ secret: _, connect: __, seq: ___, ...endpoint }: EndpointRecord): Stripe.WebhookEndpoint {
  return endpoint
}

const destinationOf = ({ id, url, secret, api_version }: EndpointRecord): Destination => {
  return { id, url, secrets: [secret], apiVersion: api_version }
}

function description(value: Param | undefined): string | undefined {
  if (typeof value !== 'string' || value === '') return undefined
  return value
}

function enabledEvents(value: Param | undefined): string[] {
  if (value === undefined) throw missingParameter('enabled_events')
  const events = items(value).filter((item) => typeof item === 'string')
  if (events.length === 0) throw emptyParameter('enabled_events')
  const bad = events.findIndex((event) => event !== '*' && !/^[a-z0-9_]+(\.[a-z0-9_]+)+$/.test(event))
  if (bad !== -1) {
    throw invalid(`Invalid enabled_events[${bad}]: must be one of *, customer.created, …`, `enabled_events[${bad}]`)
  }
  return events
}

/** HTTP is for test mode only. */
function checkedUrl(value: Param | undefined, livemode: boolean): string {
  if (value === undefined) throw missingParameter('url')
  if (value === '') throw emptyParameter('url')
  const schemes = livemode ? ['https:'] : ['https:', 'http:']
  if (typeof value !== 'string' || !URL.canParse(value) || !schemes.includes(new URL(value).protocol)) {
    throw invalid('Invalid URL: An explicit scheme (such as https) must be provided.', 'url', 'url_invalid')
  }
  return value
}
