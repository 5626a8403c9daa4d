import { type Subject, startLockstep, startPeer } from './processes.js'
import { type Figures, type Goal, type Row, spreadOf } from './rows.js'
import { type Run, runSweep } from './run.js'
import { seedLinked } from './seed-linked.js'
import { countCalls, type Simulator, startSimulator } from './simulator.js'
import type { Stage } from './stage.js'

const DEFAULT_CUSTOMERS = 40_000
/** Customers that one list call shows at most. */
const PAGE = 100
/** Calls per second of one operation that Stripe allows by default, and what an account may ask to have it raised to. */
const DEFAULT_LIMIT = 25
const RAISED_LIMIT = 100
/** A run at the raised limit would be over too soon to tell a rate. */
const RAISED_FACTOR = 3

const SPANS = { 'over three years': 3 * 365 * 86_400, 'within ten minutes': 600 } as const
type Span = keyof typeof SPANS

interface SweepOptions {
  runs?: number
  customers?: number
}

/**
 * How fast a sweep finds that all users and Stripe customers agree, beside what Stripe's limit allows and beside the peer, which
 * reads all customers into an empty table. All wait as long for a call, and the simulator refuses what is over the limit.
 */
export async function sweepRows(stage: Stage, options: SweepOptions): Promise<Row[]> {
  const rows: Row[] = []
  for (const span of Object.keys(SPANS) as Span[]) {
    rows.push(await atDefaultLimit(stage, span, options))
    rows.push(await atRaisedLimit(stage, span, options))
  }
  return rows
}

async function atDefaultLimit(stage: Stage, span: Span, { runs = 1, customers = DEFAULT_CUSTOMERS }: SweepOptions) {
  const { simulator, lockstep, stop } = await open(stage, span, customers, DEFAULT_LIMIT)
  const limit = { operationRateLimit: DEFAULT_LIMIT, rateLimit: 4 * DEFAULT_LIMIT }
  const ours = async (latencyMs: number) => {
    await simulator.set({ latencyMs, ...limit })
    return repeat(runs, () => sweepOnce(lockstep, simulator, customers, DEFAULT_LIMIT))
  }
  const results = {
    'lockstep at 100 ms': await ours(100),
    'lockstep at 300 ms': await ours(300),
    '@stripe/sync-engine at 100 ms': await peerFigures(stage, simulator, runs, customers),
  }
  await stop()
  const goals: Goal[] = [
    { what: 'at 100 ms, share of the limit', value: shareOf(results['lockstep at 100 ms']), atLeast: 0.9 },
    { what: 'at 300 ms, share of the limit', value: shareOf(results['lockstep at 300 ms']), atLeast: 0.9 },
  ]
  return rowOf(span, customers, DEFAULT_LIMIT, results, goals)
}

async function atRaisedLimit(stage: Stage, span: Span, { runs = 1, customers = DEFAULT_CUSTOMERS }: SweepOptions) {
  const count = customers * RAISED_FACTOR
  const { simulator, lockstep, stop } = await open(stage, span, count, RAISED_LIMIT)
  await simulator.set({ latencyMs: 100, operationRateLimit: RAISED_LIMIT, rateLimit: RAISED_LIMIT })
  const results = {
    'lockstep at 100 ms': await repeat(runs, () => sweepOnce(lockstep, simulator, count, RAISED_LIMIT)),
  }
  await stop()
  const goals = [{ what: 'share of the limit', value: shareOf(results['lockstep at 100 ms']), atLeast: 0.8 }]
  return rowOf(span, count, RAISED_LIMIT, results, goals)
}

const shareOf = (figures: Figures) => figures.share?.median ?? Number.NaN

function rowOf(span: Span, customers: number, limit: number, results: Record<string, Figures>, goals: Goal[]): Row {
  return {
    name: `sweep of ${customers.toLocaleString('en')} customers made ${span}, ${limit} list calls/s`,
    unit: 'customers/s; share of what the limit allows; list calls, refused ones',
    results,
    goals,
  }
}

