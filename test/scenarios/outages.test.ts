import t from 'tap'
import { systemClock } from '../../src/lib/clock.js'
import { makeStripe, makeStripeAccount } from '../../src/stripe/account.js'
import { makeRuns } from '../../src/sync/runs.js'
import { testLog } from '../helpers/log.js'
import { eventually } from '../helpers/wait.js'
import { openParts } from './core.js'
import { HOUR, MINUTE, must, openScene } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: Stripe says no', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, unseen, eventsOf, rowOf, syncOf, linksOf, stripeOf } = scene
  const { calls, answers, stateOf, ageCreate, retryNow, restart, metric } = scene

  t.test('35. a storm of 429 during a backfill: all get through, no try counts, nobody tries in step', async (t) => {
    await pool.query(`
      create table tries (user_id uuid, attempts integer, wait_ms integer);
      create function note_try() returns trigger language plpgsql as $$ begin
        insert into tries values (new.user_id, new.attempts, extract(epoch from new.next_attempt_at - now()) * 1000);
        return null;
      end $$;
      create trigger note_try after update on sync_state for each row
        when (new.next_attempt_at is not null or new.attempts > 0) execute function note_try()`)
    controls.resetCalls()
    controls.changeSettings({ rateLimit: 10 })
    controls.faults.add({ operation: 'customers.create', kind: '429', times: 12 })
    await pool.query(`insert into users (email) select 'backfill' || n || '@example.com' from generate_series(1, 25) n`)
    await eventually(
      async () => (await pool.query("select from sync_state where status <> 'in_sync'")).rowCount === 0,
      { timeout: 90_000, what: 'the end of the backfill' },
    )
    await quiet()
    controls.changeSettings({ rateLimit: undefined })
    t.ok((answers('customers.create')[429] ?? 0) > 0, 'there was a storm')
    const { rows: tries } = await pool.query<{ attempts: number; wait_ms: number }>('select * from tries')
    t.ok(tries.length > 0)
    t.ok(
      tries.every(({ attempts }) => attempts === 0),
      'to be told to wait is no failure',
    )
    t.ok(new Set(tries.map(({ wait_ms }) => wait_ms)).size > tries.length / 2, 'each waits for another while')
    const made = scene.stripeCustomers().filter(({ email }) => email?.startsWith('backfill'))
    t.equal(made.length, 25)
    t.equal(new Set(made.map(({ email }) => email)).size, 25)

    // Another program holds the customer's lock; and of our own calls to one customer there is one at a time.
    const { id, stripeId } = await newCustomer({ email: 'locked@example.com' })
    controls.changeSettings({ latencyMs: 30 })
    controls.faults.add({ operation: 'customers.update', kind: 'lock_timeout', times: 2 })
    for (let n = 0; n < 10; n += 1) await api('PATCH', `/customers/${id}`, { description: `edit ${n}` })
    await quiet()
    controls.changeSettings({ latencyMs: 0 })
    t.match(stripeOf(stripeId), { description: 'edit 9' })
    t.match(await syncOf(id), { status: 'in_sync', attempts: 0, conflicts: [] })
    t.equal((await pool.query('select from tries where attempts > 0')).rowCount, 0)
    const { rows: overlapping } = await pool.query(
      `select from stripe_writes a join stripe_writes b on a.user_id = b.user_id and a.started_at < b.started_at
       where a.user_id = $1 and a.settled_at > b.started_at`,
      [id],
    )
    t.strictSame(overlapping, [])
    await pool.query('drop function note_try() cascade')

    await t.test('a run that it kept from its end has failed, and its mark stays', async (t) => {
      const parts = await openParts(t)
      const { db, vault, tenant, metrics } = parts
      const limiter = { take: async () => {}, slow: async () => {} }
      const stripe = makeStripe({ secretKey: 'sk_test_scenarios', apiBase: parts.url })
      const runs = makeRuns({
        filing: { fileDeliveries: async () => 0 },
        db,
        vault,
        accountOf: () => makeStripeAccount({ stripe, connectAccount: null, urgency: 'sweep', limiter, metrics }),
        enqueueRun: async () => {},
        wake() {},
        metrics,
        log: testLog,
        random: Math.random,
        timer: { now: systemClock.now, sleep: async () => {} },
      })
      for (const [kind, operation] of [
        ['sweep', 'customers.list'],
        ['catch_up', 'events.list'],
      ] as const) {
        const before = (await db.query('select events_read_through, swept_at from tenants'))[0]
        const ask = { tenantId: tenant.id, kind, dryRun: false, trigger: 'api', requestedBy: null } as const
        const storm = parts.controls.faults.add({ operation, kind: '429' })
        const failed = await runs.execute((await runs.start(ask)).id, new AbortController().signal)
        t.match(failed, { status: 'failed', error: { code: 'stripe_rate_limited' }, counts: { failed: 1 } }, kind)
        t.strictSame((await db.query('select events_read_through, swept_at from tenants'))[0], before)
        parts.controls.faults.remove(storm.id)
        parts.controls.faults.add({ operation, kind: '429', times: 3 })
        const passed = await runs.execute((await runs.start(ask)).id, new AbortController().signal)
        t.match(passed, { status: 'succeeded', error: null, counts: { failed: 0 } }, 'a passing storm is waited out')
      }
    })
  })

  t.test('40. redacted: buried, nothing of it comes home or goes back; a revoked key: the work waits', async (t) => {
    await t.test('redacted', async (t) => {
      const given = { firstName: 'Ada', phone: '+14155550140', description: 'private', metadata: { tier: 'gold' } }
      const finders: [string, (id: string) => Promise<unknown>][] = [
        ['a read', (id) => api('POST', `/customers/${id}/sync`, undefined, { prefer: 'wait=20' })],
        ['a sweep', () => scene.run('sweep')],
        [
          'a late event',
          async (id) => {
            const { stripe_customer_id } = await rowOf(id)
            // Redaction reaches older events too.
            controls.resendEvent(must(eventsOf(stripe_customer_id)[0]).id)
          },
        ],
      ]
      // A sweep lists what was made before it began: nothing here may lie ahead of the machine's clock.
      controls.setClock(Date.now() - 2 * MINUTE)
      for (const [n, [found, find]] of finders.entries()) {
        const { id, stripeId } = await newCustomer({ email: `redacted${n}@example.com`, ...given })
        await quiet()
        const before = await rowOf(id)
        unseen(() => {
          controls.updateCustomer(stripeId, { description: 'changed before' })
          controls.redactCustomer(stripeId)
        })
        controls.advanceClock(10_000)
        controls.resetCalls()
        await find(id)
        await quiet()
        const { email, phone, first_name, metadata } = before
        t.match(await rowOf(id), { email, phone, first_name, metadata, stripe_customer_id: null }, `found by ${found}`)
        t.notMatch(JSON.stringify(await stateOf(id)), '[redacted]')
        t.match(await syncOf(id), { status: 'detached' })
        t.match(await linksOf(id), [{ stripe_customer_id: stripeId, deleted_at: Date }])
        await api('PATCH', `/customers/${id}`, { description: 'edited after' }, { prefer: 'wait=20' })
        await quiet()
        t.strictSame([calls('customers.update'), calls('customers.create')], [0, 0], 'nothing goes back')
      }
      const unknown = unseen(() => {
        const { id } = controls.createCustomer({ email: 'unknown@example.com' })
        controls.redactCustomer(id)
        return id
      })
      controls.resendEvent(must(eventsOf(unknown)[0]).id)
      await quiet()
      await scene.run('sweep')
      t.strictSame(await scene.usersWith(unknown), [], 'and no user is made of placeholders')
    })

    await t.test('a revoked key', async (t) => {
      const pair = await newCustomer({ email: 'kept@example.com' })
      await quiet()
      controls.setDeliveryFaults({ drop: 1 })
      controls.setClock(Date.now() - 24 * HOUR)
      controls.faults.add({ operation: 'customers.create', kind: 'reset_after' })
      const { body: old } = await api('POST', '/customers', { email: 'old-create@example.com' })
      await ageCreate(old.id, '24 hours')
      const { create_key: key } = await stateOf(old.id)
      controls.setClock(Date.now())
      controls.setDeliveryFaults()

      for (const kind of ['403', '401'] as const) {
        controls.faults.remove()
        controls.resetCalls()
        controls.faults.add({ operation: '*', kind })
        await api('PATCH', `/customers/${pair.id}`, { description: `while ${kind}` })
        await retryNow(old.id)
        await scene.eventually(async () => (await metric('lockstep_lane_paused')) === 1, 'the alarm')
        t.match((await api('GET', '/health')).body.parts.stripe, { status: 'down', code: 'stripe_auth_failed' })
        const run = await scene.run('sweep')
        t.match(run, { status: 'failed', error: { code: 'stripe_auth_failed' } }, 'a run says so')
        await scene.eventually(
          async () => (await pool.query('select from sync_state where lease_expires_at > now()')).rowCount === 0,
          'workers at rest',
        )
        t.match(await stateOf(old.id), { create_key: key, status: 'pending' }, 'the create waits, with its key')
        t.match(await syncOf(pair.id), { status: 'pending', attempts: 0 }, 'and so does the edit')
        const refused = Object.values(controls.summary().calls).reduce((sum, { total }) => sum + total, 0)
        t.ok(refused <= 5, `the account is left alone: ${refused} calls`)
        t.notOk(eventsOf(pair.stripeId).some(({ type }) => type === 'customer.updated'))
      }
      controls.faults.remove()
      controls.resetCalls()
      await restart({ STRIPE_SECRET_KEY: 'sk_test_flows_renewed' })
      await pool.query('update tenants set lane_retry_at = now()')
      await quiet()
      t.equal(await metric('lockstep_lane_paused'), 0)
      t.match(stripeOf(pair.stripeId), { description: 'while 401' })
      t.strictSame(answers('customers.create'), {}, 'a create that old is looked for')
      const [customer, ...more] = scene.customersBy('old-create@example.com')
      t.strictSame(more, [])
      t.match(await syncOf(old.id), { status: 'in_sync', stripeCustomerId: must(customer).id })
    })
  })
})
