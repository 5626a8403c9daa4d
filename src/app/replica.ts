import type { HealthCheck } from '../http/health.js'
import { LockstepError, messageOf } from '../lib/errors.js'
import { startLoop } from '../lib/loop.js'
import { makeDb, openPool } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { openIsolatedPool } from '../repositories/isolation.js'
import { openPrisma } from '../repositories/prisma.js'
import { type ListReads, makeReplicaReads, primaryReads, type ReplicaReads } from '../repositories/replica.js'
import type { Wiring } from './services.js'

/** Connections to the replica that lists of one process share. */
const LIST_CONNECTIONS = 10

/** How often the replica is looked at, in milliseconds: what was written reaches the lists that much later, beside what replication takes. */
const LOOK_MS = 250

/** How long a look may take, in milliseconds. */
const LOOK_PATIENCE_MS = 2_000

/**
 * Where this process reads lists from: a replica, where one is configured; else the primary.
 *
 * @param options.prisma of the primary, for requests
 * @param options.isIsolated whether row-level security stands behind it, as it then does on the replica
 */
export function openListReads(
  wiring: Wiring,
  { prisma, isIsolated }: { prisma: PrismaClient; isIsolated: boolean },
): { lists: ListReads; checks: HealthCheck[] } {
  const { core, config, log, lifecycle } = wiring
  const { metrics } = core
  if (config.replica === null) return { lists: primaryReads(prisma), checks: [] }
  const { url, mostLagMs } = config.replica

  const onError = (error: Error) => log.warn({ err: error.message }, 'a connection to the replica broke')
  const watch = openPool(url, { max: 1, name: 'lockstep replica', onError })
  lifecycle.onClose('replica watch', () => watch.end())
  const open = isIsolated ? openIsolatedPool : openPool
  const pool = open(url, { max: LIST_CONNECTIONS, name: 'lockstep lists', onError })
  lifecycle.onClose('replica pool', () => pool.end())
  const replicaPrisma = openPrisma(pool)
  lifecycle.onClose('replica prisma', () => replicaPrisma.$disconnect())

  const reads = makeReplicaReads({
    primary: { db: core.db, prisma },
    replica: { db: makeDb(watch, { timeoutMs: LOOK_PATIENCE_MS }), prisma: replicaPrisma },
    mostLagMs,
    now: () => performance.now(),
    onRead: (from) => metrics.listReads.inc({ from }),
    onFailure(error) {
      metrics.errors.inc({ part: 'replica' })
      log.warn({ err: error.message, sqlState: error.sqlState }, 'a list failed on the replica: the primary is asked')
    },
  })
  const say = announcer(wiring)
  const report = () => {
    const state = reads.state()
    if (state.lagMs !== null) metrics.replicaLag.set(state.lagMs / 1000)
    say(state)
  }
  const loop = startLoop({
    work: async () => {
      await reads.look()
      report()
      return { more: false }
    },
    idleMs: LOOK_MS,
    onError(error) {
      metrics.errors.inc({ part: 'replica' })
      log.warn({ err: messageOf(error) }, 'replica: will be looked at again')
      report()
    },
  })
  lifecycle.onClose('replica look', () => loop.stop())
  return { lists: reads, checks: [checkOf(reads)] }
}

/** Says it once whenever lists begin to be read from elsewhere. */
function announcer({ log }: Pick<Wiring, 'log'>): (state: ReturnType<ReplicaReads['state']>) => void {
  let last: string | null | undefined
  return ({ trouble }) => {
    if (trouble === last) return
    last = trouble
    if (trouble === null) log.info('lists are read from the replica')
    else log.warn({ code: trouble }, `lists are read from the primary: ${REASONS[trouble]}`)
  }
}

const REASONS = {
  replica_unreachable: 'the replica cannot be reached; check DATABASE_REPLICA_URL and the server',
  not_a_replica: 'the server of DATABASE_REPLICA_URL is not a streaming replica',
  another_cluster: 'the server of DATABASE_REPLICA_URL is a replica of another one than that of DATABASE_URL',
  replica_behind: 'the replica is further behind than LOCKSTEP_REPLICA_LAG allows',
} as const

function checkOf(reads: Pick<ReplicaReads, 'state'>): HealthCheck {
  return {
    name: 'replica',
    critical: false,
    async check() {
      const { lagMs, trouble } = reads.state()
      if (trouble !== null && trouble !== 'replica_behind') throw new LockstepError(REASONS[trouble], { code: trouble })
      const lagSeconds = lagMs === null ? null : Math.round(lagMs / 100) / 10
      return { lagSeconds, ...(trouble === null ? {} : { code: trouble }) }
    },
  }
}
