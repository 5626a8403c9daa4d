import t from 'tap'
import { DAY, must, openScene, SECOND } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: what events say', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, unseen, deliver, event, eventsOf, rowOf, stripeOf, syncOf } = scene
  const { calls, metric } = scene

  t.test('1. two customer.updated in one second, reversed: not ordered by created; one read, one end', async (t) => {
    const ends: unknown[] = []
    for (const how of ['in order', 'reversed', 'reversed within the second'] as const) {
      const { id, stripeId } = await newCustomer({ email: `second-${ends.length}@example.com` })
      await quiet()
      unseen(() => {
        controls.freezeClock()
        controls.setDeliveryFaults({ drop: 1 })
        controls.updateCustomer(stripeId, { description: 'first', phone: '+14155550101' })
        controls.updateCustomer(stripeId, { description: 'second', name: 'Ada King' })
      })
      const [second, first] = eventsOf(stripeId).map((found) => must(found))
      t.equal(first?.created, second?.created, 'Stripe’s own times do not tell them apart')
      if (how !== 'reversed within the second') {
        controls.unfreezeClock()
        controls.advanceClock(10 * SECOND)
      }
      controls.resetCalls()
      for (const next of how === 'in order' ? [first, second] : [second, first]) {
        await deliver(must(next))
        await quiet()
      }
      // Within the second a read may be as old as the event that comes next, which then costs another one.
      t.equal(calls('customers.retrieve'), how === 'reversed within the second' ? 2 : 1, `reads, ${how}`)
      t.equal(calls('customers.update'), 0)
      controls.unfreezeClock()
      const { description, phone, first_name, last_name } = await rowOf(id)
      ends.push({ description, phone, first_name, last_name })
      t.match(await syncOf(id), { status: 'in_sync', conflicts: [] })
    }
    const end = { description: 'second', phone: '+14155550101', first_name: 'Ada', last_name: 'King' }
    t.strictSame(ends, [end, end, end], 'the second is not lost, whichever came first')
  })

  t.test('2. the same event delivered many times at once: all are answered 2xx, it is applied once', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'same@example.com' })
    await quiet()
    unseen(() => controls.updateCustomer(stripeId, { description: 'once' }))
    const same = must(eventsOf(stripeId)[0])
    const applied = 'lockstep_events_settled_total{outcome="applied"}'
    const duplicates = 'lockstep_webhook_deliveries_total{outcome="duplicate"}'
    const before = { applied: await metric(applied), duplicates: await metric(duplicates) }
    const { revision } = await rowOf(id)

    const answers = await Promise.all(Array.from({ length: 8 }, () => deliver(same)))
    t.ok(answers.every(({ status }) => status === 200))
    await quiet()
    t.equal(await metric(applied), before.applied + 1)
    t.equal(await metric(duplicates), before.duplicates + 7)
    t.equal((await pool.query('select from stripe_events where id = $1', [same.id])).rowCount, 1)
    t.match(await rowOf(id), { description: 'once', revision: revision + 1 })
  })

  t.test('3. two events with different ids for one change: the second is no news, and nothing goes out', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'twin@example.com' })
    await quiet()
    const { revision } = await rowOf(id)
    controls.resetCalls()
    controls.setDeliveryFaults({ twin: 1 })
    controls.advanceClock(10 * SECOND)
    controls.updateCustomer(stripeId, { description: 'told twice' })
    await quiet()
    const twins = eventsOf(stripeId).filter(({ type }) => type === 'customer.updated')
    t.equal(twins.length, 2)
    const outcomes = await Promise.all(twins.map(async (twin) => (await event(twin.id))?.outcome))
    t.strictSame(outcomes.sort(), ['applied', 'no_news'])
    t.match(await rowOf(id), { description: 'told twice', revision: revision + 1 })
    t.strictSame([calls('customers.update'), calls('customers.retrieve')], [0, 0])
  })

  t.test('6. a delivery retried two days later: its snapshot is old, nothing goes back to it', async (t) => {
    controls.setClock(Date.now() - 2 * DAY)
    controls.setDeliveryFaults({ drop: 1 })
    const { id, stripeId } = await newCustomer({ email: 'stale@example.com' })
    controls.advanceClock(10 * SECOND)
    controls.updateCustomer(stripeId, { description: 'two days ago', phone: '+14155550106' })
    const late = must(eventsOf(stripeId)[0])
    controls.advanceClock(10 * SECOND)
    controls.updateCustomer(stripeId, { description: 'newer', phone: '' })
    await api('POST', `/customers/${id}/sync`, undefined, { prefer: 'wait=20' })
    await quiet()
    t.match(await rowOf(id), { description: 'newer', phone: null })

    controls.setClock(Date.now())
    controls.setDeliveryFaults()
    controls.resetCalls()
    controls.resendEvent(late.id)
    await quiet()
    t.match(await event(late.id), { status: 'processed', outcome: 'stale' })
    t.match(await rowOf(id), { description: 'newer', phone: null })
    t.match(stripeOf(stripeId), { description: 'newer', phone: null })
    t.strictSame([calls('customers.update'), calls('customers.retrieve')], [0, 0], 'and that costs no call')
  })

  t.test('7. our own write comes back: nothing goes out, and what others changed beside it is merged', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'echo@example.com' })
    await quiet()
    unseen(() => controls.updateCustomer(stripeId, { phone: '+14155550107' }))
    controls.resetCalls()
    await api('PATCH', `/customers/${id}`, { description: 'ours' }, { prefer: 'wait=20' })
    await quiet()
    const echo = must(eventsOf(stripeId)[0])
    t.match(echo.request?.idempotency_key, /^lockstep-update-/)
    t.match(await event(echo.id), { status: 'processed', outcome: 'echo' })
    t.match(await rowOf(id), { description: 'ours', phone: '+14155550107' })
    t.match(stripeOf(stripeId), { description: 'ours', phone: '+14155550107' })
    t.strictSame([calls('customers.update'), calls('customers.retrieve')], [1, 0])

    // The same when the answer is lost, so that only the event tells.
    controls.advanceClock(10 * SECOND)
    controls.faults.add({ operation: 'customers.update', kind: '500_after', times: 1 })
    await api('PATCH', `/customers/${id}`, { description: 'ours again' })
    await scene.eventually(async () => (await syncOf(id)).attempts > 0, 'a lost answer')
    controls.updateCustomer(stripeId, { phone: '+14155550108' })
    await pool.query(`update stripe_writes set started_at = started_at - interval '1 minute'`)
    await quiet()
    t.match(await rowOf(id), { description: 'ours again', phone: '+14155550108' })
    t.match(stripeOf(stripeId), { description: 'ours again', phone: '+14155550108' })
    t.match(await syncOf(id), { status: 'in_sync', conflicts: [] })
  })

  t.test('28. an event of another API version: stored, read anew where it shows less, and reported', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'version@example.com', phone: '+14155550128', locale: 'sv' })
    await quiet()
    unseen(() => controls.updateCustomer(stripeId, { description: 'new' }))
    const newest = must(eventsOf(stripeId)[0])
    const { phone, preferred_locales, ...rest } = newest.data.object
    const older = {
      ...newest,
      api_version: '2018-02-28',
      data: { ...newest.data, object: { ...rest, account_balance: 0 } },
    }
    t.match(await deliver(older), { status: 200 })
    await quiet()
    t.match(await event(newest.id), { status: 'processed' })
    t.match(
      await rowOf(id),
      { description: 'new', phone: '+14155550128', locale: 'sv' },
      'what it lacks is not cleared',
    )
    t.match(stripeOf(stripeId), { phone: '+14155550128', preferred_locales: ['sv'] })
    t.equal(await metric('lockstep_webhook_api_version_mismatch_total{api_version="2018-02-28"}'), 1)

    const odd = {
      ...newest,
      id: `${newest.id}odd`,
      api_version: '2031-01-01.future',
      data: { object: { id: stripeId, object: 'customer' } },
    }
    t.match(await deliver(odd), { status: 200 }, 'whatever its shape, it is kept')
    await quiet()
    t.match(await event(odd.id), { status: 'processed' })
    t.match(await rowOf(id), { email: 'version@example.com', description: 'new', phone: '+14155550128', locale: 'sv' })
  })
})
