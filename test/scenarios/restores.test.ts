import { Redis } from 'ioredis'
import t from 'tap'
import { eventually } from '../helpers/wait.js'
import { keepBackup } from './backup.js'
import { HOUR, MINUTE, must, openScene, PATIENCE } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: Postgres goes back in time', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, event, eventsOf, rowOf, syncOf, stripeOf, restart, metric } = scene

  t.test(
    '37. Postgres comes back as of six hours ago: nothing is made twice, and what came since is found',
    async (t) => {
      controls.setDeliveryFaults({ drop: 1 })
      controls.setClock(Date.now() - 6 * HOUR)
      const edited = await newCustomer({ email: 'edited@example.com', description: 'as of the backup' })
      const theirs = await newCustomer({ email: 'theirs@example.com', description: 'as of the backup' })
      const deleted = await newCustomer({ email: 'deleted@example.com' })
      controls.faults.add({ operation: 'customers.create', kind: 'reset_before' })
      const { body: intended } = await api('POST', '/customers', { email: 'intended@example.com' })
      await eventually(async () => (await syncOf(intended.id)).attempts > 0, PATIENCE)
      await pool.query(`update tenants set events_read_through = now() - interval '6 hours'`)
      const backup = await keepBackup(pool, `insert into users (email) values ('unsent@example.com')`)
      controls.faults.remove()

      controls.advanceClock(MINUTE)
      const lost = await newCustomer({ email: 'lost-row@example.com', firstName: 'Lost', lastName: 'Row' })
      await api('PATCH', `/customers/${edited.id}`, { description: 'edited here since' }, { prefer: 'wait=20' })
      controls.updateCustomer(theirs.stripeId, { description: 'edited there since' })
      controls.deleteCustomer(deleted.stripeId)
      await quiet()
      const unsent = (await pool.query("select * from users where email = 'unsent@example.com'")).rows[0]
      const bound = { unsent: unsent.stripe_customer_id, intended: (await rowOf(intended.id)).stripe_customer_id }
      t.match(bound, { unsent: /^cus_/, intended: /^cus_/ })
      const before = scene.stripeCustomers().map(({ id }) => id)

      controls.setClock(Date.now())
      controls.setDeliveryFaults()
      controls.resetCalls()
      await backup.restore()
      t.match(await rowOf(edited.id), { description: 'as of the backup' })
      t.match(await rowOf(unsent.id), { stripe_customer_id: null })
      t.equal(await rowOf(lost.id), undefined)
      await restart({})
      await quiet()

      t.strictSame(
        scene.stripeCustomers().map(({ id }) => id),
        before,
        'no customer is made twice',
      )
      t.match(await rowOf(unsent.id), { stripe_customer_id: bound.unsent })
      t.match(await rowOf(intended.id), { stripe_customer_id: bound.intended })
      t.match(await rowOf(edited.id), { description: 'edited here since' }, 'comes home from Stripe')
      t.match(await rowOf(theirs.id), { description: 'edited there since' })
      t.match(stripeOf(edited.stripeId), { description: 'edited here since' }, 'and is not undone there')
      t.match(await syncOf(deleted.id), { status: 'detached' })
      const again = await scene.usersWith(lost.stripeId)
      t.match(again, [{ email: 'lost-row@example.com', first_name: 'Lost' }], 'a row that was lost is there again')
      t.match(await event(must(eventsOf(theirs.stripeId)[0]).id), { source: 'catch_up', status: 'processed' })
      const { rows } = await pool.query(
        "select * from tenants where slug = 'default' and events_read_through > now() - interval '1 hour'",
      )
      t.equal(rows.length, 1, 'the mark has come forward again')
      t.equal(await metric('lockstep_users{status="failed"}'), 0)
    },
  )
})

t.test(
  '36. Redis is flushed: Postgres knows all that is to be done; nothing is lost, nothing made twice',
  { skip: process.env.TEST_REDIS_URL === undefined && 'no Redis here: set TEST_REDIS_URL' },
  async (t) => {
    const database = 11
    const scene = await openScene(t, { backend: 'redis', redisDb: database })
    const { pool, controls, quiet, unseen, metric } = scene
    const url = new URL(process.env.TEST_REDIS_URL ?? '')
    url.pathname = `/${database}`
    const redis = new Redis(url.href)
    t.teardown(() => redis.disconnect())
    const pair = await scene.newCustomer({ email: 'there@example.com' })
    await quiet()

    controls.resetCalls()
    controls.changeSettings({ latencyMs: 40 })
    await pool.query(`insert into users (email) select 'flushed' || n || '@example.com' from generate_series(1, 60) n`)
    for (const done of [5, 20, 35]) {
      await scene.eventually(() => scene.calls('customers.create') >= done, `${done} creates`)
      await redis.flushdb()
      // What the queue lost is found again after 15 s: that is waited for only once.
      if (done < 35) await pool.query('update sync_state set enqueued_until = null where dirty')
    }
    unseen(() => controls.updateCustomer(pair.stripeId, { description: 'told while Redis was empty' }))
    await scene.deliver(must(scene.eventsOf(pair.stripeId)[0]))
    await redis.flushdb()
    controls.changeSettings({ latencyMs: 0 })
    await scene.eventually(
      async () => (await pool.query(`select from sync_state where status <> 'in_sync'`)).rowCount === 0,
      'all of them',
    )
    await quiet()
    const made = scene.stripeCustomers().filter(({ email }) => email?.startsWith('flushed'))
    t.equal(made.length, 60)
    t.equal(new Set(made.map(({ email }) => email)).size, 60)
    t.match(await scene.rowOf(pair.id), { description: 'told while Redis was empty' })
    await scene.eventually(
      async () => (await metric('lockstep_queue_jobs{queue="schedule",state="delayed"}')) >= 3,
      'the crontab, which was flushed too',
    )
  },
)
