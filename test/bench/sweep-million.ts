import { startLockstep } from './processes.js'
import { type Row, spreadOf } from './rows.js'
import { runSweep } from './run.js'
import { seedLinked } from './seed-linked.js'
import { countCalls, startSimulator } from './simulator.js'
import type { Stage } from './stage.js'
import { envAtLimit, refuseDrift } from './sweep.js'

const CUSTOMERS = 1_000_000
const SPAN_SECONDS = 3 * 365 * 86_400
/** The raised limit: the row is about memory, and would else take seven minutes. */
const LIMIT = 100
const POLL_MS = 500
/** Of what is looked at, how much is left out at first: until then the worker grows by its code and caches. */
const WARM_UP = 0.1

/** What the memory of a worker does while it sweeps a million customers. */
export async function sweepMillionRow(stage: Stage, { customers = CUSTOMERS }: { customers?: number }): Promise<Row> {
  const args = ['--customers', String(customers), '--created-span', String(SPAN_SECONDS)]
  const simulator = await startSimulator(args, stage.folder)
  stage.later(() => simulator.stop())
  const { url, pool } = await stage.database('million')
  await seedLinked(pool, simulator)
  await simulator.set({ latencyMs: 100, operationRateLimit: LIMIT, rateLimit: LIMIT })
  await simulator.resetCalls()
  const env = stage.env(url, { STRIPE_API_BASE: simulator.url, ...envAtLimit(LIMIT) })
  const api = await startLockstep('api', env, stage.folder)
  stage.later(() => api.stop())
  const worker = await startLockstep('worker', env, stage.folder)
  stage.later(() => worker.stop())

  const samples: { checked: number; megabytes: number }[] = []
  const sample = async (checked: number) => {
    samples.push({ checked, megabytes: (await worker.residentBytes()) / 1_048_576 })
  }
  await sample(0)
  const { run, seconds } = await runSweep(api.port, ({ counts }) => sample(counts.checked ?? 0), POLL_MS)
  refuseDrift(run, customers)
  const { made, refused } = countCalls(await simulator.calls(), /^customers\./)
  for (const subject of [worker, api, simulator]) await subject.stop()

  const megabytes = samples.map((one) => one.megabytes)
  const max = Math.max(...megabytes)
  const warm = samples.filter(({ checked }) => checked >= WARM_UP * 2 * customers)
  const growth = slope(warm.map((one) => [one.checked / 2, one.megabytes])) * 100_000
  const single = (value: number) => spreadOf([value])
  return {
    name: `memory of a sweep of ${customers.toLocaleString('en')} customers`,
    unit: 'megabytes resident of the worker; growth per 100,000 customers',
    results: {
      'lockstep worker': {
        atStart: single(megabytes[0] ?? Number.NaN),
        median: single(spreadOf(megabytes).median),
        max: single(max),
        growth: single(growth),
        perSecond: single(customers / seconds),
        reads: single(made),
        refused: single(refused),
      },
    },
    goals: [
      { what: 'most megabytes', value: max, atMost: 200 },
      { what: 'growth per 100,000 customers', value: growth, atMost: 1 },
    ],
  }
}

/** How much y grows with x, by least squares. */
function slope(points: [number, number][]): number {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  const [x, y] = [mean(points.map((point) => point[0])), mean(points.map((point) => point[1]))]
  const above = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0)
  return above / points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0)
}
