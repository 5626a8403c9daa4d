import t from 'tap'
import { SCHEDULE } from '../../src/jobs/schedule.js'
import { backends, startService } from '../helpers/service.js'

for (const backend of backends) {
  t.test(`runs (queue on ${backend})`, async (t) => {
    const { api, pool, simulator, newCustomer, quiet, run, settings, stripeCustomers } = await startService(t, {
      backend,
    })
    const { controls } = simulator
    await quiet()

    t.test('a hundred events that never came: after a catch-up nothing is missing', async (t) => {
      const users = await Promise.all(
        Array.from({ length: 10 }, (_, n) => newCustomer({ email: `missed${n}@example.com` })),
      )
      await quiet()
      controls.setDeliveryFaults({ drop: 1 })
      for (let n = 0; n < 90; n += 1) {
        controls.updateCustomer(users[n % 10]?.stripeId ?? '', { description: `edit ${n}` })
      }
      for (let n = 0; n < 10; n += 1) controls.createCustomer({ email: `unseen${n}@example.com` })
      controls.setDeliveryFaults()
      const caughtUp = await run('catch_up')
      t.match(caughtUp, { status: 'succeeded', error: null })
      t.ok(caughtUp.counts.missed >= 100, `${caughtUp.counts.missed} found`)
      await quiet()
      for (const [n, { id }] of users.entries()) {
        t.match((await api('GET', `/customers/${id}`)).body, {
          description: `edit ${80 + n}`,
          sync: { status: 'in_sync' },
        })
      }
      t.equal((await pool.query(`select from users where email like 'unseen%'`)).rowCount, 10)
      t.match((await run('catch_up')).counts, { missed: 0 }, 'and a second one finds nothing')
    })

    t.test('a sweep finds every kind of drift; a dry run says the same and changes nothing', async (t) => {
      const [changed, gone, fine] = await Promise.all([
        newCustomer({ email: 'changed@example.com' }),
        newCustomer({ email: 'gone@example.com' }),
        newCustomer({ email: 'fine@example.com' }),
      ])
      await settings({ policies: { description: 'manual' } })
      await quiet()
      controls.setDeliveryFaults({ drop: 1 })
      controls.updateCustomer(changed?.stripeId ?? '', { name: 'Drifted Away' })
      controls.deleteCustomer(gone?.stripeId ?? '')
      controls.createCustomer({ email: 'stranger@example.com' })
      controls.createCustomer({ email: 'fine@example.com' })
      controls.setDeliveryFaults()
      const found = { created: 2, linked: 0, fixed: 1, duplicate: 1, orphaned: 1, failed: 0 }

      const before = await pool.query('select * from sync_state order by user_id')
      t.match(await run('sweep', true), { status: 'succeeded', dryRun: true, counts: found })
      t.strictSame((await pool.query('select * from sync_state order by user_id')).rows, before.rows)

      t.match(await run('sweep'), { status: 'succeeded', counts: found })
      await quiet()
      t.match((await api('GET', `/customers/${changed?.id}`)).body, { firstName: 'Drifted', lastName: 'Away' })
      t.match((await api('GET', `/customers/${gone?.id}/sync`)).body, { status: 'detached' })
      t.match((await api('GET', `/customers/${fine?.id}/sync`)).body, { status: 'in_sync' })
      t.equal((await pool.query(`select from users where email = 'stranger@example.com'`)).rowCount, 1)
      t.match(
        (await run('sweep', true)).counts,
        { created: 0, fixed: 0, duplicate: 0, orphaned: 0 },
        'no drift is left',
      )
    })

    t.test('more customers than a page holds, many of one second: all are seen, none twice', async (t) => {
      controls.setDeliveryFaults({ drop: 1 })
      controls.freezeClock()
      for (let n = 0; n < 150; n += 1) controls.createCustomer({ email: `page${n}@example.com` })
      controls.unfreezeClock()
      controls.setDeliveryFaults()
      t.match((await run('sweep')).counts, { created: 150, orphaned: 0 })
      await quiet()
      t.equal((await pool.query(`select from users where email like 'page%'`)).rowCount, 150)
      t.match((await run('sweep', true)).counts, { created: 0, fixed: 0, orphaned: 0 })
      const owners = stripeCustomers().map(({ metadata }) => metadata.lockstep_user_id)
      t.equal(new Set(owners).size, owners.length)
    })

    t.test('a run of which a part fails is a failed run', async (t) => {
      controls.faults.add({ operation: 'customers.list', kind: '403' })
      const failed = await run('sweep', true)
      controls.faults.remove()
      t.match(failed, { status: 'failed', error: { code: 'stripe_auth_failed' }, counts: { failed: 1 } })
      t.match((await api('GET', '/reconciliations?limit=1')).body.data, [{ id: failed.id, status: 'failed' }])
    })

    t.test('the crontab is on the server', async (t) => {
      const { body } = await api('GET', '/metrics')
      const delayed = Number(/lockstep_queue_jobs\{queue="schedule",state="delayed"\} (\d+)/.exec(body)?.[1])
      t.ok(delayed >= SCHEDULE.length - 1, `${delayed} ticks wait`)
    })
  })
}
