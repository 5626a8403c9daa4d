import { requestBytes, sendLoad } from './load.js'
import { type Subject, startHelper, startLockstep } from './processes.js'
import { alternate, type Row } from './rows.js'
import { seedPairs } from './seed.js'
import { startSimulator } from './simulator.js'
import { ADMIN_KEY, type Stage } from './stage.js'

const CONNECTIONS = 32
const USERS = 20_000
const HEADERS = { authorization: `Bearer ${ADMIN_KEY}` }

/** Reading and making one customer over HTTP, beside Fastify and pg that run the same statements. */
export async function apiRows(stage: Stage, options: { runs: number; seconds: number }): Promise<Row[]> {
  const simulator = await startSimulator([], stage.folder)
  stage.later(() => simulator.stop())
  const { url, pool } = await stage.database('api')
  const pairs = await seedPairs(pool, USERS)
  const env = stage.env(url, { STRIPE_API_BASE: `http://127.0.0.1:${simulator.port}` })
  const lockstep = await startLockstep('api', env, stage.folder)
  const bare = await startHelper('bare-api-server.ts', { DATABASE_URL: url }, stage.folder)
  for (const subject of [lockstep, bare]) stage.later(() => subject.stop())

  const load = (subject: Subject, next: () => Buffer) => async () => {
    const forMs = options.seconds * 1000
    const result = await sendLoad({ port: subject.port, connections: CONNECTIONS, forMs, next })
    if (result.refused > 0) throw new Error(`${result.refused} requests were refused`)
    return result
  }
  let turn = 0
  const read = () => {
    turn += 1
    return requestBytes('GET', `/customers/${pairs[turn % pairs.length]?.userId}`, HEADERS)
  }
  const create = () => {
    turn += 1
    const body = {
      email: `new${turn}@example.com`,
      firstName: 'Grace',
      lastName: 'Hopper',
      metadata: { plan: 'gold' },
    }
    return requestBytes('POST', '/customers', { ...HEADERS, 'content-type': 'application/json' }, JSON.stringify(body))
  }
  const rows: Row[] = []
  for (const [name, next, least] of [
    ['GET /customers/:id', read, 0.6],
    ['POST /customers', create, 0.4],
  ] as const) {
    const results = await alternate(options.runs, { lockstep: load(lockstep, next), bare: load(bare, next) })
    const value = results.lockstep.perSecond.median / results.bare.perSecond.median
    rows.push({ name, unit: 'requests/s', results, goals: [{ what: 'rate / bare', value, atLeast: least }] })
  }
  for (const subject of [lockstep, bare, simulator]) await subject.stop()
  return rows
}
