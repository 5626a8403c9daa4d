import type { Controls } from './controls.js'
import type { DeliveryFaults } from './delivery.js'
import { type FaultKind, faultKinds } from './faults.js'
import { plain } from './form.js'
import type { Settings } from './settings.js'

type Json = Record<string, unknown>

interface Input {
  id: string
  query: URLSearchParams
  body: Json
}

interface Switch {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  path: string
  description: string
  run: (controls: Controls, input: Input) => unknown
}

/** A switch was used wrongly: 400 with this message. */
export class SwitchError extends Error {}

const accountOf = ({ query }: Input) => query.get('account') ?? undefined

/** All switches, and with their descriptions the answer of `GET /_simulator`. `?account=acct_…` picks a connected account. */
const switches: readonly Switch[] = [
  { method: 'GET', path: '', description: 'This index.', run: () => ({ switches: index(), faultKinds }) },
  {
    method: 'GET',
    path: '/state',
    description: 'Counts per account, calls by operation and status, waiting and recent deliveries.',
    run: (controls) => controls.summary(),
  },
  {
    method: 'DELETE',
    path: '/calls',
    description: 'Sets the call counts to zero.',
    run: (controls) => {
      controls.resetCalls()
      return controls.summary().calls
    },
  },
  {
    method: 'GET',
    path: '/faults',
    description: 'The rules that are in force.',
    run: (controls) => ({ data: controls.faults.rules }),
  },
  {
    method: 'POST',
    path: '/faults',
    description: 'Adds {operation?: "customers.create"|"customers.*"|"*", kind, times?, probability?, delayMs?}.',
    run: (controls, { body }) => controls.faults.add(faultOf(body)),
  },
  {
    method: 'DELETE',
    path: '/faults',
    description: 'Removes all rules.',
    run: (controls) => {
      controls.faults.remove()
      return { data: controls.faults.rules }
    },
  },
  {
    method: 'DELETE',
    path: '/faults/:id',
    description: 'Removes one rule.',
    run: (controls, { id }) => {
      controls.faults.remove(Number(id))
      return { data: controls.faults.rules }
    },
  },
  {
    method: 'PUT',
    path: '/keys',
    description:
      'Does to an API key what the dashboard can: {key, revoked?: true, allow?: ["customers.*", …]}; neither undoes both.',
    run: (controls, { body }) => {
      const { key, ...rule } = keyRuleOf(body)
      controls.changeKey(key, rule)
      return rule
    },
  },
  {
    method: 'GET',
    path: '/deliveries',
    description: 'Waiting deliveries, and the delivery faults in force.',
    run: (controls) => ({ faults: controls.deliveryFaults(), data: controls.pendingDeliveries() }),
  },
  {
    method: 'PUT',
    path: '/deliveries',
    description:
      'Sets the delivery faults, all others off: {paused, drop, duplicate, twin (each a probability or true), delayMs, reorder, reorderWindowMs, livemodeMismatch, badSignature, timestampSkewSeconds, extraSecrets}.',
    run: (controls, { body }) => controls.setDeliveryFaults(deliveryFaultsOf(body)),
  },
  {
    method: 'POST',
    path: '/deliveries/flush',
    description: 'Makes every waiting delivery now, due or not, paused or not; answers how each went.',
    run: async (controls) => ({ data: await controls.flush() }),
  },
  {
    method: 'POST',
    path: '/deliveries/deliver-due',
    description: 'Makes the deliveries that are due by the clock; answers how each went.',
    run: async (controls) => ({ data: await controls.deliverDue() }),
  },
  {
    method: 'GET',
    path: '/events',
    description: 'All events, newest first, whatever the visibility lag.',
    run: (controls, input) => ({ data: controls.events(accountOf(input)) }),
  },
  {
    method: 'POST',
    path: '/events',
    description: 'Makes an event {type, object} of any type and delivers it.',
    run: (controls, input) => {
      const { type, object } = input.body
      if (typeof type !== 'string' || typeof object !== 'object' || object === null) {
        throw new SwitchError('type (text) and object (an object) are needed')
      }
      return controls.emitEvent(type, object, accountOf(input))
    },
  },
  {
    method: 'POST',
    path: '/events/:id/resend',
    description: "Delivers an event again, as the dashboard's resend does.",
    run: (controls, input) => ({ deliveries: controls.resendEvent(input.id, accountOf(input)) }),
  },
  {
    method: 'GET',
    path: '/customers',
    description: 'All customers, oldest first: ?limit= (to 10000) &after=<id>.',
    run: (controls, input) => {
      const [limit, after, account] = [input.query.get('limit'), input.query.get('after'), accountOf(input)]
      return controls.dump({
        ...(limit !== null && { limit: numberOf(limit, 'limit') }),
        ...(after !== null && { after }),
        ...(account !== undefined && { account }),
      })
    },
  },
  {
    method: 'POST',
    path: '/customers',
    description: "Creates a customer as if in the dashboard: JSON in Stripe's field names.",
    run: (controls, input) => controls.createCustomer(input.body, accountOf(input)),
  },
  {
    method: 'GET',
    path: '/customers/:id',
    description: 'One customer, without the API (no call is counted).',
    run: (controls, input) => controls.getCustomer(input.id, accountOf(input)),
  },
  {
    method: 'PATCH',
    path: '/customers/:id',
    description:
      'Edits a customer as if in the dashboard; also currency, delinquent, default_source and invoice_settings.default_payment_method.',
    run: (controls, input) => controls.updateCustomer(input.id, input.body, accountOf(input)),
  },
  {
    method: 'DELETE',
    path: '/customers/:id',
    description: 'Deletes a customer as if in the dashboard.',
    run: (controls, input) => controls.deleteCustomer(input.id, accountOf(input)),
  },
  {
    method: 'POST',
    path: '/customers/:id/redact',
    description: 'A privacy redaction: placeholders in the customer and in its events.',
    run: (controls, input) => controls.redactCustomer(input.id, accountOf(input)),
  },
  {
    method: 'GET',
    path: '/clock',
    description: "The simulator's time in milliseconds.",
    run: (controls) => ({ now: controls.now(), frozen: controls.summary().frozen }),
  },
  {
    method: 'POST',
    path: '/clock',
    description: 'One of {advance: ms}, {set: ms}, {freeze: true|false}.',
    run: (controls, { body }) => moveClock(controls, body),
  },
  {
    method: 'GET',
    path: '/settings',
    description: 'Latency, rate limits, lags, webhook target, retries and the switches for unverified facts.',
    run: (controls) => controls.settings(),
  },
  {
    method: 'PUT',
    path: '/settings',
    description: 'Changes the settings that are given; null lifts a rate limit or removes the webhook target.',
    run: (controls, { body }) => controls.changeSettings(settingsOf(body, controls.settings())),
  },
]

