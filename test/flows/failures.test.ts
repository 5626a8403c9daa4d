import t from 'tap'
import type { FaultKind } from '../../src/simulator/faults.js'
import { backends, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

for (const backend of backends) {
  t.test(`Stripe fails (queue on ${backend})`, async (t) => {
    const { api, pool, simulator, newCustomer, quiet, stripeCustomers } = await startService(t, { backend })
    const { controls } = simulator
    const customersOf = (email: string) => stripeCustomers().filter((customer) => customer.email === email)
    const syncOf = async (id: string) => (await api('GET', `/customers/${id}/sync`)).body

    for (const kind of ['429', 'lock_timeout', 'reset_before', 'reset_after', 'truncate'] as FaultKind[]) {
      t.test(`${kind} while a customer is made: one customer in the end`, async (t) => {
        controls.faults.add({ operation: 'customers.create', kind, times: 2 })
        const email = `create-${kind}@example.com`
        const { id } = await newCustomer({ email })
        await quiet()
        t.match(await syncOf(id), { status: 'in_sync', attempts: 0 })
        t.equal(customersOf(email).length, 1)
      })

      t.test(`${kind} while a customer is changed: the change gets through`, async (t) => {
        const { id, stripeId } = await newCustomer({ email: `update-${kind}@example.com` })
        controls.faults.add({ operation: 'customers.update', kind, times: 1 })
        await api('PATCH', `/customers/${id}`, { description: kind }, { prefer: 'wait=15' })
        // An event waits for the answer of its own write; that patience is not what is tested here.
        await pool.query(`update stripe_writes set started_at = started_at - interval '1 minute'`)
        await quiet()
        t.match(controls.getCustomer(stripeId), { description: kind })
        t.match(await syncOf(id), { status: 'in_sync', conflicts: [] })
      })
    }

    t.test('a create that answered 500 but was made: its event names the user, and no second is made', async (t) => {
      controls.faults.add({ operation: 'customers.create', kind: '500_after', times: 1 })
      const { body } = await api('POST', '/customers', { email: 'after@example.com' })
      await eventually(async () => (await syncOf(body.id)).attempts > 0)
      // The event waits for the answer of its own create; that patience is not what is tested here.
      await pool.query(`update stripe_writes set started_at = started_at - interval '1 minute'`)
      await quiet()
      t.match(await syncOf(body.id), { status: 'in_sync', stripeCustomerId: customersOf('after@example.com')[0]?.id })
      t.equal(customersOf('after@example.com').length, 1)
    })

    t.test('a create under way for 23 hours is looked for, not sent again', async (t) => {
      controls.setDeliveryFaults({ drop: 1 })
      controls.faults.add({ operation: 'customers.create', kind: '500_after', times: 1 })
      const { body } = await api('POST', '/customers', { email: 'old@example.com' })
      await eventually(async () => (await syncOf(body.id)).attempts > 0)
      controls.setDeliveryFaults()
      await pool.query(
        `update sync_state set create_started_at = now() - interval '23 hours', next_attempt_at = null where user_id = $1`,
        [body.id],
      )
      await quiet()
      t.match(await syncOf(body.id), { status: 'in_sync', stripeCustomerId: customersOf('old@example.com')[0]?.id })
      t.equal(customersOf('old@example.com').length, 1)
    })

    t.test('one field that Stripe refuses keeps no other back, and is mended by a new value', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'field@example.com' })
      await pool.query(`update users set phone = '+1234567890123456789012345', description = 'goes on' where id = $1`, [
        id,
      ])
      await eventually(async () => (await syncOf(id)).status === 'failed')
      t.match(await syncOf(id), { lastError: { field: 'phone' }, rejected: [{ field: 'phone' }] })
      t.match(controls.getCustomer(stripeId), { description: 'goes on', phone: null })
      t.notMatch(JSON.stringify((await syncOf(id)).lastError), '1234567890')
      t.match((await api('GET', '/customers?syncStatus=failed')).body.data, [{ id }])
      await api('PATCH', `/customers/${id}`, { phone: '+14155550199' }, { prefer: 'wait=10' })
      t.match(await syncOf(id), { status: 'in_sync', rejected: [] })
      t.match(controls.getCustomer(stripeId), { phone: '+14155550199' })
    })

    t.test('a refused key stops the lane, keeps the work, and shows', async (t) => {
      const fault = controls.faults.add({ operation: '*', kind: '401' })
      const { body } = await api('POST', '/customers', { email: 'lane@example.com' })
      const health = await eventually(async () => {
        const answer = (await api('GET', '/health')).body
        return answer.parts.stripe.status === 'down' ? answer : null
      })
      t.match(health, { status: 'degraded', parts: { stripe: { code: 'stripe_auth_failed' } } })
      t.match((await api('GET', '/metrics')).body, 'lockstep_lane_paused 1')
      t.match(await syncOf(body.id), { status: 'pending', attempts: 0 })
      controls.faults.remove(fault.id)
      await pool.query('update tenants set lane_retry_at = now()')
      await quiet()
      t.match(await syncOf(body.id), { status: 'in_sync' })
      t.match((await api('GET', '/health')).body.parts.stripe, { status: 'ok' })
    })

    t.test('what fails for too long is given up in plain sight, and taken up again on demand', async (t) => {
      const fault = controls.faults.add({ operation: 'customers.*', kind: 'reset_before' })
      const { body } = await api('POST', '/customers', { email: 'forever@example.com' })
      await eventually(async () => (await syncOf(body.id)).attempts > 0)
      await pool.query('update sync_state set attempts = 9, next_attempt_at = null where user_id = $1', [body.id])
      await eventually(async () => (await syncOf(body.id)).status === 'failed', { timeout: 15_000 })
      t.match((await api('GET', '/customers?syncStatus=failed')).body.data, [{ id: body.id }])
      t.match((await api('GET', '/metrics')).body, 'lockstep_users{status="failed"} 1')
      const late = await api(
        'PATCH',
        `/customers/${body.id}/`.slice(0, -1),
        { firstName: 'Late' },
        { prefer: 'wait=1' },
      )
      t.match(late, { status: 202, headers: { get: Function } })
      t.equal(late.headers.get('location'), `/customers/${body.id}/sync`, 'and where to look is said')
      controls.faults.remove(fault.id)
      await api('POST', `/customers/${body.id}/sync`)
      await quiet()
      t.match(await syncOf(body.id), { status: 'in_sync' })
      t.equal(customersOf('forever@example.com').length, 1)
    })
  })
}
