import t from 'tap'
import { type Service, startService } from '../helpers/service.js'
import { deliver, eventOf, type Json, metric, rowOf, settled } from '../helpers/webhooks.js'

// A dozen deliveries take a second alone, and much longer beside other tests.
t.setTimeout(580_000)

/** Makes a change in Stripe whose own event never arrives; answers that event as Stripe would have sent it. */
function changeUnseen({ simulator: { controls } }: Service, stripeId: string, fields: Json) {
  controls.setDeliveryFaults({ drop: 1 })
  // Clearly later than what was read when the customer was made, so that nothing but its shape is against the snapshot.
  controls.advanceClock(10_000)
  controls.updateCustomer(stripeId, fields)
  controls.setDeliveryFaults()
  const event = controls.events()[0]
  if (event === undefined) throw new Error('the change made no event')
  return event as unknown as Json & { id: string; data: { object: Json; previous_attributes: Json } }
}

t.test('an event of another API version than the SDK speaks', async (t) => {
  const service = await startService(t)
  const { api, simulator, newCustomer, quiet, settings } = service
  const { controls } = simulator
  const mismatches = (version: string) =>
    metric(service, `lockstep_webhook_api_version_mismatch_total{api_version="${version}"}`)
  const reads = () => controls.summary().calls['customers.retrieve']?.total ?? 0

  t.test('older: what it does not show is not taken for cleared', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'old@example.com', phone: '+14155552671', locale: 'sv' })
    controls.updateCustomer(stripeId, { balance: -500 })
    await quiet()
    const event = changeUnseen(service, stripeId, { description: 'new' })
    const { phone, preferred_locales, balance, ...rest } = event.data.object
    const older = { ...rest, account_balance: balance, sources: { object: 'list', data: [] }, tax_info: null }
    const before = reads()
    t.match(await deliver(service, { ...event, api_version: '2018-02-28', data: { ...event.data, object: older } }), {
      status: 200,
    })
    await quiet()
    t.match(await rowOf(service, id), {
      description: 'new',
      phone: '+14155552671',
      locale: 'sv',
      billing: { balance: -500 },
    })
    t.match(await settled(service, event.id), { status: 'processed', outcome: 'hint', apiVersion: '2018-02-28' })
    t.equal(reads(), before + 1, 'the customer was read, once')
    t.equal(await mismatches('2018-02-28'), 1)
    t.match((await api('GET', `/customers/${id}/sync`)).body, { status: 'in_sync', conflicts: [] })
  })

  t.test('newer: what goes by another name is found by reading', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'new@example.com', firstName: 'Ada' })
    await quiet()
    const event = changeUnseen(service, stripeId, { email: 'renamed@example.com' })
    const { email, ...rest } = event.data.object
    const data = {
      object: { ...rest, email_address: email, loyalty: { tier: 'gold' } },
      previous_attributes: { email_address: 'new@example.com' },
    }
    t.match(await deliver(service, { ...event, api_version: '2027-03-31.future', data }), { status: 200 })
    await quiet()
    t.match(await rowOf(service, id), { email: 'renamed@example.com', first_name: 'Ada' })
    t.equal(await mismatches('2027-03-31.future'), 1)
  })

  t.test('a field of another type is no value', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'type@example.com', description: 'kept' })
    await quiet()
    const event = changeUnseen(service, stripeId, { name: 'Ada King' })
    const object = { ...event.data.object, description: { text: 'kept' }, metadata: [] }
    t.match(await deliver(service, { ...event, data: { ...event.data, object } }), { status: 200 })
    await quiet()
    t.match(await rowOf(service, id), { first_name: 'Ada', last_name: 'King', description: 'kept' })
    t.match(await settled(service, event.id), { outcome: 'hint' })
  })

  t.test('with all that is synced it is believed, and costs no call', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'extra@example.com' })
    await quiet()
    const event = changeUnseen(service, stripeId, { description: 'extra' })
    const object = { ...event.data.object, sources: { object: 'list', data: [] }, novelty: 1 }
    const before = reads()
    await deliver(service, { ...event, api_version: '2027-09-29.later', data: { ...event.data, object } })
    await quiet()
    t.match(await rowOf(service, id), { description: 'extra' })
    t.match(await settled(service, event.id), { outcome: 'applied' })
    t.equal(reads(), before)
    t.equal(await mismatches('2027-09-29.later'), 1)
  })

  t.test('a stranger that it shows in part is read before it is merged', async (t) => {
    controls.setDeliveryFaults({ drop: 1 })
    const { id: stripeId } = controls.createCustomer({
      email: 'part@example.com',
      name: 'Ada King',
      phone: '+14155552672',
    })
    controls.setDeliveryFaults()
    const { name, phone, shipping, ...object } = controls.getCustomer(stripeId) as unknown as Json
    t.match(await deliver(service, eventOf(object, { type: 'customer.created', api_version: '2015-10-16' })), {
      status: 200,
    })
    await quiet()
    const { rows } = await service.pool.query('select * from users where stripe_customer_id = $1', [stripeId])
    t.match(rows, [{ email: 'part@example.com', first_name: 'Ada', last_name: 'King', phone: '+14155552672' }])
  })

  t.test('the event of our own write, in part: nothing was overwritten', async (t) => {
    await settings({ policies: { default: 'stripe' } })
    const { id } = await newCustomer({ email: 'own@example.com', phone: '+14155552673' })
    await quiet()
    controls.setDeliveryFaults({ drop: 1 })
    await api('PATCH', `/customers/${id}`, { phone: '+14155552674', description: 'x' }, { prefer: 'wait=10' })
    controls.setDeliveryFaults()
    const event = controls.events()[0] as unknown as Json & { id: string; data: { object: Json } }
    const { phone, ...object } = event.data.object
    // So the event would look, were the field rendered by another name.
    const data = { object, previous_attributes: { description: null } }
    t.match(await deliver(service, { ...event, api_version: '2018-02-28', data }), { status: 200 })
    await quiet()
    t.match(await rowOf(service, id), { phone: '+14155552674', description: 'x' })
    t.match((await api('GET', `/customers/${id}/sync`)).body, { conflicts: [] })
    await settings({ policies: {} })
  })

  t.test('the same version, and none, are no mismatch', async (t) => {
    const all = async () =>
      ((await api('GET', '/metrics')).body as string).match(/^lockstep_webhook_api_version_mismatch_total\{/gm)?.length
    const before = await all()
    const object = { id: 'in_1', object: 'invoice' }
    await deliver(service, eventOf(object, { type: 'invoice.paid' }))
    await deliver(service, eventOf(object, { type: 'invoice.paid', api_version: null }))
    t.equal(await all(), before)
  })

  t.test('odd in all that is not needed, it is stored nevertheless', async (t) => {
    const object = { id: `cus_${'x'.repeat(300)}`, object: 'customer' }
    const odd = eventOf(object, { api_version: 20_181_106, request: 'req_1', account: 7, pending_webhooks: null })
    t.match(await deliver(service, odd), { status: 200 })
    t.match(await settled(service, odd.id), { status: 'quarantined', apiVersion: null }, 'nobody has such an account')
    const keyed = eventOf({ id: 'in_1', object: 'invoice' }, { type: 'x\u0000y', request: { idempotency_key: {} } })
    t.match(await deliver(service, keyed), { status: 200 })
    await quiet()
  })
})