/** Finds and runs the switch; undefined where there is none. */
export function runSwitch(
  controls: Controls,
  method: string,
  path: string,
  query: URLSearchParams,
  readBody: () => Json,
): { result: unknown } | undefined {
  for (const { method: wanted, path: pattern, run } of switches) {
    if (wanted !== method) continue
    const match = new RegExp(`^/_simulator${pattern.replace(':id', '([^/]+)')}/?$`).exec(path)
    if (match) return { result: run(controls, { id: plain(match[1] ?? ''), query, body: readBody() }) }
  }
  return undefined
}

function index() {
  return switches.map(({ method, path, description }) => ({ call: `${method} /_simulator${path}`, description }))
}

function faultOf(body: Json) {
  const { kind, operation, times, probability, delayMs, ...unknown } = body
  refuse(unknown)
  if (typeof kind !== 'string' || !(kind in faultKinds)) {
    throw new SwitchError(`kind must be one of ${Object.keys(faultKinds).join(', ')}`)
  }
  return {
    kind: kind as FaultKind,
    ...(operation !== undefined && { operation: String(operation) }),
    ...(times !== undefined && { times: numberOf(times, 'times') }),
    ...(probability !== undefined && { probability: numberOf(probability, 'probability') }),
    ...(delayMs !== undefined && { delayMs: numberOf(delayMs, 'delayMs') }),
  }
}

