import { deliveryBytes, updatedEvent, WEBHOOK_SECRET } from './events.js'
import { type LoadResult, sendLoad } from './load.js'
import { type Subject, startHelper, startLockstep, startPeer } from './processes.js'
import { alternate, type Row } from './rows.js'
import { type Pair, seedPairs } from './seed.js'
import { startSimulator } from './simulator.js'
import type { Stage } from './stage.js'

const CONNECTIONS = 64
const CUSTOMERS = 20_000

/** Distinct `customer.updated` deliveries, made before the clock runs. */
export function makeDeliveries(pairs: readonly Pair[], count: number): Buffer[] {
  const created = Math.floor(Date.now() / 1000)
  return Array.from({ length: count }, () => {
    serial += 1
    const pair = pairs[serial % pairs.length]
    if (pair === undefined) throw new Error('no pairs')
    const before = pair.customer.description
    pair.customer = { ...pair.customer, description: `change ${serial}` }
    return deliveryBytes(
      updatedEvent(`evt_bench${serial}`, pair.customer, { description: before }, created),
      WEBHOOK_SECRET,
    )
  })
}
let serial = 0

/**
 * How many deliveries are accepted per second, each 2xx after a durable commit, beside the peer (which works on an event
 * before it answers) and beside Fastify that only verifies the signature.
 */
export async function webhookRow(stage: Stage, options: { runs: number; seconds: number }): Promise<Row> {
  const simulator = await startSimulator([], stage.folder)
  stage.later(() => simulator.stop())
  const ours = await stage.database('webhook')
  const pairs = await seedPairs(ours.pool, CUSTOMERS)
  const theirs = await stage.database('peer')
  // Its migrations name this role as an owner.
  await theirs.pool.query("do $$ begin if to_regrole('postgres') is null then create role postgres; end if; end $$")
  const lockstep = await startLockstep(
    'api',
    stage.env(ours.url, { STRIPE_API_BASE: `http://127.0.0.1:${simulator.port}` }),
    stage.folder,
  )
  const secret = { STRIPE_WEBHOOK_SECRET: WEBHOOK_SECRET }
  const peer = await startPeer('webhook-server.mjs', { DATABASE_URL: theirs.url, ...secret }, stage.folder)
  const bare = await startHelper('bare-server.ts', secret, stage.folder)
  for (const subject of [lockstep, peer, bare]) stage.later(() => subject.stop())

  const measure = (subject: Subject, most: number) => async (): Promise<LoadResult> => {
    const deliveries = makeDeliveries(pairs, most)
    const result = await sendLoad({
      port: subject.port,
      connections: CONNECTIONS,
      forMs: options.seconds * 1000,
      next: () => deliveries.pop() ?? null,
    })
    if (result.refused > 0) throw new Error(`${result.refused} deliveries were refused`)
    return result
  }
  const results = await alternate(options.runs, {
    lockstep: measure(lockstep, 12_000 * options.seconds),
    peer: measure(peer, 5_000 * options.seconds),
    bare: measure(bare, 20_000 * options.seconds),
  })
  for (const subject of [lockstep, peer, bare, simulator]) await subject.stop()
  return {
    name: 'webhook accepted',
    unit: 'deliveries/s',
    results,
    goals: [
      { what: 'rate / peer', value: results.lockstep.perSecond.median / results.peer.perSecond.median, atLeast: 5 },
      { what: 'p99 / peer', value: results.lockstep.p99.median / results.peer.p99.median, atMost: 0.5 },
      { what: 'rate / bare', value: results.lockstep.perSecond.median / results.bare.perSecond.median, atLeast: 0.5 },
    ],
  }
}
