import { type Subject, startHelper } from './processes.js'
import { findRedis } from './redis.js'
import { alternate, type Row } from './rows.js'
import { postgresCpuMs, redisCpuMs } from './server-cpu.js'
import type { Stage } from './stage.js'

const JOBS = 10_000

/** What the queue costs: jobs that do nothing, through the service's own producer and workers, on Postgres and on Redis. */
export async function queueRow(stage: Stage, options: { runs: number }): Promise<Row> {
  const { url, pool } = await stage.database('queue')
  const onPostgres = await startHelper('queue-server.ts', { DATABASE_URL: url }, stage.folder)
  stage.later(() => onPostgres.stop())
  const subjects: Record<string, () => Promise<Record<string, number>>> = {
    'on Postgres': () => measure(onPostgres, () => postgresCpuMs(pool)),
  }
  const redisUrl = await findRedis(stage)
  let onRedis: Subject | undefined
  if (redisUrl === null) {
    process.stderr.write('# no Redis: neither REDIS_URL nor redis-server; that half of the row is left out\n')
  } else {
    onRedis = await startHelper('queue-server.ts', { DATABASE_URL: url, REDIS_URL: redisUrl }, stage.folder)
    const subject = onRedis
    stage.later(() => subject.stop())
    subjects['on Redis'] = () => measure(subject, () => redisCpuMs(redisUrl))
  }
  const results = await alternate(options.runs, subjects)
  for (const subject of [onPostgres, onRedis]) await subject?.stop()
  return { name: 'queue', unit: 'jobs/s from put in to done; milliseconds of CPU per job', results, goals: [] }
}

async function measure(subject: Subject, serverCpuMs: () => Promise<number | null>): Promise<Record<string, number>> {
  const before = await serverCpuMs()
  const response = await fetch(`http://127.0.0.1:${subject.port}/?jobs=${JOBS}`, { method: 'POST' })
  const { seconds, cpuMs } = (await response.json()) as { seconds: number; cpuMs: number }
  const after = await serverCpuMs()
  return {
    perSecond: JOBS / seconds,
    nodeMsPerJob: cpuMs / JOBS,
    ...(before === null || after === null ? {} : { serverMsPerJob: (after - before) / JOBS }),
  }
}