/** Settings of a service that may make so many list calls per second. With a simulator it would take no limit of operations for granted. */
export function envAtLimit(limit: number): Record<string, string> {
  return {
    LOCKSTEP_STRIPE_OPERATION_RATE: String(limit),
    ...(limit > DEFAULT_LIMIT ? { LOCKSTEP_STRIPE_RATE: String(limit) } : {}),
  }
}

/** A simulator with customers made in the span, a service that knows them all, and neither latency nor limit yet. */
async function open(stage: Stage, span: Span, customers: number, limit: number) {
  const seconds = String(SPANS[span])
  const simulator = await startSimulator(['--customers', String(customers), '--created-span', seconds], stage.folder)
  stage.later(() => simulator.stop())
  const { url, pool } = await stage.database('sweep')
  await seedLinked(pool, simulator)
  const env = stage.env(url, { STRIPE_API_BASE: simulator.url, ...envAtLimit(limit) })
  const lockstep = await startLockstep('start', env, stage.folder)
  stage.later(() => lockstep.stop())
  const stop = async () => {
    await lockstep.stop()
    await simulator.stop()
  }
  return { simulator, lockstep, stop }
}

async function sweepOnce(lockstep: Subject, simulator: Simulator, customers: number, limit: number) {
  await simulator.resetCalls()
  const { run, seconds } = await runSweep(lockstep.port)
  refuseDrift(run, customers)
  const { made, refused } = countCalls(await simulator.calls(), /^customers\./)
  const perSecond = customers / seconds
  const megabytes = (await lockstep.residentBytes()) / 1_048_576
  return { perSecond, share: perSecond / (limit * PAGE), reads: made, refused, megabytes }
}

/** A sweep that did not look at everyone, or found what is not there, is no sweep. */
export function refuseDrift({ counts }: Run, customers: number): void {
  const { checked = 0, stripeCalls: _calls, ...found } = counts
  const drift = Object.values(found).some((count) => count > 0)
  if (drift || checked < 2 * customers) throw new Error(`The sweep was wrong: ${JSON.stringify(counts)}`)
}

async function peerFigures(stage: Stage, simulator: Simulator, runs: number, customers: number): Promise<Figures> {
  // It keeps to the limit by itself, by seconds of its own clock. Where the simulator's seconds begin elsewhere and it is refused
  // a call, it gives up that stretch of time and ends without its customers; so it is refused none.
  await simulator.set({ latencyMs: 100, operationRateLimit: null, rateLimit: null })
  return repeat(runs, async () => {
    const { url } = await stage.database('peer_sweep')
    const env = { DATABASE_URL: url, STRIPE_API_BASE: simulator.url }
    const peer = await startPeer('backfill-server.mjs', env, stage.folder)
    try {
      await simulator.resetCalls()
      const response = await fetch(`http://127.0.0.1:${peer.port}/?rate=${DEFAULT_LIMIT}`, { method: 'POST' })
      const { synced, seconds } = (await response.json()) as { synced: number; seconds: number }
      if (synced < customers) throw new Error(`The peer read ${synced} of ${customers} customers.`)
      const { made, refused } = countCalls(await simulator.calls(), /^customers\./)
      const perSecond = customers / seconds
      const megabytes = (await peer.residentBytes()) / 1_048_576
      return { perSecond, share: perSecond / (DEFAULT_LIMIT * PAGE), reads: made, refused, megabytes }
    } finally {
      await peer.stop()
    }
  })
}

/** Runs it so often, one after another: a rate limit evens out what `alternate` is there for. */
async function repeat(runs: number, once: () => Promise<Record<string, number>>): Promise<Figures> {
  const samples: Record<string, number>[] = []
  for (let run = 0; run < runs; run += 1) samples.push(await once())
  const figures = Object.keys(samples[0] ?? {})
  return Object.fromEntries(figures.map((name) => [name, spreadOf(samples.map((sample) => sample[name] ?? 0))]))
}
