import t from 'tap'
import { eventually } from '../helpers/wait.js'
import { openParts } from './core.js'
import { HOUR, must, openScene, PATIENCE } from './scene.js'

t.setTimeout(580_000)

/** A promise that never comes: the process died there. */
const death = () => new Promise<never>(() => {})

t.test('scenarios: one customer, whatever becomes of the create', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, quiet, customersBy, eventsOf, syncOf, stateOf, linksOf, answers, ageCreate } = scene
  const { retryNow } = scene

  t.test('8. made, but the answer was lost: the same key and bytes again, one customer', async (t) => {
    controls.setDeliveryFaults({ drop: 1 })
    controls.resetCalls()
    // The SDK itself tries once more after a reset; the third is ours.
    controls.faults.add({ operation: 'customers.create', kind: 'reset_after', times: 2 })
    const { body } = await api('POST', '/customers', { email: 'lost@example.com', description: 'as sent' })
    await quiet()
    const [customer, ...more] = customersBy('lost@example.com')
    t.strictSame(more, [])
    t.match(await syncOf(body.id), { status: 'in_sync', stripeCustomerId: customer?.id })
    t.strictSame(answers('customers.create'), { 200: 3 }, 'other bytes under the key would be a 400')
    const [created] = eventsOf(must(customer).id)
    t.match(created, { type: 'customer.created', request: { idempotency_key: `lockstep-create-${body.id}-1` } })
    t.match(await linksOf(body.id), [{ stripe_customer_id: customer?.id, how: 'created' }])
  })

  t.test('10. made a day ago, the key forgotten: looked for first, made only if there is none', async (t) => {
    const traces = {
      'its own metadata': (_stripeId: string) => {},
      'only its event': (stripeId: string) => {
        controls.updateCustomer(stripeId, { email: 'someone.else@example.com', metadata: '' })
      },
    }
    for (const [trace, wipe] of Object.entries(traces)) {
      const email = `aged-${Object.keys(traces).indexOf(trace)}@example.com`
      controls.setDeliveryFaults({ drop: 1 })
      controls.setClock(Date.now() - 25 * HOUR)
      controls.faults.add({ operation: 'customers.create', kind: 'reset_after' })
      const { body } = await api('POST', '/customers', { email })
      await ageCreate(body.id, '25 hours')
      const stripeId = must(customersBy(email)[0]).id
      wipe(stripeId)
      controls.setClock(Date.now())
      controls.faults.remove()
      controls.resetCalls()
      await retryNow(body.id)
      await quiet()
      t.match(await syncOf(body.id), { status: 'in_sync', stripeCustomerId: stripeId }, `found by ${trace}`)
      t.strictSame(answers('customers.create'), {}, 'nothing is sent blindly')
      const owners = scene.stripeCustomers().filter(({ metadata }) => metadata.lockstep_user_id === body.id)
      t.equal(owners.length, 1)
    }

    controls.faults.add({ operation: 'customers.create', kind: 'reset_before' })
    const { body } = await api('POST', '/customers', { email: 'never@example.com' })
    await ageCreate(body.id, '25 hours')
    controls.faults.remove()
    await retryNow(body.id)
    await quiet()
    const [customer, ...more] = customersBy('never@example.com')
    t.strictSame(more, [])
    t.match(await syncOf(body.id), { status: 'in_sync', stripeCustomerId: customer?.id })
    t.match(eventsOf(must(customer).id).at(-1)?.request?.idempotency_key, `lockstep-create-${body.id}-2`, 'a new key')
  })

  t.test('11. the row is edited between two attempts: first the words as they were, then the change', async (t) => {
    controls.setDeliveryFaults({ drop: 1 })
    controls.resetCalls()
    controls.faults.add({ operation: 'customers.create', kind: 'reset_after' })
    const { body } = await api('POST', '/customers', { email: 'edited@example.com', description: 'before' })
    await eventually(async () => (await syncOf(body.id)).attempts > 0, PATIENCE)
    await api('PATCH', `/customers/${body.id}`, { description: 'after', phone: '+14155550111' })
    controls.faults.remove()
    await quiet()
    const [customer, ...more] = customersBy('edited@example.com')
    t.strictSame(more, [])
    t.match(customer, { description: 'after', phone: '+14155550111' })
    const [changed, created, ...none] = eventsOf(must(customer).id)
    t.strictSame(none, [])
    t.match(created, {
      type: 'customer.created',
      request: { idempotency_key: `lockstep-create-${body.id}-1` },
      data: { object: { description: 'before', phone: null } },
    })
    t.match(changed, {
      type: 'customer.updated',
      request: { idempotency_key: /^lockstep-update-/ },
      data: { previous_attributes: { description: 'before', phone: null } },
    })
    t.strictSame(Object.keys(answers('customers.create')), ['200'], 'the key was never sent with other words')
    t.match(await syncOf(body.id), { status: 'in_sync', conflicts: [] })
  })

  t.test('13. a 500: nobody knows, so the same key until it is clear; no second customer', async (t) => {
    controls.setDeliveryFaults({ drop: 1 })
    controls.resetCalls()
    controls.faults.add({ operation: 'customers.create', kind: '500_after', times: 1 })
    const { body } = await api('POST', '/customers', { email: 'unclear@example.com' })
    const unclear = async () =>
      (await stateOf(body.id)).last_error?.code === 'stripe_create_unclear' ? stateOf(body.id) : null
    const waiting = await eventually(unclear, { ...PATIENCE, what: 'a replay of the 500' })
    t.strictSame(Object.keys(answers('customers.create')), ['500'], 'no try under another key')
    t.match(waiting, {
      create_generation: 1,
      create_key: `lockstep-create-${body.id}-1`,
      last_error: { retryable: true },
    })
    t.ok(waiting.attempts <= 1, 'that it waits is no try in vain')
    const waits = waiting.next_attempt_at.getTime() - waiting.create_started_at.getTime()
    t.ok(Math.abs(waits - 600_000) < 5_000, `${waits} ms: as long as it takes until it shows`)
    t.equal(customersBy('unclear@example.com').length, 1)
    // Its event comes after all, when nobody waits for an answer any more.
    await pool.query(`update stripe_writes set started_at = started_at - interval '1 minute'`)
    controls.setDeliveryFaults()
    const [customer] = customersBy('unclear@example.com')
    controls.resendEvent(must(eventsOf(must(customer).id)[0]).id)
    await quiet()
    t.match(await syncOf(body.id), { status: 'in_sync', stripeCustomerId: customer?.id })

    // Rolled back: once the 500 is being repeated and minutes later nothing shows, it is made, once, under the next key.
    controls.faults.add({ operation: 'customers.create', kind: '500', times: 1 })
    const { body: other } = await api('POST', '/customers', { email: 'rolled-back@example.com' })
    await ageCreate(other.id, '5 minutes')
    controls.resetCalls()
    await retryNow(other.id)
    await eventually(() => answers('customers.create')[500] === 1, { ...PATIENCE, what: 'a replay of the 500' })
    await eventually(async () => (await stateOf(other.id)).lease_expires_at === null, PATIENCE)
    t.match(await stateOf(other.id), { create_generation: 1 }, 'not while it may still show')
    await ageCreate(other.id, '11 minutes')
    await retryNow(other.id)
    await quiet()
    const [made, ...more] = customersBy('rolled-back@example.com')
    t.strictSame(more, [])
    t.match(eventsOf(must(made).id).at(-1)?.request?.idempotency_key, `lockstep-create-${other.id}-2`)
    t.match(await syncOf(other.id), { status: 'in_sync', stripeCustomerId: made?.id })
  })
})

