import type { EventOutcome } from '../../src/repositories/stripe-events.js'
import { faultKinds } from '../../src/simulator/faults.js'
import type { Step } from '../../src/sync/decide.js'
import type { Lab } from './lab.js'

/** How often things happened, by `kind: name`. */
export type Counts = Record<string, number>

const STEPS: Record<Step['do'], true> = {
  settle: true,
  fetch: true,
  apply: true,
  push: true,
  'look-up': true,
  intend: true,
  'find-created': true,
  create: true,
  delete: true,
  forget: true,
}

const EVENTS: Record<EventOutcome, true> = {
  echo: true,
  stale: true,
  no_news: true,
  applied: true,
  hint: true,
  deleted: true,
  dead_customer: true,
  linked: true,
  imported: true,
  imported_lookalike: true,
  duplicate: true,
  ambiguous: true,
  not_imported: true,
}

const RECONCILES = [
  'in_sync',
  'conflict',
  'failed',
  'detached',
  'ignored',
  'forgotten',
  'busy',
  'paused',
  'retry',
] as const

/** What a simulation is expected to reach: what no seed reached is a hole in it. */
const EXPECTED: readonly string[] = [
  ...Object.keys(STEPS).map((name) => `step: ${name}`),
  ...RECONCILES.map((name) => `reconcile ended: ${name}`),
  ...Object.keys(EVENTS).map((name) => `event settled: ${name}`),
  ...Object.keys(faultKinds)
    .filter((kind) => kind !== 'delay')
    .map((kind) => `Stripe fault: ${kind}`),
  ...['both_changed', 'overwritten'].flatMap((reason) =>
    ['local', 'stripe'].map((winner) => `conflict: ${reason}, ${winner} wins`),
  ),
  ...['api', 'worker-1', 'worker-2'].map((name) => `crash: ${name}`),
  'conflict: cannot_clear, stripe wins',
  'conflict: both_changed, open wins',
  'database: broken before',
  'database: broken after',
  'queue: flushed',
  'delivery: stored',
  'delivery: duplicate',
  'lock: waited for',
  'edit: plain',
  'swept into users: with others',
  'swept into users: alone',
]

/** All that happened in the runs of a lab. */
export async function exercised(lab: Lab): Promise<Counts> {
  const counts: Counts = Object.fromEntries(lab.counts)
  const { reconcileSteps, reconciles, eventsSettled, plainEdits, conflicts, stripeCalls, webhooks } = lab.metrics
  const add = (name: string, value: number) => {
    counts[name] = (counts[name] ?? 0) + value
  }
  for (const { labels, value } of (await reconcileSteps.get()).values) add(`step: ${labels.step}`, value)
  for (const { labels, value } of (await reconciles.get()).values) add(`reconcile ended: ${labels.outcome}`, value)
  for (const { value } of (await plainEdits.get()).values) add('edit: plain', value)
  for (const { labels, value } of (await webhooks.get()).values) {
    if (labels.outcome === 'duplicate') add('delivery: duplicate', value)
  }
  for (const { labels, value } of (await eventsSettled.get()).values) add(`event settled: ${labels.outcome}`, value)
  for (const { labels, value } of (await conflicts.get()).values) {
    add(`conflict: ${labels.reason}, ${labels.winner} wins`, value)
  }
  for (const { labels, value } of (await stripeCalls.get()).values) {
    add(`call to Stripe: ${labels.operation} ${labels.outcome}`, value)
  }
  return counts
}

/** The counts of several labs together. */
export function sumOf(all: readonly Counts[]): Counts {
  const sum: Counts = {}
  for (const counts of all) for (const [name, count] of Object.entries(counts)) sum[name] = (sum[name] ?? 0) + count
  return sum
}

/** What was expected and never happened. */
export function holesIn(counts: Counts): string[] {
  return EXPECTED.filter((name) => (counts[name] ?? 0) === 0)
}

/** The counts as lines for people, one per kind. */
export function describe(counts: Counts): string[] {
  const kinds = new Map<string, string[]>()
  for (const [name, count] of Object.entries(counts).sort(([, a], [, b]) => b - a)) {
    const [kind = '', rest = ''] = name.split(': ')
    kinds.set(kind, [...(kinds.get(kind) ?? []), `${rest} ${count.toLocaleString('en')}`])
  }
  return [...kinds].sort(([a], [b]) => a.localeCompare(b)).map(([kind, parts]) => `${kind}: ${parts.join(', ')}`)
}
