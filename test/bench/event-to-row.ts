import { setTimeout as sleep } from 'node:timers/promises'
import { WEBHOOK_SECRET } from './events.js'
import { sendLoad } from './load.js'
import { startLockstep, startPeer } from './processes.js'
import { alternate, type Row } from './rows.js'
import { seedPairs } from './seed.js'
import { countCalls, startSimulator } from './simulator.js'
import type { Stage } from './stage.js'
import { makeDeliveries } from './webhook.js'

const CONNECTIONS = 64
const OFFERED = 1_000
/**
 * How long after the events before a customer's next one is made, in milliseconds. What follows within a second or two is no plain
 * news: the customer would be read, and these are only in the events, not in the simulator.
 */
const CLEARLY_LATER_MS = 3_000
/** When a change that has not reached its row never will, in milliseconds. */
const PATIENCE_MS = 60_000
/** Calls to Stripe that are scarce. */
const READS = /^(customers\.(retrieve|list|search)|events\.)/

/**
 * How many events per second get from the webhook into `users`, each of another customer; and, at a steady 1,000 a second, how
 * long one takes. The peer has written its row when it answers.
 */
export async function eventToRowRows(stage: Stage, options: { runs: number; seconds: number }): Promise<Row[]> {
  const count = OFFERED * options.seconds
  const simulator = await startSimulator([], stage.folder)
  stage.later(() => simulator.stop())
  const ours = await stage.database('events')
  const pairs = await seedPairs(ours.pool, count)
  // Each event starts from its customer's last one, so the peer's customers change by themselves.
  const theirPairs = pairs.map((pair) => ({ ...pair }))
  const theirs = await stage.database('peer_events')
  await theirs.pool.query("do $$ begin if to_regrole('postgres') is null then create role postgres; end if; end $$")
  const env = stage.env(ours.url, { STRIPE_API_BASE: `http://127.0.0.1:${simulator.port}` })
  const lockstep = await startLockstep('start', env, stage.folder)
  const peer = await startPeer(
    'webhook-server.mjs',
    { DATABASE_URL: theirs.url, STRIPE_WEBHOOK_SECRET: WEBHOOK_SECRET },
    stage.folder,
  )
  for (const subject of [lockstep, peer]) stage.later(() => subject.stop())

  /** Sends one event for each customer, and waits until every row shows it. */
  async function burst(): Promise<{ perSecond: number; p99: number; readsPerChange: number }> {
    await sleep(CLEARLY_LATER_MS)
    const deliveries = makeDeliveries(pairs, count)
    await simulator.resetCalls()
    const started = performance.now()
    const since = new Date()
    const { p99 } = await sendLoad({
      port: lockstep.port,
      connections: CONNECTIONS,
      next: () => deliveries.pop() ?? null,
    })
    await untilRowsShow(since)
    const perSecond = count / ((performance.now() - started) / 1000)
    const reads = countCalls(await simulator.calls(), READS)
    return { perSecond, p99, readsPerChange: reads.made / count }
  }

  async function untilRowsShow(since: Date): Promise<void> {
    for (const deadline = Date.now() + PATIENCE_MS; ; ) {
      const { rows } = await ours.pool.query<{ n: number }>(
        `select count(*)::int as n from users where updated_at >= $1 and description like 'change %'`,
        [since],
      )
      const shown = rows[0]?.n ?? 0
      if (shown >= count) return
      if (Date.now() > deadline) throw new Error(`Only ${shown} of ${count} changes reached their rows.`)
      await sleep(50)
    }
  }

  async function peerBurst(): Promise<{ perSecond: number; p99: number }> {
    const deliveries = makeDeliveries(theirPairs, count)
    return sendLoad({ port: peer.port, connections: CONNECTIONS, next: () => deliveries.pop() ?? null })
  }

  const sustained = await alternate(options.runs, { lockstep: burst, peer: peerBurst })

  /** Events at a steady rate; how long each took from being sent to its row. */
  async function steady(): Promise<{ perSecond: number; p50: number; p99: number; max: number }> {
    await sleep(CLEARLY_LATER_MS)
    const deliveries = makeDeliveries(pairs, count).reverse()
    const sentAt = new Map<string, number>()
    const since = new Date()
    const result = await sendLoad({
      port: lockstep.port,
      connections: CONNECTIONS,
      rate: OFFERED,
      next: () => {
        const request = deliveries.pop()
        if (request === undefined) return null
        const description = /"description":"(change \d+)"/.exec(request.toString('latin1'))?.[1] ?? ''
        sentAt.set(description, Date.now())
        return request
      },
    })
    await untilRowsShow(since)
    const { rows } = await ours.pool.query<{ description: string; at: Date }>(
      'select description, updated_at as at from users where updated_at >= $1',
      [since],
    )
    const times = rows
      .flatMap(({ description, at }) => {
        const sent = sentAt.get(description)
        return sent === undefined ? [] : [at.getTime() - sent]
      })
      .sort((a, b) => a - b)
    const at = (part: number) => times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? Number.NaN
    return { perSecond: result.perSecond, p50: at(0.5), p99: at(0.99), max: at(1) }
  }
  const latency = await alternate(options.runs, { lockstep: steady })
  for (const subject of [lockstep, peer, simulator]) await subject.stop()
  return [
    {
      name: 'event to row',
      unit: 'events/s until users shows them',
      results: sustained,
      goals: [
        {
          what: 'rate / peer',
          value: sustained.lockstep.perSecond.median / sustained.peer.perSecond.median,
          atLeast: 3,
        },
      ],
    },
    {
      name: `event to row at ${OFFERED} events/s`,
      unit: 'milliseconds from sent to row',
      results: latency,
      goals: [{ what: 'p99 in milliseconds', value: latency.lockstep.p99.median, atMost: 500 }],
    },
  ]
}