t.test(
  '9. a worker that dies before or after it sends: key and words were stored before, and are sent again',
  async (t) => {
    const { pool, controls, reconcile, workerWith, addUser, stateOf, expireLease, eventsOf } = await openParts(t)
    for (const dies of ['before it was sent', 'after it was made'] as const) {
      const id = await addUser('dies@example.com')
      const sent: { key: string; words: unknown; stored: Awaited<ReturnType<typeof stateOf>> }[] = []
      const doomed = workerWith((customers) => {
        const create = customers.createCustomer.bind(customers)
        customers.createCustomer = async (data, key = '') => {
          sent.push({ key, words: data, stored: await stateOf(id) })
          if (dies === 'after it was made') await create(data, key)
          return death()
        }
      })
      void doomed(id)
      const { key, words, stored } = await eventually(() => sent[0], PATIENCE).then((found) => must(found))
      // Read through another connection: it is committed.
      t.match(key, `lockstep-create-${id}-1`)
      t.equal(stored.create_key, key)
      t.strictSame(stored.create_params, words)
      await eventually(() => controls.dump().total === (dies === 'after it was made' ? 1 : 0), PATIENCE)

      await pool.query(`update users set description = 'changed since' where id = $1`, [id])
      t.match(await reconcile(id), { outcome: 'busy' }, 'its lease keeps others off until it runs out')
      await expireLease(id)
      const end = await reconcile(id)
      t.match(end, { outcome: 'settled', status: 'in_sync' })
      const [customer, ...more] = controls.dump().data
      t.strictSame(more, [])
      t.match(customer, { email: 'dies@example.com', description: 'changed since' })
      t.match(eventsOf(must(customer).id).at(-1), {
        type: 'customer.created',
        request: { idempotency_key: key },
        data: { object: { description: null } },
      })
      controls.deleteCustomer(must(customer).id)
      await pool.query('delete from users where id = $1', [id])
    }
  },
)

