import Stripe from 'stripe'
import t from 'tap'
import { countEvents, untilFiled } from '../helpers/inbox.js'
import { backends, type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

/** The row of the user that this Stripe customer belongs to. */
async function rowOf({ pool }: Service, stripeId: string) {
  const { rows } = await pool.query('select * from users where stripe_customer_id = $1', [stripeId])
  return rows[0]
}

for (const backend of backends) {
  t.test(`a change in Stripe shows here (queue on ${backend})`, async (t) => {
    const service = await startService(t, { backend })
    const { api, pool, simulator, newCustomer, quiet, settings } = service
    const { controls } = simulator

    t.test('an edit', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'edit@example.com', firstName: 'Ada', lastName: 'Lovelace' })
      controls.updateCustomer(stripeId, {
        email: 'edited@example.com',
        name: 'Augusta Ada King',
        address: { line1: 'St James Sq', country: 'gb' },
        metadata: { vip: 'yes' },
        preferred_locales: ['en-GB', 'fr'],
      })
      await eventually(async () => (await rowOf(service, stripeId)).email === 'edited@example.com')
      await quiet()
      t.match(await rowOf(service, stripeId), {
        id,
        first_name: 'Augusta',
        last_name: 'Ada King',
        address: { line1: 'St James Sq', country: 'GB' },
        metadata: { vip: 'yes' },
        locale: 'en-GB',
      })
    })

    t.test('what only Stripe decides: billing', async (t) => {
      const { stripeId } = await newCustomer({ email: 'billing@example.com' })
      controls.updateCustomer(stripeId, { balance: -500, delinquent: true })
      await quiet()
      t.match((await rowOf(service, stripeId)).billing, { balance: -500, delinquent: true })
    })

    t.test('a new customer becomes a user, once', async (t) => {
      controls.setDeliveryFaults({ duplicate: 1 })
      const { id: stripeId } = controls.createCustomer({ email: 'dash@example.com', name: 'Dash Board' })
      await eventually(() => rowOf(service, stripeId))
      await quiet()
      controls.setDeliveryFaults()
      const { rows } = await pool.query(`select * from users where email = 'dash@example.com'`)
      t.match(rows, [{ first_name: 'Dash', last_name: 'Board', stripe_customer_id: stripeId }])
      t.match(controls.getCustomer(stripeId), { metadata: { lockstep_user_id: rows[0].id } }, 'and is told whose it is')
    })

    t.test(
      'a deleted customer leaves the user detached, archived or with a new one, as the tenant has it',
      async (t) => {
        const detached = await newCustomer({ email: 'detach@example.com' })
        controls.deleteCustomer(detached.stripeId)
        await quiet()
        t.match((await api('GET', `/customers/${detached.id}/sync`)).body, {
          status: 'detached',
          stripeCustomerId: null,
        })

        await settings({ onRemoteDelete: 'archive' })
        const archived = await newCustomer({ email: 'to-archive@example.com' })
        controls.deleteCustomer(archived.stripeId)
        await quiet()
        t.match((await api('GET', `/customers/${archived.id}`)).body, { state: 'archived', stripeCustomerId: null })

        await settings({ onRemoteDelete: 'recreate' })
        const recreated = await newCustomer({ email: 'again@example.com' })
        controls.deleteCustomer(recreated.stripeId)
        await quiet()
        const { body } = await api('GET', `/customers/${recreated.id}`)
        t.match(body, { state: 'active', sync: { status: 'in_sync' } })
        t.not(body.stripeCustomerId, recreated.stripeId)
        t.type(body.stripeCustomerId, 'string')
        await settings({ onRemoteDelete: 'detach' })

        const late = controls.events().find((event) => (event.data.object as { id?: string }).id === recreated.stripeId)
        controls.resendEvent(late?.id ?? '')
        await quiet()
        t.equal(await rowOf(service, recreated.stripeId), undefined, 'a late event brings no dead id back')

        await api('POST', `/customers/${detached.id}/restore`, undefined, { prefer: 'wait=10' })
        await quiet()
        t.match((await api('GET', `/customers/${detached.id}/sync`)).body, { status: 'in_sync' }, 'restored on demand')
      },
    )

    t.test('deliveries twice, shuffled, late and told by two events: the same end', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'shuffle@example.com' })
      controls.setDeliveryFaults({ duplicate: 0.5, twin: 0.5, reorder: true, reorderWindowMs: 300 })
      for (let n = 0; n < 20; n += 1)
        controls.updateCustomer(stripeId, { description: `edit ${n}`, metadata: { n: String(n) } })
      await quiet()
      controls.setDeliveryFaults()
      t.match(await rowOf(service, stripeId), { description: 'edit 19', metadata: { n: '19' } })
      t.match((await api('GET', `/customers/${id}/sync`)).body, { status: 'in_sync', conflicts: [] })
    })
  })

  t.test(`what the webhook refuses and what it keeps (queue on ${backend})`, async (t) => {
    const { app, api, pool, simulator, webhookSecret, newCustomer, quiet } = await startService(t, { backend })
    const stored = () => countEvents(pool)
    const { stripeId } = await newCustomer({ email: 'hook@example.com' })
    await quiet()

    const event = (changes: object = {}) => ({
      id: `evt_${Math.random().toString(36).slice(2)}`,
      object: 'event',
      api_version: '2026-10-28.endive',
      created: Math.floor(Date.now() / 1000),
      data: { object: simulator.controls.getCustomer(stripeId) },
      livemode: false,
      pending_webhooks: 1,
      request: { id: null, idempotency_key: null },
      type: 'customer.updated',
      ...changes,
    })
    const deliver = async (payload: string, options: { secret?: string; timestamp?: number; header?: string } = {}) => {
      const { secret = webhookSecret, timestamp = Math.floor(Date.now() / 1000) } = options
      const signature = options.header ?? Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp })
      const response = await fetch(`${app.apiUrl}/webhooks/stripe`, {
        method: 'POST',
        headers: { 'stripe-signature': signature, 'content-type': 'application/json' },
        body: payload,
      })
      return { status: response.status, type: response.headers.get('content-type'), body: await response.json() }
    }

    const before = await stored()
    const now = Math.floor(Date.now() / 1000)
    const refused: [string, string, object][] = [
      ['bad_signature', JSON.stringify(event()), { secret: 'whsec_wrong' }],
      ['bad_signature', JSON.stringify(event()), { header: 't=1,v1=' }],
      ['bad_signature', JSON.stringify(event()), { header: 'nonsense' }],
      ['timestamp_out_of_tolerance', JSON.stringify(event()), { timestamp: now - 600 }],
      ['timestamp_out_of_tolerance', JSON.stringify(event()), { timestamp: now + 600 }],
      ['unparsable_body', '{"id":', {}],
      ['unparsable_body', JSON.stringify({ hello: 'world' }), {}],
      ['wrong_mode', JSON.stringify(event({ livemode: true })), {}],
    ]
    for (const [code, payload, options] of refused) {
      const answer = await deliver(payload, options)
      t.match(answer, { status: 400, type: /problem\+json/, body: { code } }, `${code}: ${JSON.stringify(options)}`)
    }
    t.equal(await stored(), before, 'nothing of it is stored')
    const metrics = (await api('GET', '/metrics')).body
    t.match(metrics, 'lockstep_webhook_deliveries_total{outcome="bad_signature"} 3')
    t.match(metrics, 'lockstep_webhook_deliveries_total{outcome="timestamp_out_of_tolerance"} 2')
    t.match(metrics, 'lockstep_webhook_deliveries_total{outcome="wrong_mode"} 1')

    const invoice = {
      id: 'in_1',
      object: 'invoice',
      customer: stripeId,
      customer_email: 'payer@example.com',
      lines: [],
    }
    const guest = {
      id: 'cs_1',
      object: 'checkout.session',
      customer: null,
      customer_details: { email: 'payer@example.com' },
    }
    const unhandled = event({ type: 'invoice.paid', data: { object: invoice } })
    const stranger = event({ type: 'checkout.session.completed', data: { object: guest } })
    t.match(await deliver(JSON.stringify(unhandled)), { status: 200 })
    t.match(await deliver(JSON.stringify(stranger)), { status: 200 })
    await untilFiled(pool)
    const noted = async (id: string) => (await api('GET', `/events/${id}`)).body
    t.match(await noted(unhandled.id), {
      status: 'ignored',
      stripeCustomerId: stripeId,
      payload: {
        id: unhandled.id,
        type: 'invoice.paid',
        data: { object: { id: 'in_1', object: 'invoice', customer: stripeId } },
      },
    })
    t.match(await noted(stranger.id), { status: 'ignored', stripeCustomerId: null, payload: { id: stranger.id } })
    for (const { id } of [unhandled, stranger]) {
      t.notMatch(
        JSON.stringify(await noted(id)),
        /payer/,
        'not ours to act on: that it came is kept, not whom it tells of',
      )
      t.match(await api('POST', `/events/${id}/replay`), { status: 202, body: { status: 'ignored' } })
    }

    const twice = event({ data: { object: { ...simulator.controls.getCustomer(stripeId), description: 'once' } } })
    const answers = await Promise.all([deliver(JSON.stringify(twice)), deliver(JSON.stringify(twice))])
    t.strictSame(
      answers.map(({ status }) => status),
      [200, 200],
    )
    t.equal(await stored(), before + 3, 'the same event is stored once')

    const rotating = JSON.stringify(event())
    const header = `${Stripe.webhooks.generateTestHeaderString({ payload: rotating, secret: 'whsec_other', timestamp: now })},v1=${
      Stripe.webhooks
        .generateTestHeaderString({ payload: rotating, secret: webhookSecret, timestamp: now })
        .split('v1=')[1]
    }`
    t.match(await deliver(rotating, { header }), { status: 200 }, 'signed with two secrets while one rotates')

    const foreign = event({ account: 'acct_unknown' })
    t.match(await deliver(JSON.stringify(foreign)), { status: 200 })
    await untilFiled(pool)
    t.match((await api('GET', `/events/${foreign.id}`)).body, { status: 'quarantined' })
    await quiet()
  })
}
