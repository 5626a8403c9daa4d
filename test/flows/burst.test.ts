import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { text } from 'node:stream/consumers'
import Stripe from 'stripe'
import t, { type Test } from 'tap'
import { type Simulator, startSimulator } from '../../src/simulator/server.js'
import { cloneDatabase } from '../helpers/database.js'
import { spawnSource } from '../helpers/source-process.js'
import { eventually } from '../helpers/wait.js'

/** How many events come at once; TEST_BURST=50000 is what an outage of hours leaves behind, and takes many minutes. */
const EVENTS = Number(process.env.TEST_BURST ?? 1_000)
const CUSTOMERS = Math.min(500, Math.ceil(EVENTS / 10))
const CONNECTIONS = 64
/** By how much the process may grow over what it takes when idle, in bytes, however many events come. */
const GROWTH = 200 * 1024 * 1024
/** How long the outage was, by Stripe's clock, in milliseconds. */
const OUTAGE = 6 * 3_600_000

const SECRET = 'whsec_test_burst'
const KEY = 'lsk_bursttest_0123456789abcdef0123456789abcdef00'

t.setTimeout(600_000 + EVENTS * 60)

/** The service as a process of its own; answers where it listens. */
async function startProcess(t: Test, databaseUrl: string, simulator: Simulator): Promise<string> {
  const child: ChildProcess = spawnSource(['src/cli.ts', 'start'], {
    PATH: process.env.PATH,
    HOME: process.env.HOME,
    DATABASE_URL: databaseUrl,
    STRIPE_SECRET_KEY: 'sk_test_burst',
    STRIPE_WEBHOOK_SECRET: SECRET,
    STRIPE_API_BASE: simulator.url,
    LOCKSTEP_STRIPE_RATE: '500',
    LOCKSTEP_ADMIN_KEY: KEY,
    LOG_LEVEL: 'warn',
    PORT: '0',
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (output += chunk))
  t.teardown(async () => {
    if (!t.passing()) t.comment(output.slice(-5_000))
    if (child.exitCode !== null) return
    child.kill('SIGTERM')
    await once(child, 'exit')
  })
  return eventually(
    () => {
      if (child.exitCode !== null) throw new Error(output)
      return (/is running[\s\S]*?(http:\/\/127\.0\.0\.1:\d+)/.exec(output) ?? [])[1] ?? ''
    },
    { timeout: 120_000, what: 'the banner' },
  )
}

/** The changes of the outage, as the events that Stripe still has to deliver, out of order within minutes, some twice. */
function outage({ controls }: Simulator, ids: string[]): Stripe.Event[] {
  for (let n = 0; n < EVENTS; n += 1) {
    controls.advanceClock(OUTAGE / EVENTS)
    const fields = { description: `edit ${n}`, metadata: { edit: String(n), [`key${n % 7}`]: String(n) } }
    controls.updateCustomer(ids[n % ids.length] ?? '', n % 3 === 0 ? { ...fields, name: `Ada ${n}` } : fields)
  }
  const events = controls.events().slice(0, EVENTS).reverse()
  const twice = events.filter((_, index) => index % 100 === 0)
  const order = (index: number) => index + Math.random() * 200
  return [
    ...events.map((event, index) => ({ event, at: order(index) })),
    ...twice.map((event) => ({ event, at: order(EVENTS / 2) })),
  ]
    .sort((a, b) => a.at - b.at)
    .map(({ event }) => event)
}

/** Delivers them over many connections at once; what is not taken comes again. Answers how often that was. */
async function deliverAll(url: string, events: Stripe.Event[]): Promise<number> {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS })
  const waiting = [...events].reverse()
  let refused = 0
  const deliver = async (event: Stripe.Event): Promise<boolean> => {
    const payload = JSON.stringify(event)
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(payload),
      'stripe-signature': Stripe.webhooks.generateTestHeaderString({ payload, secret: SECRET }),
    }
    const call = request(`${url}/webhooks/stripe`, { method: 'POST', agent, headers })
    call.end(payload)
    const [response] = await once(call, 'response')
    await text(response)
    return response.statusCode === 200
  }
  const worker = async () => {
    for (let event = waiting.pop(); event !== undefined; event = waiting.pop()) {
      if (await deliver(event).catch(() => false)) continue
      refused += 1
      waiting.unshift(event)
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, worker))
  agent.destroy()
  return refused
}

interface Sample {
  rss: number
  heap: number
  status: string
  parts: Record<string, { status: string; code?: string; pending?: number; dirty?: number; oldestSeconds?: number }>
}

/** What the process says of itself. */
async function look(url: string): Promise<Sample> {
  const [health, metrics] = await Promise.all([
    fetch(`${url}/health`).then((response) => response.json() as Promise<Omit<Sample, 'rss' | 'heap'>>),
    fetch(`${url}/metrics`).then((response) => response.text()),
  ])
  const figure = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(metrics)?.[1])
  return { ...health, rss: figure('process_resident_memory_bytes'), heap: figure('nodejs_heap_size_used_bytes') }
}