t.test('12. two workers send the same key: the second is told 409, waits, and sends that key again', async (t) => {
  const { controls, reconcile, addUser, stateOf, expireLease } = await openParts(t)
  const id = await addUser('twice@example.com')
  const delay = controls.faults.add({ operation: 'customers.create', kind: 'delay', delayMs: 2_000, times: 1 })
  const first = reconcile(id)
  await eventually(() => !controls.faults.rules.includes(delay), { ...PATIENCE, what: 'the first create, under way' })
  await expireLease(id)
  t.match(await reconcile(id), { outcome: 'retry', error: { code: 'stripe_unavailable' } })
  t.match(await stateOf(id), { create_generation: 1, create_key: `lockstep-create-${id}-1` }, 'no other key is made up')
  t.match(await first, { outcome: 'busy' }, 'the first has lost its lease, and writes nothing')
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync' })
  t.strictSame(controls.summary().calls['customers.create']?.byStatus, { 200: 2, 409: 1 })
  t.equal(controls.dump().total, 1)
})

t.test('15. customer.created comes before the answer of our create: it waits, and makes no second user', async (t) => {
  const { pool, db, controls, drain, workerWith, addUser, comeIn, eventsOf } = await openParts(t)
  for (const [email, change] of [
    ['by-key@example.com', {}],
    ['by-metadata@example.com', { request: { id: null, idempotency_key: null } }],
  ] as const) {
    const id = await addUser(email)
    let eventId = ''
    let between: unknown
    const worker = workerWith((customers) => {
      const create = customers.createCustomer.bind(customers)
      customers.createCustomer = async (data, key) => {
        const answer = await create(data, key)
        const created = { ...must(eventsOf(answer.id)[0]), ...change }
        eventId = created.id
        await comeIn(created)
        between = (await pool.query('select status, outcome from stripe_events where id = $1', [eventId])).rows[0]
        return answer
      }
    })
    const end = await worker(id)
    t.match(end, { outcome: 'settled', status: 'in_sync' })
    t.match(between, { status: 'pending' })
    await db.query('update stripe_events set next_attempt_at = null')
    await drain.drainBatch()
    const { rows: events } = await pool.query('select status, outcome from stripe_events where id = $1', [eventId])
    t.match(events, [{ status: 'processed', outcome: email.startsWith('by-key') ? 'echo' : 'no_news' }])
    const { rows: users } = await pool.query('select id, stripe_customer_id from users where email = $1', [email])
    t.match(users, [{ id, stripe_customer_id: /^cus_/ }], 'one user, not a second one imported')
    t.equal(controls.dump().data.filter((customer) => customer.email === email).length, 1)
    const { rows: links } = await pool.query('select * from stripe_links where user_id = $1', [id])
    t.equal(links.length, 1)
  }
})
