import type { Clock } from '../lib/clock.js'
import type { Customers } from './customers.js'
import { ApiError, invalid, lockTimeout, missing, rateLimited, serverError, unauthorized } from './errors.js'
import { defaultApiVersion, type Events } from './events.js'
import type { FaultKind, FaultRule, Faults } from './faults.js'
import { canonical, decodeForm, type Params, plain } from './form.js'
import { Idempotency, isStored } from './idempotency.js'
import { type Random, token } from './ids.js'
import { type Caller as KeyHolder, type Keys, refuseForbidden } from './keys.js'
import { operations, unknownUrl } from './operations.js'
import type { RateLimiter } from './rate-limit.js'
import type { Account, IdempotencyRecord, State } from './state.js'
import type { WebhookEndpoints } from './webhook-endpoints.js'

export interface ApiRequest {
  method: string
  /** Path and query. */
  url: string
  /** Names in lower case. */
  headers: Record<string, string | string[] | undefined>
  body: string
}

export interface ApiAnswer {
  status: number
  headers: Record<string, string>
  body: string
  /** What becomes of the answer on its way. */
  transport: 'answer' | 'truncate' | 'reset' | 'timeout'
}

/** A call that has arrived. Between the two steps its idempotency key is in flight. */
export interface Call {
  operation: string
  /** How long the call takes before `finish` should run. */
  delayMs: number
  /** Executes it; to be called once. */
  finish(): ApiAnswer
}

export interface ApiDeps {
  state: State
  clock: Clock
  random: Random
  keys: Keys
  customers: Customers
  events: Events
  endpoints: WebhookEndpoints
  faults: Faults
  limiter: RateLimiter
  settings: { latencyMs: number }
}

/** How many calls each operation got, by status; what Lockstep's tests and benchmarks count. */
export type CallCounts = Record<string, { total: number; byStatus: Record<string, number> }>

export type Api = ReturnType<typeof makeApi>

/** The way of a v1 call: key, faults, rate limit, idempotency, the operation, headers (stripe-facts sections 4 to 6). */
export function makeApi(deps: ApiDeps) {
  const { state, clock, random, keys, faults, limiter, settings } = deps
  const idempotency = new Idempotency()
  const calls: CallCounts = {}

  function begin(request: ApiRequest): Call {
    const requestId = `req_${token(random, 14)}`
    const [path = '', query = ''] = split(request.url)
    const route = routeOf(request.method, path)
    const operation = route?.operation.name ?? 'unknown'
    const fault = faults.take(operation)
    const headers = baseHeaders(request, requestId)
    const key = request.method === 'POST' ? headerOf(request, 'idempotency-key') : undefined
    let locked: Account | undefined
    let replay: IdempotencyRecord | undefined
    let account: Account | undefined
    let params: Params = {}
    let failure: unknown
    try {
      const connected = headerOf(request, 'stripe-account') ?? headerOf(request, 'stripe-context')
      const holder = keys.authenticate(headerOf(request, 'authorization'), connected)
      account = holder.account
      if (!route) throw unknownUrl(request.method, path)
      const { operation: op } = route
      refuseForbidden(holder, op)
      if (fault) throwEarly(fault.kind, holder, op.resource, route.id)
      const limit = limiter.take(account.namespace, operation)
      if (limit) throw rateLimited(limit)
      params = paramsOf(request, query)
      if (key !== undefined) {
        if (key.length > 255) throw invalid('Idempotency keys can be at most 255 characters.')
        const fingerprint = `${request.method} ${path} ${canonical(params)}`
        replay = idempotency.begin(account, key, fingerprint, clock.now())
        if (!replay) locked = account
      }
    } catch (error) {
      failure = error
    }

    const finish = (): ApiAnswer => {
      headers.Date = new Date(clock.now()).toUTCString()
      const answer = replay ? replayed(replay, headers, key) : executed()
      count(operation, answer.status)
      return { ...answer, transport: transportOf(fault?.kind, failure === undefined) }
    }

    const executed = (): Omit<ApiAnswer, 'transport'> => {
      const isPost = request.method === 'POST'
      try {
        if (failure !== undefined) throw failure
        if (!account || !route) throw serverError()
        if (fault?.kind === '500') throw serverError()
        if (fault?.kind === 'timeout_before' || fault?.kind === 'reset_before') return emptyAnswer(headers)
        const result = route.operation.run(deps, {
          account,
          id: route.id,
          params,
          caller: { privileged: false, request: { id: requestId, idempotency_key: key ?? null } },
        })
        if (fault?.kind === '500_after') throw serverError()
        if (isPost && key !== undefined) Object.assign(headers, firstExecution(requestId, key))
        return settle(200, `${JSON.stringify(result, null, 2)}\n`)
      } catch (error) {
        if (!(error instanceof ApiError)) throw error
        Object.assign(headers, error.detail.headers)
        if (error.detail.withoutRequestId) delete headers['Request-Id']
        if (isPost && key !== undefined && failure === undefined) headers['Idempotency-Key'] = key
        if (isPost && key !== undefined && error.status === 500) headers['Original-Request'] = requestId
        const mode = account?.livemode ? '' : 'test/'
        const logUrl = `https://dashboard.stripe.com/${mode}logs/${requestId}`
        return settle(error.status, `${JSON.stringify(error.body(logUrl), null, 2)}\n`)
      } finally {
        if (locked && key !== undefined) idempotency.end(locked, key)
      }
    }

    /** Stores what has to be stored, change and answer as one line of the journal. */
    const settle = (status: number, body: string): Omit<ApiAnswer, 'transport'> => {
      if (locked && key !== undefined && isStored(status)) {
        const fingerprint = `${request.method} ${path} ${canonical(params)}`
        const record = { fingerprint, status, body, requestId, storedAt: clock.now() }
        state.commit({ k: 'key', a: locked.namespace, key, record })
      }
      state.persist()
      return { status, headers, body }
    }

    return { operation, delayMs: settings.latencyMs + (fault?.delayMs ?? 0), finish }
  }

  function count(operation: string, status: number): void {
    calls[operation] ??= { total: 0, byStatus: {} }
    const counts = calls[operation]
    counts.total++
    counts.byStatus[status] = (counts.byStatus[status] ?? 0) + 1
  }

  return {
    begin,
    /** A whole call at once, for use within a process. */
    handle: (request: ApiRequest): ApiAnswer => begin(request).finish(),
    calls,
    resetCalls: () => {
      for (const operation of Object.keys(calls)) delete calls[operation]
    },
  }
}

