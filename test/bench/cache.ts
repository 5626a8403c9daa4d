import { Redis } from 'ioredis'
import { readCustomer } from '../../src/repositories/customers.js'
import { makeDb, openPool } from '../../src/repositories/database.js'
import { findRedis } from './redis.js'
import { alternate, type Row } from './rows.js'
import { seedPairs } from './seed.js'
import { postgresCpuMs, redisCpuMs } from './server-cpu.js'
import type { Stage } from './stage.js'

const CUSTOMERS = 10_000
const READS = 20_000
const AT_ONCE = 32

/**
 * What a cache of customers in Redis could win at best: reading one as the API does, from Postgres, beside reading the same from Redis
 * with nothing checked, which no cache could do that is never stale.
 */
export async function cacheRow(stage: Stage, options: { runs: number }): Promise<Row> {
  const { url, pool } = await stage.database('cache')
  const ids = (await seedPairs(pool, CUSTOMERS)).map(({ userId }) => userId)
  const { rows } = await pool.query<{ id: string }>("select id from tenants where slug = 'default'")
  const tenantId = rows[0]?.id ?? ''
  await pool.query('vacuum analyze')
  const reader = openPool(url, { name: 'cache' })
  stage.later(() => reader.end())
  const db = makeDb(reader)
  const subjects: Record<string, () => Promise<Record<string, number>>> = {
    Postgres: () =>
      readAll(
        ids,
        (id) => readCustomer(db, tenantId, id),
        () => postgresCpuMs(pool),
      ),
  }
  const redisUrl = await findRedis(stage)
  if (redisUrl === null) {
    process.stderr.write('# no Redis: neither REDIS_URL nor redis-server; that half of the row is left out\n')
  } else {
    const redis = new Redis(redisUrl)
    stage.later(async () => redis.disconnect())
    for (const id of ids) {
      await redis.set(`lockstep-bench:${id}`, JSON.stringify(await readCustomer(db, tenantId, id)), 'EX', 3_600)
    }
    const read = async (id: string): Promise<unknown> => JSON.parse((await redis.get(`lockstep-bench:${id}`)) ?? 'null')
    subjects.Redis = () => readAll(ids, read, () => redisCpuMs(redisUrl))
  }
  const results = await alternate(options.runs, subjects)
  return { name: 'one customer, read', unit: 'reads/s; milliseconds of CPU per read', results, goals: [] }
}

async function readAll(
  ids: readonly string[],
  read: (id: string) => Promise<unknown>,
  serverCpuMs: () => Promise<number | null>,
): Promise<Record<string, number>> {
  let next = 0
  const before = await serverCpuMs()
  const cpu = process.cpuUsage()
  const started = performance.now()
  async function reader(): Promise<void> {
    while (next < READS) {
      const id = ids[next % ids.length] ?? ''
      next += 1
      if ((await read(id)) === null) throw new Error(`no customer ${id}`)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, reader))
  const seconds = (performance.now() - started) / 1000
  const { user, system } = process.cpuUsage(cpu)
  const after = await serverCpuMs()
  return {
    perSecond: READS / seconds,
    nodeMsPerRead: (user + system) / 1000 / READS,
    ...(before === null || after === null ? {} : { serverMsPerRead: (after - before) / READS }),
  }
}
