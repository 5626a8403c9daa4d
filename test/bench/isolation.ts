import { requestBytes, sendLoad } from './load.js'
import { type Subject, startLockstep } from './processes.js'
import { alternate, type Row } from './rows.js'
import { seedPairs } from './seed.js'
import { startSimulator } from './simulator.js'
import { ADMIN_KEY, type Stage } from './stage.js'

const USERS = 20_000
const HEADERS = { authorization: `Bearer ${ADMIN_KEY}` }
/** One client at a time tells what a request takes, many what the machine gives. */
const CONNECTIONS = [1, 32] as const

/** What row-level security costs: the API bound by it, beside the API without, on one database. */
export async function isolationRows(stage: Stage, options: { runs: number; seconds: number }): Promise<Row[]> {
  const simulator = await startSimulator([], stage.folder)
  stage.later(() => simulator.stop())
  const { url, pool } = await stage.database('isolation')
  const pairs = await seedPairs(pool, USERS)
  const start = async (rowSecurity: 'on' | 'off') => {
    const env = { STRIPE_API_BASE: `http://127.0.0.1:${simulator.port}`, LOCKSTEP_ROW_SECURITY: rowSecurity }
    const subject = await startLockstep('api', stage.env(url, env), stage.folder)
    stage.later(() => subject.stop())
    return subject
  }
  const bound = await start('on')
  const free = await start('off')

  let turn = 0
  const person = () => pairs[turn++ % pairs.length]?.userId
  const json = { ...HEADERS, 'content-type': 'application/json' }
  const requests = {
    'GET /customers/:id': () => requestBytes('GET', `/customers/${person()}`, HEADERS),
    'GET /customers': () => requestBytes('GET', '/customers?limit=20', HEADERS),
    'PATCH /customers/:id': () =>
      requestBytes('PATCH', `/customers/${person()}`, json, JSON.stringify({ description: `edit ${turn}` })),
  }
  const rows: Row[] = []
  for (const [name, next] of Object.entries(requests)) {
    for (const connections of CONNECTIONS) {
      const load = (subject: Subject) => async () => {
        const forMs = options.seconds * 1000
        const result = await sendLoad({ port: subject.port, connections, forMs, next })
        if (result.refused > 0) throw new Error(`${result.refused} requests were refused`)
        return result
      }
      const results = await alternate(options.runs, { bound: load(bound), free: load(free) })
      rows.push({
        name: `row-level security: ${name}, ${connections} at a time`,
        unit: 'requests/s',
        results,
        goals: [],
      })
    }
  }
  for (const subject of [bound, free, simulator]) await subject.stop()
  return rows
}