interface Route {
  operation: (typeof operations)[number]
  id: string
}

function routeOf(method: string, path: string): Route | undefined {
  for (const operation of operations) {
    if (operation.method !== method) continue
    const match = operation.pattern.exec(path)
    if (match) return { operation, id: plain(match[1] ?? '') }
  }
  return undefined
}

function throwEarly(kind: FaultKind, holder: KeyHolder, resource: string, id: string): void {
  if (kind === '429') throw rateLimited('global-rate')
  if (kind === 'lock_timeout') throw lockTimeout()
  if (kind === '401') throw unauthorized(holder.key)
  if (kind === '403') throw holder.forbidden(resource)
  if (kind === 'wrong_mode') {
    const otherMode = holder.account.livemode ? 'test' : 'live'
    throw missing(resource.toLowerCase().replace(/s$/, ''), id, 'id', { otherMode })
  }
}

function transportOf(kind: FaultRule['kind'] | undefined, ran: boolean): ApiAnswer['transport'] {
  if (!ran || kind === undefined) return 'answer'
  if (kind.startsWith('timeout')) return 'timeout'
  if (kind.startsWith('reset')) return 'reset'
  return kind === 'truncate' ? 'truncate' : 'answer'
}

/** The stored answer under a new request id; `Original-Request` names the first (stripe-facts section 4). */
function replayed(record: IdempotencyRecord, headers: Record<string, string>, key = ''): Omit<ApiAnswer, 'transport'> {
  return {
    status: record.status,
    headers: {
      ...headers,
      'Idempotency-Key': key,
      'Idempotent-Replayed': 'true',
      'Original-Request': record.requestId,
      'Stripe-Should-Retry': 'false',
    },
    body: record.body,
  }
}

const firstExecution = (requestId: string, key: string) => ({
  'Idempotency-Key': key,
  'Original-Request': requestId,
  'Stripe-Should-Retry': 'false',
})

const emptyAnswer = (headers: Record<string, string>) => ({ status: 0, headers, body: '' })

function baseHeaders(request: ApiRequest, requestId: string): Record<string, string> {
  const account = headerOf(request, 'stripe-account')
  return {
    'Content-Type': 'application/json',
    'Request-Id': requestId,
    'Stripe-Version': headerOf(request, 'stripe-version') ?? defaultApiVersion,
    ...(account && { 'Stripe-Account': account }),
  }
}

function paramsOf(request: ApiRequest, query: string): Params {
  const type = headerOf(request, 'content-type') ?? ''
  if (request.method === 'POST' && request.body !== '' && type.includes('json')) {
    throw invalid(
      'Invalid request (check that your POST content type is application/x-www-form-urlencoded). If you have any questions, we can help at https://support.stripe.com/.',
    )
  }
  return decodeForm(request.method === 'POST' ? [query, request.body].filter(Boolean).join('&') : query)
}

function headerOf(request: ApiRequest, name: string): string | undefined {
  const value = request.headers[name]
  const first = Array.isArray(value) ? value[0] : value
  return first === '' ? undefined : first
}

function split(url: string): [string, string] {
  const mark = url.indexOf('?')
  return mark === -1 ? [url, ''] : [url.slice(0, mark), url.slice(mark + 1)]
}