function keyRuleOf(body: Json) {
  const { key, revoked, allow, ...unknown } = body
  refuse(unknown)
  if (typeof key !== 'string' || key === '') throw new SwitchError('key must be a text')
  if (allow !== undefined && !Array.isArray(allow)) throw new SwitchError('allow must be a list of operations')
  return {
    key,
    ...(revoked !== undefined && { revoked: booleanOf(revoked, 'revoked') }),
    ...(allow !== undefined && { allow: allow.map(String) }),
  }
}

const deliveryReaders: { [K in keyof DeliveryFaults]: (value: unknown, name: string) => DeliveryFaults[K] } = {
  paused: booleanOf,
  drop: chanceOf,
  duplicate: chanceOf,
  twin: chanceOf,
  delayMs: numberOf,
  reorder: booleanOf,
  reorderWindowMs: numberOf,
  livemodeMismatch: booleanOf,
  badSignature: booleanOf,
  timestampSkewSeconds: numberOf,
  extraSecrets: (value, name) => {
    if (!Array.isArray(value)) throw new SwitchError(`${name} must be a list of texts`)
    return value.map(String)
  },
}

function deliveryFaultsOf(body: Json): Partial<DeliveryFaults> {
  const faults: Json = {}
  for (const [name, value] of Object.entries(body)) {
    const read = Object.hasOwn(deliveryReaders, name) ? deliveryReaders[name as keyof DeliveryFaults] : undefined
    if (!read) throw new SwitchError(`unknown: ${name}`)
    faults[name] = read(value, name)
  }
  return faults
}

const optional = new Set(['rateLimit', 'operationRateLimit', 'webhookUrl'])

/** Each setting keeps its kind; only the optional ones may be null. */
function settingsOf(body: Json, current: Readonly<Settings>): Partial<Settings> {
  const settings: Json = {}
  for (const [name, value] of Object.entries(body)) {
    if (!(name in current)) throw new SwitchError(`unknown: ${name}`)
    if (value === null && optional.has(name)) settings[name] = undefined
    else if (name === 'retryDelaysMs') {
      if (!Array.isArray(value)) throw new SwitchError('retryDelaysMs must be a list of numbers')
      settings[name] = value.map((delay) => numberOf(delay, name))
    } else if (name === 'webhookUrl' || name === 'webhookSecret') settings[name] = String(value)
    else if (typeof current[name as keyof Settings] === 'boolean') settings[name] = booleanOf(value, name)
    else settings[name] = numberOf(value, name)
  }
  return settings
}

function moveClock(controls: Controls, body: Json) {
  const { advance, set, freeze, ...unknown } = body
  refuse(unknown)
  if (advance !== undefined) controls.advanceClock(numberOf(advance, 'advance'))
  if (set !== undefined) controls.setClock(numberOf(set, 'set'))
  if (freeze === true) controls.freezeClock()
  if (freeze === false) controls.unfreezeClock()
  const { now, frozen } = controls.summary()
  return { now, frozen }
}

function refuse(unknown: Json): void {
  const name = Object.keys(unknown)[0]
  if (name !== undefined) throw new SwitchError(`unknown: ${name}`)
}

function numberOf(value: unknown, name: string): number {
  const number = typeof value === 'string' && value !== '' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isFinite(number)) throw new SwitchError(`${name} must be a number`)
  return number
}

function booleanOf(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw new SwitchError(`${name} must be true or false`)
  return value
}

function chanceOf(value: unknown, name: string): number {
  return typeof value === 'boolean' ? Number(value) : numberOf(value, name)
}
