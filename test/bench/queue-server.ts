/** A process of the queue row: POST /?jobs=N puts that many jobs in and works them off, by the service's own producer and workers. */
import { createServer } from 'node:http'
import { pino } from 'pino'
import { newId } from '../../src/lib/ids.js'
import { openQueueBackend } from '../../src/queue/backend.js'
import { makeProducer } from '../../src/queue/producer.js'
import { makeWorkers } from '../../src/queue/workers.js'

const { DATABASE_URL = '', REDIS_URL, PORT } = process.env
/** LOCKSTEP_CONCURRENCY as it is by default. */
const CONCURRENCY = 32
/** Jobs that are put in at once, as the relay does. */
const BATCH = 200

const log = pino({ level: 'warn' })
const backend = await openQueueBackend({ redisUrl: REDIS_URL, databaseUrl: DATABASE_URL, prefix: 'bench', log })
const producer = makeProducer(backend)
let left = 0
let done = () => {}
makeWorkers({
  backend,
  handlers: {
    async reconcile() {
      left -= 1
      if (left === 0) done()
    },
    async reconciliation() {},
    async schedule() {},
  },
  concurrency: CONCURRENCY,
  log,
})

async function run(jobs: number): Promise<{ seconds: number; cpuMs: number }> {
  const finished = new Promise<void>((resolve) => {
    done = resolve
  })
  left = jobs
  const cpu = process.cpuUsage()
  const started = performance.now()
  for (let from = 0; from < jobs; from += BATCH) {
    await producer.enqueueReconcile(Array.from({ length: Math.min(BATCH, jobs - from) }, () => newId()))
  }
  await finished
  const used = process.cpuUsage(cpu)
  return { seconds: (performance.now() - started) / 1000, cpuMs: (used.user + used.system) / 1000 }
}

const server = createServer(async (request, response) => {
  const jobs = Number(new URL(request.url ?? '/', 'http://queue').searchParams.get('jobs'))
  response.end(JSON.stringify(await run(jobs)))
})
server.listen(Number(PORT), '127.0.0.1', () => process.stdout.write('ready\n'))
process.once('SIGTERM', () => process.exit(0))
