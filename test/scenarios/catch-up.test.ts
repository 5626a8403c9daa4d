import t from 'tap'
import { NO_COUNTS } from '../../src/models/reconciliation.js'
import { makeStripe } from '../../src/stripe/account.js'
import { sweep } from '../../src/sync/sweep.js'
import { testLog } from '../helpers/log.js'
import { openParts } from './core.js'
import { DAY, HOUR, MINUTE, must, openScene, SECOND } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: what never came, comes late, or changes while it is read', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, unseen, event, eventsOf, rowOf, syncOf, usersWith, run } = scene
  const { metric, answers, restart } = scene
  const runs = async () => (await api('GET', '/reconciliations?limit=100')).body.data
  const readThrough = async () =>
    (await pool.query("select events_read_through as t from tenants where slug = 'default'")).rows[0].t as Date

  // A run reads what was made before it began: the edits of a test must not lie ahead of the machine's clock.
  t.beforeEach(() => {
    controls.setClock(Date.now() - MINUTE)
  })

  t.test('5. away for ten days: all is caught up; for forty: the lists are compared', async (t) => {
    for (const [days, hasSweep] of [
      [10, false],
      [40, true],
    ] as const) {
      controls.setDeliveryFaults({ drop: 1 })
      controls.setClock(Date.now() - days * DAY)
      const kept = await newCustomer({ email: `kept-${days}@example.com` })
      const gone = await newCustomer({ email: `gone-${days}@example.com` })
      await quiet()
      controls.advanceClock(HOUR)
      controls.updateCustomer(kept.stripeId, { description: `${days} days ago` })
      controls.deleteCustomer(gone.stripeId)
      const { id: fresh } = controls.createCustomer({ email: `fresh-${days}@example.com` })
      controls.setClock(Date.now())
      controls.setDeliveryFaults()
      await pool.query(`update tenants set events_read_through = now() - $1 * interval '1 day'`, [days])
      const before = (await runs()).length

      await restart({})
      await quiet()
      const started = (await runs()).slice(0, -before)
      t.ok(started.every((one: { status: string }) => one.status === 'succeeded'))
      t.strictSame(
        started.map(({ kind, trigger }: Record<string, string>) => `${kind} by ${trigger}`).sort(),
        hasSweep ? ['catch_up by start', 'sweep by start'] : ['catch_up by start'],
      )
      t.match(await rowOf(kept.id), { description: `${days} days ago` })
      t.match(await syncOf(gone.id), { status: 'detached' })
      t.match(await usersWith(fresh), [{ email: `fresh-${days}@example.com` }])
      t.ok((await readThrough()).getTime() > Date.now() - HOUR, 'and the mark is near now')
    }
  })

  t.test('4. deliveries lost for good: the catch-up heals it, and tells that the webhook missed them', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'missed@example.com' })
    const gone = await newCustomer({ email: 'missed-too@example.com' })
    await run('catch_up')
    await quiet()
    const fresh = unseen(() => {
      controls.updateCustomer(stripeId, { description: 'missed' })
      controls.deleteCustomer(gone.stripeId)
      return controls.createCustomer({ email: 'unseen@example.com' }).id
    })
    const missed = await metric('lockstep_events_caught_up_total')
    t.match(await run('catch_up'), { status: 'succeeded', counts: { missed: 3 } })
    await quiet()
    t.equal(await metric('lockstep_events_caught_up_total'), missed + 3, 'an alert hangs on this figure')
    t.match(await event(must(eventsOf(stripeId)[0]).id), { status: 'processed', source: 'catch_up' })
    t.match(await rowOf(id), { description: 'missed' })
    t.match(await syncOf(gone.id), { status: 'detached' })
    t.equal((await usersWith(fresh)).length, 1)
    const again = await run('catch_up')
    t.match(again, { status: 'succeeded', counts: { missed: 0 } }, 'what it reads twice it takes once')
    t.ok(again.counts.checked >= 3, 'and it does read an overlap')
  })

  t.test('39. an event that shows late, or of the very second read through: found all the same', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'late@example.com' })
    await run('catch_up')
    await quiet()
    controls.changeSettings({ eventVisibilityLagMs: MINUTE })
    unseen(() => controls.updateCustomer(stripeId, { description: 'shows late' }))
    t.match(await run('catch_up'), { status: 'succeeded', counts: { missed: 0 } })
    t.match(await rowOf(id), { description: null })
    t.ok((await readThrough()).getTime() <= Date.now() - 5 * MINUTE, 'nothing of the last minutes counts as read')
    controls.changeSettings({ eventVisibilityLagMs: 0 })
    t.match(await run('catch_up'), { status: 'succeeded', counts: { missed: 1 } })
    await quiet()
    t.match(await rowOf(id), { description: 'shows late' })

    unseen(() => controls.updateCustomer(stripeId, { description: 'of that second' }))
    const { created } = must(eventsOf(stripeId)[0])
    await pool.query('update tenants set events_read_through = to_timestamp($1) + $2', [created, '0.9 seconds'])
    t.match(await run('catch_up'), { status: 'succeeded', counts: { missed: 1 } })
    await quiet()
    t.match(await rowOf(id), { description: 'of that second' })
  })

  t.test('38. the list changes while it is read: nothing is skipped, taken twice, or taken for deleted', async (t) => {
    await quiet()
    await scene.settings({ onRemoteCreate: 'ignore' })
    const oldest = await newCustomer({ email: 'oldest@example.com' })
    const alive = await newCustomer({ email: 'alive@example.com' })
    await quiet()
    unseen(() => {
      controls.updateCustomer(oldest.stripeId, { description: 'on the second page' })
      for (let n = 0; n < 120; n += 1) controls.createCustomer({ email: `filler${n}@example.com` })
    })
    controls.advanceClock(2 * SECOND)
    const newest = await newCustomer({ email: 'newest@example.com' })
    const dead = await newCustomer({ email: 'dead@example.com' })
    await quiet()
    unseen(() => controls.deleteCustomer(dead.stripeId))
    // This one will not be where its link says: absence alone proves nothing.
    await pool.query(
      `update stripe_links set stripe_created = (select stripe_created from stripe_links where user_id = $1)
       where user_id = $2`,
      [newest.id, alive.id],
    )
    controls.resetCalls()
    controls.faults.add({ operation: 'customers.list', kind: 'delay', delayMs: 700 })
    const swept = run('sweep')
    await scene.eventually(() => scene.calls('customers.list') === 1, 'the first page')
    const cursor = must(scene.stripeCustomers().reverse()[99]).id
    let during = ''
    unseen(() => {
      controls.deleteCustomer(cursor)
      during = controls.createCustomer({ email: 'during@example.com' }).id
    })
    const { counts, status } = await swept
    controls.faults.remove()
    await quiet()
    t.equal(status, 'succeeded')
    t.equal(answers('customers.list')[400], 1, 'the cursor was gone')
    t.match(await rowOf(oldest.id), { description: 'on the second page' }, 'what comes after it is seen')
    t.match(counts, { fixed: 1, orphaned: 2 })
    t.match(await syncOf(dead.id), { status: 'detached' }, 'not listed, asked for, and gone')
    t.match(await syncOf(alive.id), { status: 'in_sync', stripeCustomerId: alive.stripeId }, 'not listed, but there')
    t.match(await syncOf(newest.id), { status: 'in_sync' })
    const ids = new Set(scene.stripeCustomers().map(({ id }) => id))
    t.ok(ids.has(during) && !ids.has(cursor))

    await t.test('an event that races the page', async (t) => {
      const parts = await openParts(t)
      for (const which of ['older', 'newer'] as const) {
        const id = await parts.addUser(`${which}@example.com`)
        const { stripeCustomerId } = (await parts.reconcile(id)) as { stripeCustomerId: string }
        parts.controls.advanceClock(10 * SECOND)
        const edit = (description: string) => parts.controls.updateCustomer(stripeCustomerId, { description })
        edit('one')
        const [one] = parts.eventsOf(stripeCustomerId)
        if (which === 'older') edit('two')
        await sweepWith(parts, async () => {
          // The page is here, not yet compared; the event of a later change, or of an earlier one, is settled first.
          if (which === 'newer') edit('two')
          await parts.comeIn(which === 'newer' ? must(parts.eventsOf(stripeCustomerId)[0]) : must(one))
          await parts.reconcile(id)
        })
        t.match(await parts.reconcile(id), { outcome: 'settled', status: 'in_sync' })
        const { rows } = await parts.pool.query('select description from users where id = $1', [id])
        t.match(rows, [{ description: 'two' }], `the page is of before an event that was ${which}`)
        t.match(parts.controls.getCustomer(stripeCustomerId), { description: 'two' })
      }
    })

    await t.test('a run that is broken off and taken up again skips nothing of what was in flight', async (t) => {
      const parts = await openParts(t)
      const { runs: work, tenant } = parts
      parts.controls.setClock(Date.now() - MINUTE)
      const id = await parts.addUser('first@example.com')
      const { stripeCustomerId } = (await parts.reconcile(id)) as { stripeCustomerId: string }
      parts.controls.advanceClock(10 * SECOND)
      parts.controls.updateCustomer(stripeCustomerId, { description: 'on the second page' })
      for (let n = 0; n < 120; n += 1) parts.controls.createCustomer({ email: `later${n}@example.com` })
      const ask = { tenantId: tenant.id, dryRun: false, trigger: 'api', requestedBy: null } as const
      const { id: runId } = await work.start({ ...ask, kind: 'sweep' })
      const stop = new AbortController()
      t.equal(await work.execute(runId, stop.signal, () => stop.abort()), null, 'stopped after the first page')
      t.match(await work.get(tenant.id, runId), { status: 'running', progress: { phase: 'stripe' } })
      const breaks = () => {
        throw new Error('as a process does whose database went away')
      }
      await t.rejects(work.execute(runId, new AbortController().signal, breaks), /went away/)
      t.match((await parts.pool.query('select lease_expires_at as until from reconciliations')).rows, [{ until: null }])
      const resumed = await work.execute(runId, new AbortController().signal)
      t.match(resumed, { status: 'succeeded', counts: { created: 120, fixed: 1, orphaned: 0 } })
      const { rows } = await parts.pool.query('select count(distinct stripe_customer_id)::int as n from stripe_links')
      t.match(rows, [{ n: 121 }])
      await parts.reconcile(id)
      t.match((await parts.pool.query('select description from users where id = $1', [id])).rows, [
        { description: 'on the second page' },
      ])
    })
  })
})

/** A sweep in which something happens between the answer of the first page and its comparison. */
async function sweepWith(parts: Awaited<ReturnType<typeof openParts>>, between: () => Promise<void>): Promise<void> {
  const stripe = makeStripe({ secretKey: 'sk_test_scenarios', apiBase: parts.url })
  await sweep({
    db: parts.db,
    vault: parts.vault,
    cause: 'run:scenario',
    tenant: parts.tenant,
    account: {
      async call(_operation, ask) {
        const answer = await ask(stripe, {})
        await between()
        return answer
      },
    },
    dryRun: false,
    log: testLog,
    lanes: 1,
    startedAt: new Date(parts.controls.now()),
    progress: {},
    counts: { ...NO_COUNTS },
    onProgress: async () => {},
    signal: new AbortController().signal,
  })
}
