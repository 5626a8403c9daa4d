import { type Metrics, makeMetrics } from '../../src/lib/metrics.js'
import type { PrismaClient } from '../../src/repositories/generated/client.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { Overseer, SimPool, signal } from './database.js'
import type { Locks, Task } from './scheduler.js'
import type { World } from './world.js'

/**
 * What outlives a run, since it is dear to make: connections, the Prisma client, the metrics, which add up over all runs. One
 * world at a time lives in it.
 */
export class Lab {
  readonly overseer: Overseer
  readonly metrics: Metrics = makeMetrics()
  prisma: PrismaClient
  /** How often things happened that the service's own metrics don't tell, by kind and name. */
  readonly counts = new Map<string, number>()
  readonly #url: string
  readonly #pools = new Map<string, SimPool>()
  world: World | null = null

  private constructor(url: string, overseer: Overseer) {
    this.#url = url
    this.overseer = overseer
    this.prisma = openPrisma(this.pool('people'))
  }

  /** @param url an empty, migrated database of the simulation's own */
  static async open(url: string): Promise<Lab> {
    return new Lab(url, await Overseer.connect(url))
  }

  /** The connections of a process, also of one that takes a dead one's place. */
  pool(name: string): SimPool {
    const known = this.#pools.get(name)
    if (known !== undefined) return known
    const lab = this
    const pool = new SimPool(this.#url, `simulation ${name}`, {
      get scheduler() {
        return lab.#world().scheduler
      },
      now: () => lab.#world().clock.now(),
      gone: (backends) => lab.overseer.gone(backends),
    })
    this.#pools.set(name, pool)
    return pool
  }

  pools(): SimPool[] {
    return [...this.#pools.values()]
  }

  /** Who waits for whom in Postgres. */
  readonly locks: Locks = {
    waits: async (tasks) => {
      const busy = new Map(this.pools().flatMap((pool) => [...pool.busy()]))
      const backends = [...busy].filter(([, task]) => tasks.includes(task)).map(([backend]) => backend)
      const waits = new Map<Task, Task[]>()
      for (const [backend, blockers] of await this.overseer.lockWaits(backends)) {
        const task = busy.get(backend)
        const others = blockers.flatMap((blocker) => busy.get(blocker) ?? [])
        if (task === undefined || others.length === 0) continue
        if (!task.isBlocked) this.count('lock', 'waited for')
        waits.set(task, others)
      }
      return waits
    },
    breakDeadlock: async (victim) => {
      this.count('lock', 'deadlock')
      for (const backend of this.#backendsOf(victim)) await this.overseer.breakDeadlock(backend)
    },
    stop: (task) => {
      for (const backend of this.#backendsOf(task)) signal(backend, 'SIGSTOP')
    },
    go: (task) => {
      for (const backend of this.#backendsOf(task)) signal(backend, 'SIGCONT')
    },
  }

  #backendsOf(task: Task): number[] {
    return this.pools()
      .flatMap((pool) => [...pool.busy()])
      .filter(([, user]) => user === task)
      .map(([backend]) => backend)
  }

  dropPool(name: string): void {
    this.#pools.delete(name)
  }

  /** Gives up all connections; the next run begins with new ones. */
  async renew(): Promise<void> {
    const pools = this.pools()
    const backends = pools.flatMap((pool) => pool.backends())
    this.#pools.clear()
    for (const pool of pools) pool.destroy()
    await this.overseer.gone(backends)
    this.prisma = openPrisma(this.pool('people'))
  }

  count(kind: string, name: string, by = 1): void {
    const key = `${kind}: ${name}`
    this.counts.set(key, (this.counts.get(key) ?? 0) + by)
  }

  async close(): Promise<void> {
    await this.prisma.$disconnect()
    for (const pool of this.#pools.values()) await pool.end()
    await this.overseer.close()
  }

  #world(): World {
    if (this.world === null) throw new Error('no world lives in the lab')
    return this.world
  }
}
