import { setTimeout as sleep } from 'node:timers/promises'
import { customerObject, WEBHOOK_SECRET } from './events.js'
import { sendLoad } from './load.js'
import { type Subject, startLockstep, startPeer } from './processes.js'
import { alternate, type Row } from './rows.js'
import { type Pair, seedPairs } from './seed.js'
import { startSimulator } from './simulator.js'
import type { Stage } from './stage.js'
import { makeDeliveries } from './webhook.js'

const CONNECTIONS = 64
/** Less than either takes at most, so that both do the same work. */
const OFFERED = 1_000
/** How long a process is left alone before it counts as idle, in milliseconds. */
const IDLE_MS = 5_000
const SAMPLE_MS = 100

/** Memory of each process, idle and with 1,000 events a second, beside the peer under the same load. */
export async function memoryRow(stage: Stage, options: { runs: number; seconds: number }): Promise<Row> {
  const simulator = await startSimulator([], stage.folder)
  stage.later(() => simulator.stop())
  const customers = OFFERED * options.seconds

  const lockstep = (command: 'start' | 'api' | 'worker') => async () => {
    const { url, pool } = await stage.database('memory')
    const pairs = await seedPairs(pool, customers)
    const env = stage.env(url, { STRIPE_API_BASE: simulator.url })
    const subject = await startLockstep(command, env, stage.folder)
    stage.later(() => subject.stop())
    return measure(subject, command === 'worker' ? [] : pairs, options.seconds)
  }
  const peer = async () => {
    const theirs = await stage.database('peer_memory')
    await theirs.pool.query("do $$ begin if to_regrole('postgres') is null then create role postgres; end if; end $$")
    const settings = { DATABASE_URL: theirs.url, STRIPE_WEBHOOK_SECRET: WEBHOOK_SECRET }
    const pairs = Array.from({ length: customers }, (_, n) => madeUpPair(n))
    const subject = await startPeer('webhook-server.mjs', settings, stage.folder)
    stage.later(() => subject.stop())
    return measure(subject, pairs, options.seconds)
  }
  const subjects = {
    'lockstep start': lockstep('start'),
    'lockstep api': lockstep('api'),
    'lockstep worker': lockstep('worker'),
    'peer, webhook only': peer,
  }
  const results = await alternate(options.runs, subjects, { warmUp: false })
  await simulator.stop()
  return {
    name: 'memory',
    unit: `megabytes resident: idle, at most at ${OFFERED.toLocaleString('en')} events/s, and idle again`,
    results,
    goals: [],
  }
}

/** A customer for the peer, which knows of no users. */
function madeUpPair(n: number): Pair {
  const stripeCustomerId = `cus_peer${n.toString().padStart(9, '0')}`
  const customer = customerObject(stripeCustomerId, `person${n}@example.com`, 'at first', Math.floor(Date.now() / 1000))
  return { userId: '', stripeCustomerId, customer }
}

/** Of a fresh process, which is ended. Without customers it gets no load. */
async function measure(subject: Subject, pairs: Pair[], seconds: number): Promise<Record<string, number>> {
  const megabytes = async () => (await subject.residentBytes()) / 1_048_576
  try {
    await sleep(IDLE_MS)
    const idle = await megabytes()
    if (pairs.length === 0) return { idle }
    const deliveries = makeDeliveries(pairs, OFFERED * seconds)
    let load = 0
    let isLoaded = true
    const watch = async () => {
      for (; isLoaded; await sleep(SAMPLE_MS)) load = Math.max(load, await megabytes())
    }
    const watching = watch()
    const { refused } = await sendLoad({
      port: subject.port,
      connections: CONNECTIONS,
      rate: OFFERED,
      next: () => deliveries.pop() ?? null,
    })
    isLoaded = false
    await watching
    if (refused > 0) throw new Error(`${refused} deliveries were refused`)
    await sleep(IDLE_MS)
    return { idle, load, after: await megabytes() }
  } finally {
    await subject.stop()
  }
}
