import type { Core } from '../core.js'
import type { HealthCheck } from '../http/health.js'
import { LockstepError } from '../lib/errors.js'
import type { Metrics } from '../lib/metrics.js'
import { queueNames } from '../queue/queues.js'
import { dirtyFigures } from '../repositories/dirty-users.js'
import { inboxFigures } from '../repositories/stripe-events.js'
import { laneFigures } from '../repositories/tenants.js'

/** An event, or a dirty user, that has waited longer says that the service does not keep up, in seconds. */
const BEHIND_AFTER = { inbox: 60, sync: 300 }

/** What /health asks, and what stands in its answer. */
export function healthChecks(core: Core, isIsolated: boolean): HealthCheck[] {
  return [
    {
      name: 'database',
      critical: true,
      check: async () => {
        await core.db.query('select 1')
        return { rowSecurity: isIsolated }
      },
    },
    {
      name: 'queue',
      critical: false,
      check: async () => {
        await core.queue.ping()
        return { backend: core.queue.kind }
      },
    },
    {
      name: 'inbox',
      critical: false,
      check: async () => {
        const figures = await inboxFigures(core.db)
        return { ...figures, ...(figures.oldestSeconds > BEHIND_AFTER.inbox ? { code: 'inbox_behind' } : {}) }
      },
    },
    {
      name: 'sync',
      critical: false,
      check: async () => {
        const { dirty, oldestSeconds, unhealthy } = await dirtyFigures(core.db)
        const isBehind = oldestSeconds > BEHIND_AFTER.sync
        return { dirty, oldestSeconds, ...unhealthy, ...(isBehind ? { code: 'sync_behind' } : {}) }
      },
    },
    {
      name: 'stripe',
      critical: false,
      check: async () => {
        const { connected, refused } = await laneFigures(core.db)
        if (refused === connected) throw new LockstepError('Stripe refuses every key.', { code: 'stripe_auth_failed' })
        return {
          simulator: core.simulatorUrl !== null,
          livemode: core.accounts.platformLivemode,
          refused,
          ...(refused > 0 ? { code: 'stripe_auth_failed' } : {}),
        }
      },
    },
  ]
}

/** Sets what /metrics shows of the state of things, in the database and in the queue. */
export async function setGauges(core: Core, metrics: Metrics): Promise<void> {
  const [inbox, dirty, lanes] = await Promise.all([inboxFigures(core.db), dirtyFigures(core.db), laneFigures(core.db)])
  metrics.inboxDepth.set({ status: 'pending' }, inbox.pending)
  metrics.inboxDepth.set({ status: 'failed' }, inbox.failed)
  metrics.inboxAge.set(inbox.oldestSeconds)
  metrics.dirtyUsers.set(dirty.dirty)
  metrics.dirtyAge.set(dirty.oldestSeconds)
  for (const status of ['failed', 'conflict', 'detached'])
    metrics.unhealthyUsers.set({ status }, dirty.unhealthy[status] ?? 0)
  metrics.lanePaused.set(lanes.refused)
  const counts = await core.producer.counts().catch(() => null)
  if (counts === null) return
  for (const queue of queueNames) {
    for (const [state, count] of Object.entries(counts[queue])) metrics.queueJobs.set({ queue, state }, count)
  }
}
