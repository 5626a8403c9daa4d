import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { newId } from '../../src/lib/ids.js'
import { startLockstep } from './processes.js'
import { type Figures, type Row, spreadOf } from './rows.js'
import { runSweep } from './run.js'
import { countCalls, type Simulator, startSimulator } from './simulator.js'
import type { Stage } from './stage.js'

const DEFAULT_CUSTOMERS = 5_000
const SPAN_SECONDS = 3 * 365 * 86_400
const LATENCY_MS = 100
/** Stripe's limits by default: of one operation, and in all; and those of an account that had them raised. */
const LIMITS = { default: { operation: 25, all: 100 }, raised: { operation: 100, all: 100 } } as const
const PAGE = 100
/** How long creates are counted, and what is left out before, in milliseconds. */
const WINDOW_MS = 20_000
const WARM_UP_MS = 3_000
/** Users that are there when counting begins, as seconds of the limit: more than can be made meanwhile. */
const ENOUGH_SECONDS = 40

/** The first hour with a new neighbour: an empty database beside a full Stripe, and the other way round. */
export async function importRows(
  stage: Stage,
  { customers = DEFAULT_CUSTOMERS }: { customers?: number },
): Promise<Row[]> {
  return [await fromStripe(stage, customers), await toStripe(stage, customers)]
}

async function fromStripe(stage: Stage, customers: number): Promise<Row> {
  const args = ['--customers', String(customers), '--created-span', String(SPAN_SECONDS)]
  const simulator = await startSimulator(args, stage.folder)
  stage.later(() => simulator.stop())
  await simulator.set({
    latencyMs: LATENCY_MS,
    operationRateLimit: LIMITS.default.operation,
    rateLimit: LIMITS.default.all,
  })
  const { url, pool } = await stage.database('import')
  const lockstep = await startLockstep('start', stage.env(url, { STRIPE_API_BASE: simulator.url }), stage.folder)
  stage.later(() => lockstep.stop())
  // The service began with it by itself, since it never swept; so the run's own times count.
  const { run } = await runSweep(lockstep.port)
  const seconds = (Date.parse(run.finishedAt ?? '') - Date.parse(run.startedAt ?? '')) / 1000
  const { rows } = await pool.query<{ users: number; settled: number }>(
    `select count(*)::int as users, count(*) filter (where s.status = 'in_sync')::int as settled
     from users u left join sync_state s on s.user_id = u.id`,
  )
  if (rows[0]?.users !== customers) throw new Error(`Of ${customers} customers ${rows[0]?.users} became users.`)
  const calls = await simulator.calls()
  const megabytes = (await lockstep.residentBytes()) / 1_048_576
  await lockstep.kill()
  await simulator.stop()
  const perSecond = customers / seconds
  return {
    name: `initial import of ${customers.toLocaleString('en')} Stripe customers into an empty database`,
    unit: `customers/s until all are users; share of what ${LIMITS.default.operation} list calls/s allow`,
    results: {
      lockstep: singles({
        perSecond,
        share: perSecond / (LIMITS.default.operation * PAGE),
        reads: run.counts.stripeCalls ?? 0,
        otherCalls: countCalls(calls, /^customers\.(?!list)/).made,
        inSyncByThen: rows[0]?.settled ?? 0,
        megabytes,
      }),
    },
    goals: [],
  }
}

async function toStripe(stage: Stage, customers: number): Promise<Row> {
  return {
    name: 'users of a full database into an empty Stripe',
    unit: 'customers made per second; share of the limit',
    results: {
      'at 25 creates/s': await atLimit(stage, LIMITS.default),
      'at 100 creates/s': await atLimit(stage, LIMITS.raised),
      [`${customers.toLocaleString('en')} users, no limit and no latency`]: await unlimited(stage, customers),
    },
    goals: [],
  }
}

async function atLimit(stage: Stage, limit: { operation: number; all: number }): Promise<Figures> {
  const isRaised = limit.operation === limit.all
  const env: Record<string, string> = isRaised ? { LOCKSTEP_STRIPE_RATE: String(limit.all) } : {}
  const { simulator, stop } = await withUsers(stage, limit.operation * ENOUGH_SECONDS, env, {
    latencyMs: LATENCY_MS,
    operationRateLimit: limit.operation,
    rateLimit: limit.all,
  })
  await sleep(WARM_UP_MS)
  await simulator.resetCalls()
  const started = performance.now()
  await sleep(WINDOW_MS)
  const { made, refused } = countCalls(await simulator.calls(), /^customers\.create$/)
  const perSecond = (made - refused) / ((performance.now() - started) / 1000)
  await stop()
  return singles({ perSecond, share: perSecond / limit.operation, refused })
}

async function unlimited(stage: Stage, users: number): Promise<Figures> {
  const env = { LOCKSTEP_STRIPE_RATE: '10000' }
  const { simulator, lockstep, pool, stop } = await withUsers(stage, users, env, {})
  const started = performance.now()
  for (let waiting = users; waiting > 0; await sleep(100)) {
    const { rows } = await pool.query<{ n: number }>('select count(*)::int as n from sync_state where dirty')
    waiting = rows[0]?.n ?? 0
  }
  const perSecond = users / ((performance.now() - started) / 1000)
  const made = await simulator.size()
  if (made !== users) throw new Error(`Of ${users} users ${made} customers were made.`)
  const megabytes = (await lockstep.residentBytes()) / 1_048_576
  await stop()
  return singles({ perSecond, megabytes })
}

/** A service that has just started on a database of users that Stripe knows nothing of. */
async function withUsers(
  stage: Stage,
  users: number,
  env: Record<string, string>,
  settings: Parameters<Simulator['set']>[0],
) {
  const simulator = await startSimulator([], stage.folder)
  stage.later(() => simulator.stop())
  await simulator.set(settings)
  const { url, pool } = await stage.database('export')
  await insertUsers(pool, users)
  const lockstep = await startLockstep(
    'start',
    stage.env(url, { STRIPE_API_BASE: simulator.url, ...env }),
    stage.folder,
  )
  stage.later(() => lockstep.stop())
  const stop = async () => {
    await lockstep.kill()
    await simulator.stop()
  }
  return { simulator, lockstep, pool, stop }
}

/** Users as any program inserts them, by SQL. */
async function insertUsers(pool: pg.Pool, count: number): Promise<void> {
  const batch = 2_000
  for (let from = 0; from < count; from += batch) {
    const ids = Array.from({ length: Math.min(batch, count - from) }, () => newId())
    await pool.query(
      `insert into users (id, email, first_name, last_name)
       select id, 'person' || ($2 + n) || '@example.com', 'Ada', 'Lovelace'
       from unnest($1::uuid[]) with ordinality as t (id, n)`,
      [ids, from],
    )
  }
  await pool.query('analyze')
}

function singles(figures: Record<string, number>): Figures {
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, spreadOf([value])]))
}
