import t from 'tap'
import { makeApiKeys } from '../../src/access/keys.js'
import { systemClock } from '../../src/lib/clock.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { eventually } from '../helpers/wait.js'
import { must, openScene, PATIENCE } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: what is gone stays gone, and nothing else goes', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, unseen, event, eventsOf, rowOf, syncOf, linksOf, stripeOf } = scene
  const { answers, calls, metric, conflictsOf } = scene

  t.test('18. deleted there while an edit waits here: asked once, buried, shown, never made again', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'buried@example.com' })
    await quiet()
    unseen(() => {
      controls.updateCustomer(stripeId, { description: 'their edit' })
      controls.deleteCustomer(stripeId)
    })
    const late = must(eventsOf(stripeId)[1])
    controls.resetCalls()
    await api('PATCH', `/customers/${id}`, { description: 'our edit' }, { prefer: 'wait=20' })
    await quiet()
    t.strictSame(answers('customers.update'), { 400: 1 }, 'resource_missing alone proves nothing')
    t.equal(calls('customers.retrieve'), 1, 'the customer itself is asked')
    t.match(await syncOf(id), { status: 'detached', stripeCustomerId: null, settled: true })
    t.match(await linksOf(id), [{ stripe_customer_id: stripeId, deleted_at: Date }])
    t.match(await rowOf(id), { description: 'our edit', state: 'active' }, 'the edit is not lost')
    t.match((await api('GET', '/customers?syncStatus=detached')).body.data, [{ id }], 'and someone is told')
    t.equal(await metric('lockstep_users{status="detached"}'), 1)

    // A late update brings nothing back, and neither does another edit, a sweep or a click.
    controls.resendEvent(late.id)
    await api('PATCH', `/customers/${id}`, { phone: '+14155550118' }, { prefer: 'wait=20' })
    await api('POST', `/customers/${id}/sync`)
    await scene.run('sweep')
    await quiet()
    t.match(await event(late.id), { status: 'processed', outcome: 'dead_customer' })
    t.match(await syncOf(id), { status: 'detached', stripeCustomerId: null })
    t.equal(calls('customers.create'), 0)
    t.equal(scene.customersBy('buried@example.com').length, 0)

    // Nor does the end of a customer that was given up before take anything from the user's present one.
    const former = await newCustomer({ email: 'moved@example.com' })
    await pool.query('update users set stripe_customer_id = null where id = $1', [former.id])
    await quiet()
    const present = await syncOf(former.id)
    t.not(present.stripeCustomerId, former.stripeId)
    controls.resetCalls()
    controls.advanceClock(10_000)
    controls.deleteCustomer(former.stripeId)
    await quiet()
    t.match(await event(must(eventsOf(former.stripeId)[0]).id), { status: 'processed', outcome: 'deleted' })
    t.strictSame(await syncOf(former.id), present)
    t.equal(calls('customers.retrieve'), 0)
  })

  t.test('19. erased here while an edit of theirs is on its way: erased it is; a 404 is as good as done', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'erased@example.com', firstName: 'Ada' })
    await quiet()
    controls.setDeliveryFaults({ paused: true })
    controls.advanceClock(10_000)
    controls.updateCustomer(stripeId, { name: 'Edited Too Late', phone: '+14155550119' })
    const edit = must(eventsOf(stripeId)[0])
    controls.resetCalls()
    controls.faults.add({ operation: 'customers.delete', kind: 'reset_after', times: 1 })
    await api('DELETE', `/customers/${id}?erase=true`, undefined, { prefer: 'wait=20' })
    await eventually(async () => (await syncOf(id)).settled, PATIENCE)
    t.strictSame(answers('customers.delete'), { 200: 1, 404: 1 }, 'the first answer was lost')
    t.match(stripeOf(stripeId), { deleted: true })

    controls.setDeliveryFaults()
    await controls.flush()
    controls.resendEvent(edit.id)
    await quiet()
    t.match(await event(edit.id), { status: 'processed', outcome: 'dead_customer' })
    t.match(await rowOf(id), { state: 'erased', first_name: null, phone: null, email: null, stripe_customer_id: null })
    t.match(await syncOf(id), { status: 'ignored', stripeCustomerId: null })
    t.strictSame([calls('customers.create'), calls('customers.update')], [0, 0])
    t.equal((await pool.query('select from users where stripe_customer_id = $1', [stripeId])).rowCount, 0)
  })

  t.test('20. deleting ends subscriptions, so it has to be asked for; their end is taken in', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'subscribed@example.com' })
    await quiet()
    // Neither an ordinary DELETE nor a row that is gone ends anything in Stripe.
    await api('DELETE', `/customers/${id}`, undefined, { prefer: 'wait=20' })
    t.match(stripeOf(stripeId), { email: 'subscribed@example.com', metadata: { lockstep_state: 'archived' } })
    t.match(await api('DELETE', `/customers/${id}?erase=perhaps`), { status: 400 })
    const keys = makeApiKeys({ prisma: openPrisma(pool), clock: systemClock })
    const by = { tenantId: (await rowOf(id)).tenant_id as string, actor: 'test', requestId: null, ip: null }
    const { key } = await keys.create(by, { name: 'manager', role: 'manager' })
    const refused = await api('DELETE', `/customers/${id}?erase=true`, undefined, { authorization: `Bearer ${key}` })
    t.match(refused, { status: 403 }, 'who may write may not yet erase')
    t.notMatch(stripeOf(stripeId), { deleted: true })

    const subscription = { id: 'sub_1', object: 'subscription', customer: stripeId, status: 'canceled' }
    const before = controls.emitEvent('customer.subscription.deleted', subscription)
    t.match(await api('DELETE', `/customers/${id}?erase=true`, undefined, { prefer: 'wait=20' }), { status: 200 })
    const after = controls.emitEvent('customer.subscription.deleted', { ...subscription, id: 'sub_2' })
    await quiet()
    t.match(stripeOf(stripeId), { deleted: true })
    for (const { id: eventId } of [before, after]) t.match(await event(eventId), { status: 'ignored' }, 'kept, no more')
    t.match(await syncOf(id), { status: 'ignored', conflicts: [] })

    const other = await newCustomer({ email: 'row-gone@example.com' })
    await pool.query('delete from users where id = $1', [other.id])
    await quiet()
    t.match(stripeOf(other.stripeId), { email: 'row-gone@example.com', metadata: { lockstep_state: 'deleted' } })
    t.match(await conflictsOf(id), [])
  })

  t.test('30. a key of the wrong mode: the lane stops and says so; nobody is taken for deleted', async (t) => {
    const users = await Promise.all(
      Array.from({ length: 5 }, (_, n) => newCustomer({ email: `mode${n}@example.com`, description: 'before' })),
    )
    await quiet()
    const buried = async () => (await pool.query('select from stripe_links where deleted_at is not null')).rowCount
    const before = await buried()
    const fault = controls.faults.add({ operation: '*', kind: 'wrong_mode' })
    controls.resetCalls()
    for (const [n, { id }] of users.entries()) {
      if (n % 2 === 0) await api('PATCH', `/customers/${id}`, { description: 'after' })
      else await api('POST', `/customers/${id}/sync`)
    }
    const health = await scene.eventually(async () => {
      const { body } = await api('GET', '/health')
      return body.parts.stripe.status === 'down' ? body : null
    }, 'the alarm')
    t.match(health, { status: 'degraded', parts: { stripe: { code: 'stripe_auth_failed' } } })
    t.equal(await metric('lockstep_lane_paused'), 1)
    t.match(await scene.run('sweep'), { status: 'failed', error: { code: 'stripe_auth_failed' } })
    await eventually(
      async () => (await pool.query('select from sync_state where lease_expires_at > now()')).rowCount === 0,
      PATIENCE,
    )
    t.equal(await buried(), before, 'no customer is buried')
    for (const { id, stripeId } of users) {
      t.match(await rowOf(id), { stripe_customer_id: stripeId, state: 'active' })
      t.match(await syncOf(id), { status: 'pending', attempts: 0 }, 'the work is kept, and no try counts')
    }
    controls.faults.remove(fault.id)
    await pool.query('update tenants set lane_retry_at = now()')
    await quiet()
    for (const [n, { id, stripeId }] of users.entries()) {
      t.match(await syncOf(id), { status: 'in_sync', stripeCustomerId: stripeId })
      t.match(stripeOf(stripeId), { description: n % 2 === 0 ? 'after' : 'before' })
    }
    t.equal(await metric('lockstep_lane_paused'), 0)
  })
})