const isIdle = ({ parts }: Sample) => parts.inbox?.pending === 0 && parts.sync?.dirty === 0

t.test(`${EVENTS} events at once, after an outage`, async (t) => {
  const { url: databaseUrl, pool } = await cloneDatabase(t)
  const simulator = await startSimulator()
  t.teardown(() => simulator.close())
  const { controls } = simulator
  controls.advanceClock(-OUTAGE - 3_600_000)
  const ids = Array.from(
    { length: CUSTOMERS },
    (_, n) => controls.createCustomer({ email: `burst${n}@example.com` }).id,
  )
  const url = await startProcess(t, databaseUrl, simulator)
  await eventually(
    async () =>
      (await pool.query("select count(*)::int as n from sync_state where status = 'in_sync' and not dirty")).rows[0]
        .n === CUSTOMERS,
    { timeout: 120_000, what: 'all are linked' },
  )
  const idle = await look(url)

  const events = outage(simulator, ids)
  controls.setClock(Date.now())
  controls.resetCalls()
  const began = performance.now()
  const seconds = () => (performance.now() - began) / 1_000
  let accepted: number | null = null
  const samples: Sample[] = []
  const watching = eventually(
    async () => {
      const sample = await look(url)
      samples.push(sample)
      return accepted !== null && isIdle(sample)
    },
    { timeout: 120_000 + EVENTS * 50, interval: 200, what: 'all is settled' },
  )
  const refused = await deliverAll(url, events)
  accepted = seconds()
  await watching
  const drained = seconds()

  const { rows: stored } = await pool.query(
    'select status, outcome, count(*)::int as n from stripe_events where id = any($1) group by 1, 2 order by 1, 2',
    [events.map(({ id }) => id)],
  )
  const total = stored.reduce((sum, { n }) => sum + n, 0)
  t.equal(total, EVENTS, 'each is stored, once')
  t.ok(
    stored.every(({ status }) => status === 'processed'),
    'and settled',
  )

  const { rows: users } = await pool.query(
    `select u.stripe_customer_id as id, u.first_name, u.last_name, u.description, u.metadata, s.status
     from users u join sync_state s on s.user_id = u.id`,
  )
  t.equal(users.length, CUSTOMERS)
  const differing = users.filter((user) => {
    const { name, description, metadata } = controls.getCustomer(user.id) as Stripe.Customer
    const own = Object.fromEntries(Object.entries(metadata).filter(([key]) => !key.startsWith('lockstep_')))
    const here = [user.first_name, user.last_name].filter(Boolean).join(' ') || null
    return (
      user.status !== 'in_sync' ||
      user.description !== description ||
      here !== name ||
      JSON.stringify(Object.entries(user.metadata).sort()) !== JSON.stringify(Object.entries(own).sort())
    )
  })
  t.strictSame(differing, [], 'each user is as Stripe has it')
  t.equal(
    (await pool.query('select count(*)::int as n from sync_conflicts')).rows[0].n,
    0,
    'nobody edited here: no conflict',
  )
  const calls = Object.entries(controls.summary().calls).map(([name, { total }]) => `${name} ${total}`)
  t.notMatch(calls.join(), 'customers.update', 'and nothing is written back')

  const most = (list: Sample[]) => Math.max(...list.map(({ rss }) => rss))
  const mega = (bytes: number) => `${Math.round(bytes / 1_048_576)} MB`
  t.ok(most(samples) - idle.rss < GROWTH, `${mega(idle.rss)} idle, at most ${mega(most(samples))}`)

  const backlogs = samples.map(({ parts }) => parts.inbox?.pending ?? 0)
  t.ok(
    samples.some(({ parts }) => (parts.inbox?.pending ?? 0) > 0 && (parts.inbox?.oldestSeconds ?? 0) > 0),
    'health shows the backlog',
  )
  for (const { status, parts } of samples) {
    const isBehind = (parts.inbox?.oldestSeconds ?? 0) > 60 || (parts.sync?.oldestSeconds ?? 0) > 300
    if (status !== (isBehind ? 'degraded' : 'ok')) t.fail('health is what its parts are', { status, parts })
  }
  t.match(samples.at(-1), { status: 'ok', parts: { inbox: { status: 'ok', pending: 0, oldestSeconds: 0 } } })
  const oldest = Math.max(...samples.map(({ parts }) => parts.inbox?.oldestSeconds ?? 0))
  t.comment(
    [
      `${EVENTS} events (${events.length} deliveries, ${refused} refused) accepted in ${accepted.toFixed(1)} s, settled after ${drained.toFixed(1)} s`,
      `RSS ${mega(idle.rss)} idle, ${mega(most(samples))} at most, heap ${mega(idle.heap)} and ${mega(Math.max(...samples.map(({ heap }) => heap)))}; backlog at most ${Math.max(...backlogs)}, oldest ${oldest.toFixed(0)} s`,
      `outcomes: ${stored.map(({ outcome, n }) => `${outcome} ${n}`).join(', ')}; calls to Stripe: ${calls.join(', ')}`,
    ].join('\n'),
  )
})
