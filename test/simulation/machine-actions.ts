import type { FaultKind } from '../../src/simulator/faults.js'
import type { Action, ActionKind } from './config.js'
import { accountOf, type Moves } from './moves.js'
import { OLD_SECRET, SECRET, type World } from './world.js'

const TICKS = [
  [3, 1],
  [4, 300],
  [6, 1_000],
  [5, 2_500],
  [4, 6_000],
  [4, 11_000],
  [4, 35_000],
  [3, 130_000],
  [2, 620_000],
  [2, 3_700_000],
  [1, 25 * 3_600_000],
] as const

const FAULTS: readonly (readonly [number, FaultKind])[] = [
  [3, '429'],
  [1, 'lock_timeout'],
  [3, '500'],
  [3, '500_after'],
  [2, 'timeout_before'],
  [3, 'timeout_after'],
  [2, 'reset_before'],
  [3, 'reset_after'],
  [1, 'truncate'],
  [1, '401'],
  [1, '403'],
  [1, 'wrong_mode'],
]

/** What the machines do, and what befalls them: deliveries, jobs, runs, faults, crashes, time. */
export function machineActions(world: World, moves: Moves) {
  const { lab, scheduler, stripe, trace } = world
  const { overseer } = lab
  const { someUser, someTenant, by, reconcile, execute, startRun, tick } = moves

  return {
    async deliver() {
      if (world.choices.chance(0.06)) {
        const tenant = someTenant()
        const events = stripe.controls.events(accountOf(tenant).account)
        if (events.length > 0) {
          const event = world.choices.pick(events)
          stripe.controls.resendEvent(event.id, accountOf(tenant).account)
          trace.note(`Stripe sends ${event.id} again`)
        }
      }
      for (let count = 1 + world.choices.int(4); count > 0; count -= 1) if (!(await world.deliver())) return
    },

    async drain() {
      const process = world.worker()
      await scheduler.start(process, 'drain', () => process.drain.drainBatch())
    },

    async relay() {
      const process = world.worker()
      await scheduler.start(process, 'relay', () => process.relay.relayBatch())
    },

    async work() {
      const queued = [...world.queue]
      // Now and then without a job: the API reconciles while its caller waits, or the queue gives a job twice.
      const userId =
        queued.length > 0 && !world.choices.chance(0.05) ? world.choices.pick(queued) : (await someUser())?.id
      if (userId !== undefined) {
        if (!world.choices.chance(0.1)) world.queue.delete(userId)
        await reconcile(world.worker(), userId)
      }
      const [runId] = world.runQueue
      if (runId !== undefined) {
        world.runQueue.delete(runId)
        await execute(world.worker(), runId)
      }
    },

    async tick() {
      await tick(world.choices.weighted(TICKS))
    },

    async stripeFault() {
      for (let count = world.choices.weighted([[4, 1] as const, [1, 4] as const]); count > 0; count -= 1) {
        const kind = world.choices.weighted(FAULTS)
        world.network.nextFault(kind)
        lab.count('Stripe fault', kind)
        trace.note(`the next call to Stripe meets ${kind}`)
      }
    },

    async databaseFault() {
      world.nextDatabaseFault = world.choices.pick(['fail', 'fail-late'] as const)
      trace.note(`the next statement meets a broken connection (${world.nextDatabaseFault})`)
    },

    async crash() {
      await world.crash(world.choices.pick(['worker-1', 'worker-2', 'api'] as const))
    },

    async flushQueue() {
      trace.note(`the queue forgets ${world.queue.size + world.runQueue.size} jobs`)
      lab.count('queue', 'flushed')
      world.queue.clear()
      world.runQueue.clear()
    },

    async catchUp() {
      await startRun('catch_up')
    },

    async sweep() {
      await startRun('sweep')
    },

    async stuckWork() {
      const process = world.worker()
      await scheduler.start(process, 'stuck-work', () => process.tasks_['stuck-work'](new AbortController().signal))
    },

    async syncRequest() {
      const user = await someUser()
      if (user === null) return
      const { control } = world.process('api')
      await scheduler.start(world.process('api'), `POST sync ${user.id}`, () =>
        control.markForSync(user.tenantId, user.id, by(user.tenantId)),
      )
    },

    async resolveConflict() {
      const open = await overseer.query<{ id: string; tenantId: string; userId: string; field: string }>(
        `select id, tenant_id as "tenantId", user_id as "userId", field from sync_conflicts where status = 'open' order by id`,
      )
      if (open.length === 0) return
      const conflict = world.choices.pick(open)
      const winner = world.choices.pick(['local', 'stripe'] as const)
      const { control } = world.process('api')
      await scheduler.start(world.process('api'), `resolve ${conflict.field} for ${winner}`, () =>
        control.resolveConflict(conflict.tenantId, conflict.id, winner, by(conflict.tenantId)),
      )
    },

    async replayEvent() {
      const events = await overseer.query<{ id: string; tenantId: string }>(
        `select id, tenant_id as "tenantId" from stripe_events where status = 'processed' order by received_at, created, id`,
      )
      if (events.length === 0) return
      const event = world.choices.pick(events)
      const { control } = world.process('api')
      await scheduler.start(world.process('api'), `replay ${event.id}`, () =>
        control.replayEvent(event.tenantId, event.id, by(event.tenantId)),
      )
    },

    async rotateSecret() {
      const webhookSecret = world.choices.pick([SECRET, OLD_SECRET, `${SECRET},${OLD_SECRET}`])
      stripe.controls.changeSettings({ webhookSecret })
      trace.note(`Stripe signs with ${webhookSecret}`)
    },
  } satisfies Partial<Record<ActionKind, (action: Action) => Promise<void>>>
}
