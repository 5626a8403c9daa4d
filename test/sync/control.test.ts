import t from 'tap'
import { systemClock } from '../../src/lib/clock.js'
import { makeSyncControl } from '../../src/sync/control.js'
import { openTestCore } from '../helpers/core.js'

t.test('who waits is served past a queue that does not come to it, ahead of other calls', async (t) => {
  // No worker and no relay run here: nobody else would ever reconcile.
  const core = await openTestCore(t)
  const parts = { db: core.db, vault: core.vault, timer: systemClock, wake() {} }
  const { rows } = await core.pool.query(
    "insert into users (email) values ('ada@example.com'), ('bob@example.com') returning id",
  )
  const [ada, bob] = rows.map((row) => row.id as string)

  const queueAlone = makeSyncControl(parts)
  t.equal(await queueAlone.waitUntilSettled(core.tenant.id, ada ?? '', 700), 'timeout')

  const control = makeSyncControl({ ...parts, reconcileNow: core.reconcileNow })
  t.equal(await control.waitUntilSettled(core.tenant.id, ada ?? '', 20_000), 'settled')
  t.equal(core.controls.dump({ limit: 10 }).data.length, 1)
  const figures = await core.metrics.registry.metrics()
  t.match(figures, /lockstep_stripe_wait_seconds_count\{urgency="interactive"\} [1-9]/)
  t.notMatch(figures, /lockstep_stripe_wait_seconds_count\{urgency="push"\}/)
  t.match(figures, 'lockstep_stripe_rate_share 1')

  t.equal((await core.reconcile(bob ?? '')).outcome, 'settled')
  t.match(await core.metrics.registry.metrics(), /lockstep_stripe_wait_seconds_count\{urgency="push"\} [1-9]/)
})

t.test('a failure that passes is left to its own time', async (t) => {
  const core = await openTestCore(t)
  const { rows } = await core.pool.query("insert into users (email) values ('late@example.com') returning id")
  let tries = 0
  const control = makeSyncControl({
    db: core.db,
    vault: core.vault,
    timer: systemClock,
    wake() {},
    reconcileNow: async () => {
      tries += 1
      throw new Error('the database went away')
    },
  })
  t.equal(await control.waitUntilSettled(core.tenant.id, rows[0].id, 1_500), 'timeout')
  t.equal(tries, 1)
})
