import { once } from 'node:events'
import { request } from 'node:http'
import { connect, type Socket } from 'node:net'
import Stripe from 'stripe'
import t, { type Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

// A restart and a dozen deliveries take a second alone, and much longer beside other tests.
t.setTimeout(300_000)

const LIMIT = 2 * 1024 * 1024

type Json = Record<string, unknown>

const nowSeconds = () => Math.floor(Date.now() / 1000)

/** An event as Stripe would send it about the customer that the simulator has; `changes` replace any part. */
function eventOf(customer: object, changes: Json = {}): Json & { id: string } {
  return {
    id: `evt_${newId().replaceAll('-', '')}`,
    object: 'event',
    api_version: Stripe.API_VERSION,
    created: nowSeconds(),
    data: { object: customer },
    livemode: false,
    pending_webhooks: 1,
    request: { id: null, idempotency_key: null },
    type: 'customer.updated',
    ...changes,
  }
}

interface Signing {
  timestamp?: number
  path?: string
}

/** Delivers as Stripe does, signed with the service's secret. */
async function deliver(service: Service, event: Json | string, { timestamp, path = '' }: Signing = {}) {
  const payload = typeof event === 'string' ? event : JSON.stringify(event)
  const response = await fetch(`${service.app.apiUrl}/webhooks/stripe${path}`, {
    method: 'POST',
    headers: { 'stripe-signature': sign(service, payload, timestamp), 'content-type': 'application/json' },
    body: payload,
  })
  return { status: response.status, body: (await response.json()) as Json }
}

function sign({ webhookSecret: secret }: Service, payload: string, timestamp = nowSeconds()): string {
  return Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp })
}

/** The stored event, once it is settled; null while it is not. */
async function settled({ pool }: Service, id: string) {
  const { rows } = await pool.query(
    `select tenant_id as "tenantId", status, outcome, api_version as "apiVersion" from stripe_events where id = $1`,
    [id],
  )
  return rows[0] === undefined || rows[0].status === 'pending' ? null : rows[0]
}

async function storedEvents({ pool }: Service): Promise<number> {
  return (await pool.query('select count(*)::int as n from stripe_events')).rows[0].n
}

/** One figure of `/metrics`; undefined while it has never been counted. */
async function metric({ api }: Service, series: string): Promise<number | undefined> {
  const line = ((await api('GET', '/metrics')).body as string).split('\n').find((row) => row.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

async function rowOf({ pool }: Service, userId: string) {
  return (await pool.query('select * from users where id = $1', [userId])).rows[0]
}

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

t.test('a secret that is rotated while events come: none is refused, then the old one is', async (t) => {
  const service = await startService(t)
  const { api, simulator, newCustomer, quiet, webhookSecret: old } = service
  const { controls } = simulator
  const next = 'whsec_test_flows_next'
  const { id, stripeId } = await newCustomer({ email: 'rotate@example.com' })
  await quiet()
  // A deployment takes a moment, in which Stripe finds nobody: it tries again.
  controls.changeSettings({ retryDelaysMs: Array.from({ length: 100 }, () => 100) })
  const editing = (async () => {
    for (let n = 0; n < 20; n += 1) {
      controls.updateCustomer(stripeId, { description: `during ${n}` })
      await new Promise((resolve) => setImmediate(resolve))
    }
  })()
  await service.restart({ STRIPE_WEBHOOK_SECRET: `${old},${next}` })
  await editing

  for (const webhookSecret of [old, `${old},${next}`, `${next},${old}`, next]) {
    controls.changeSettings({ webhookSecret })
    const description = `signed with ${webhookSecret}`
    controls.updateCustomer(stripeId, { description })
    await eventually(async () => (await rowOf(service, id)).description === description, { timeout: 30_000 })
  }
  await quiet()
  t.equal(await metric(service, 'lockstep_webhook_deliveries_total{outcome="bad_signature"}'), undefined)
  const updates = controls.events().filter(({ type }) => type === 'customer.updated')
  t.ok(updates.length >= 24)
  for (const { id: eventId } of updates) t.match(await settled(service, eventId), { status: 'processed' })

  await service.restart({ STRIPE_WEBHOOK_SECRET: next })
  // The start reads Stripe's list of events; what comes after that can come by the webhook only.
  await quiet()
  controls.changeSettings({ webhookSecret: old })
  const before = await storedEvents(service)
  controls.updateCustomer(stripeId, { description: 'signed with the old one only' })
  await eventually(() => controls.summary().recentDeliveries.at(-1)?.status === 400)
  t.equal(await storedEvents(service), before, 'nothing of it is stored')
  t.ok((await metric(service, 'lockstep_webhook_deliveries_total{outcome="bad_signature"}')) ?? 0)
  controls.changeSettings({ webhookSecret: next })
  await eventually(async () => (await rowOf(service, id)).description === 'signed with the old one only')
  await quiet()
  t.match((await api('GET', `/customers/${id}/sync`)).body, { status: 'in_sync', conflicts: [] }, 'and nothing is lost')
})

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

/** Another tenant whose Stripe objects live in a connected account. */
async function connectTenant({ pool }: Service, stripeAccount: string, livemode = false): Promise<string> {
  const id = newId()
  await pool.query(
    'insert into tenants (id, slug, name, stripe_account, livemode, swept_at) values ($1, $2, $2, $2, $3, now())',
    [id, stripeAccount, livemode],
  )
  return id
}

/** All that is known of a tenant's users, to prove that it did not change. */
async function holdings({ pool }: Service, tenantId: string): Promise<string> {
  const tables = ['users', 'sync_state', 'stripe_links', 'sync_conflicts', 'duplicate_customers']
  const rows = await Promise.all(
    tables.map((table) =>
      pool.query(`select to_jsonb(x) as row from ${table} x where tenant_id = $1 order by 1`, [tenantId]),
    ),
  )
  return JSON.stringify(rows.map((result) => result.rows))
}

t.test('Connect: whose event it is', async (t) => {
  const service = await startService(t)
  const { api, pool, simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const platform = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string
  const shop = await connectTenant(service, 'acct_shop')
  const { stripeId } = await newCustomer({ email: 'platform@example.com', description: 'of the platform' })
  await quiet()

  t.test('of another tenant: it goes there, both ways', async (t) => {
    const before = await holdings(service, platform)
    const { id } = controls.createCustomer({ email: 'shop@example.com', name: 'Shop Keeper' }, 'acct_shop')
    const user = await eventually(
      async () => (await pool.query('select * from users where stripe_customer_id = $1', [id])).rows[0],
    )
    await quiet()
    t.match(user, { tenant_id: shop, email: 'shop@example.com' })
    await pool.query("update users set description = 'by SQL' where id = $1", [user.id])
    await eventually(() => (controls.getCustomer(id, 'acct_shop') as Stripe.Customer).description === 'by SQL')
    await quiet()
    t.equal(await holdings(service, platform), before)
  })

  t.test('of another tenant, about a customer with the id of one of ours: ours is not touched', async (t) => {
    const before = await holdings(service, platform)
    await pool.query("update tenants set settings = jsonb_build_object('onRemoteCreate', 'link-only') where id = $1", [
      shop,
    ])
    // Its metadata even names our user.
    const twin = { ...(controls.getCustomer(stripeId) as unknown as Json), email: 'twin@example.com' }
    const of = (type: string) => eventOf(twin, { type, account: 'acct_shop', created: nowSeconds() + 60 })
    const created = of('customer.created')
    t.match(await deliver(service, created), { status: 200 })
    t.match(await eventually(() => settled(service, created.id)), { tenantId: shop, outcome: 'not_imported' })
    for (const type of ['customer.updated', 'customer.deleted']) {
      const event = of(type)
      t.match(await deliver(service, event, { path: `/${platform}` }), { status: 200 }, 'whatever the path says')
      t.match(await eventually(() => settled(service, event.id)), { tenantId: shop, status: 'processed' }, type)
    }
    t.equal(await holdings(service, platform), before)
  })

  t.test('of an account that nobody has: kept aside with 2xx, and nothing else', async (t) => {
    const [ours, theirs] = [await holdings(service, platform), await holdings(service, shop)]
    for (const type of ['customer.created', 'customer.updated', 'customer.deleted']) {
      const event = eventOf(controls.getCustomer(stripeId), {
        type,
        account: 'acct_nobody',
        created: nowSeconds() + 60,
      })
      t.match(await deliver(service, event), { status: 200, body: { received: true } }, type)
      t.match(await settled(service, event.id), { status: 'quarantined', outcome: null })
      t.match(await api('POST', `/events/${event.id}/replay`), { status: 404 }, 'not even on request')
      t.match(await deliver(service, event), { status: 200 }, 'again')
    }
    t.equal(await metric(service, 'lockstep_webhook_deliveries_total{outcome="quarantined"}'), 3)
    await quiet()
    t.equal(await holdings(service, platform), ours)
    t.equal(await holdings(service, shop), theirs)
  })

  t.test('kept aside, it is no word about our own customer with that id', async (t) => {
    // The time of an edit that we overwrote is looked for among the customer's events.
    const { id, stripeId: edited } = await newCustomer({ email: 'aside@example.com', description: 'base' })
    await quiet()
    controls.advanceClock(10_000)
    controls.setDeliveryFaults({ drop: 1 })
    controls.updateCustomer(edited, { description: 'theirs' })
    const { data } = controls.events()[0] as unknown as { data: Json }
    const foreign = eventOf({}, { data, account: 'acct_nobody', created: nowSeconds() + 3_000 })
    t.match(await deliver(service, foreign), { status: 200 })
    await api('PATCH', `/customers/${id}`, { description: 'ours' }, { prefer: 'wait=10' })
    controls.setDeliveryFaults()
    const own = controls.events()[0]
    t.match(own, { type: 'customer.updated', data: { previous_attributes: { description: 'theirs' } } })
    controls.resendEvent(own?.id ?? '')
    await eventually(() => settled(service, own?.id ?? ''))
    await quiet()
    t.match(await rowOf(service, id), { description: 'ours' })
    const { conflicts } = (await api('GET', `/customers/${id}/sync`)).body
    t.match(conflicts, [{ reason: 'overwritten', winner: 'local' }])
  })

  t.test('of our own account, named or not: it stays here', async (t) => {
    await pool.query('update tenants set stripe_account = $2 where id = $1', [platform, simulator.accountId])
    for (const account of [{}, { account: simulator.accountId }, { account: null }]) {
      const event = eventOf(controls.getCustomer(stripeId), account)
      t.match(await deliver(service, event), { status: 200 })
      t.match(await eventually(() => settled(service, event.id)), { tenantId: platform, status: 'processed' })
    }
    await pool.query('update tenants set stripe_account = null where id = $1', [platform])
  })
})

t.test('the other mode', async (t) => {
  const service = await startService(t)
  const { pool, simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const platform = (await pool.query("select id from tenants where slug = 'default'")).rows[0].id as string
  const { id, stripeId } = await newCustomer({ email: 'mode@example.com' })
  await quiet()
  const before = await storedEvents(service)

  controls.setDeliveryFaults({ livemodeMismatch: true })
  controls.updateCustomer(stripeId, { description: 'from the wrong mode' })
  await eventually(() => controls.summary().recentDeliveries.at(-1)?.status === 400)
  t.equal(await storedEvents(service), before, 'refused, and nothing of it is stored')
  t.match(await rowOf(service, id), { description: null })
  controls.setDeliveryFaults()
  await quiet()
  t.match(await rowOf(service, id), { description: 'from the wrong mode' }, 'the next try is right')

  // A live Connect endpoint also gets its accounts' test events, for as long as they are refused (docs.stripe.com/connect/webhooks).
  const shop = await connectTenant(service, 'acct_live', true)
  const holding = [await holdings(service, platform), await holdings(service, shop)]
  const object = controls.getCustomer(stripeId)
  for (const type of ['customer.created', 'customer.updated', 'customer.deleted']) {
    const test = eventOf(object, { type, account: 'acct_live', created: nowSeconds() + 60 })
    t.match(await deliver(service, test), { status: 200 }, 'a test event of a live account is taken')
    t.match(await settled(service, test.id), { status: 'quarantined' }, 'and does nothing')
  }
  const wrong = await storedEvents(service)
  const live = eventOf(object, { account: 'acct_nobody', livemode: true })
  t.match(await deliver(service, live), { status: 400, body: { code: 'wrong_mode' } }, 'a live one at a test endpoint')
  await pool.query('update tenants set livemode = true where id = $1', [platform])
  t.match(await deliver(service, eventOf(object)), { status: 400, body: { code: 'wrong_mode' } }, "the platform's own")
  t.equal(await storedEvents(service), wrong)
  const nobody = eventOf(object, { account: 'acct_nobody' })
  t.match(await deliver(service, nobody), { status: 200 })
  t.match(await settled(service, nobody.id), { status: 'quarantined' })
  await pool.query('update tenants set livemode = false where id = $1', [platform])
  t.strictSame([await holdings(service, platform), await holdings(service, shop)], holding)
})

t.test('clocks that do not agree', async (t) => {
  const service = await startService(t)
  const { simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const { id, stripeId } = await newCustomer({ email: 'clock@example.com' })
  await quiet()
  const before = await storedEvents(service)
  const skew = () => metric(service, 'lockstep_webhook_clock_skew_seconds')
  const near = (actual: number | undefined, expected: number) =>
    t.ok(actual !== undefined && Math.abs(actual - expected) < 20, `${actual} is about ${expected}`)

  const object = controls.getCustomer(stripeId)
  for (const seconds of [600, -600, 3_000_000]) {
    const answer = await deliver(service, eventOf(object), { timestamp: nowSeconds() - seconds })
    t.match(answer, { status: 400, body: { code: 'timestamp_out_of_tolerance' } }, `${seconds} s`)
    near(await skew(), seconds)
  }
  t.equal(await storedEvents(service), before, 'nothing of it is stored')
  t.match(await deliver(service, eventOf(object), { timestamp: nowSeconds() - 240 }), { status: 200 })
  near(await skew(), 240)
  const forged = { 'stripe-signature': `t=${nowSeconds() - 900},v1=${'0'.repeat(64)}` }
  await fetch(`${service.app.apiUrl}/webhooks/stripe`, { method: 'POST', headers: forged, body: '{}' })
  near(await skew(), 240)

  controls.setDeliveryFaults({ timestampSkewSeconds: -900 })
  controls.updateCustomer(stripeId, { description: 'while the clock was wrong' })
  await eventually(() => controls.summary().recentDeliveries.at(-1)?.status === 400)
  near(await skew(), 900)
  controls.setDeliveryFaults()
  await quiet()
  t.match(await rowOf(service, id), { description: 'while the clock was wrong' }, 'it comes once the clock is right')
  near(await skew(), 0)
})

/** A POST of which the test sends as much as it likes. */
function post(service: Service, headers: Record<string, string>) {
  const { hostname, port } = new URL(service.app.apiUrl ?? '')
  const socket = connect(Number(port), hostname)
  // The server closes while the client still writes: to the client that is a broken pipe.
  socket.on('error', () => {})
  let answer = ''
  socket.on('data', (chunk) => (answer += chunk))
  const closed = new Promise<string>((resolve) => socket.on('close', () => resolve(answer)))
  const lines = Object.entries({ host: hostname, 'content-type': 'application/json', ...headers })
  socket.write(
    `POST /webhooks/stripe HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
  )
  return { socket, closed }
}

const CHUNK = 0x10000
const PIECE = `${CHUNK.toString(16)}\r\n${'x'.repeat(CHUNK)}\r\n`

/** Sends chunks until it has sent so many, or the server has had enough; answers how many left. */
async function sendChunks(socket: Socket, most: number): Promise<number> {
  let sent = 0
  for (; sent < most && !socket.destroyed && socket.writable; sent += 1) {
    const hasRoom = socket.write(PIECE)
    // Whatever wakes it, also a breaking connection, is looked at by the condition of the loop.
    if (hasRoom) await new Promise((resolve) => setImmediate(resolve))
    else await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => {})
  }
  return sent
}

t.test('bodies that are too large', async (t) => {
  const service = await startService(t)
  const { simulator, newCustomer, quiet } = service
  const { stripeId } = await newCustomer({ email: 'large@example.com' })
  await quiet()
  const object = simulator.controls.getCustomer(stripeId)
  const before = await storedEvents(service)
  const counted = () => metric(service, 'lockstep_webhook_deliveries_total{outcome="body_too_large"}')
  const isRefusal = (t: Test, answer: string) => {
    t.match(answer, /^HTTP\/1\.1 413 /)
    t.match(answer, /^connection: close\r$/im, 'the connection is not used again')
    t.match(answer, '"code":"body_too_large"')
  }

  t.test('one that says so is refused before any of it comes', async (t) => {
    const { closed } = post(service, { 'content-length': String(10 * 1024 * 1024) })
    isRefusal(t, await closed)
    t.equal(await counted(), 1)
  })

  t.test('one that says nothing is refused once it is too long', async (t) => {
    const { socket, closed } = post(service, { 'transfer-encoding': 'chunked' })
    await sendChunks(socket, LIMIT / CHUNK + 1)
    isRefusal(t, await closed)
    t.equal(await counted(), 2)
  })

  t.test('and would it never end, no more of it is taken', async (t) => {
    const { socket, closed } = post(service, { 'transfer-encoding': 'chunked' })
    const sent = (await sendChunks(socket, Number.POSITIVE_INFINITY)) * CHUNK
    await closed
    t.ok(sent < LIMIT + 16 * 1024 * 1024, `${sent} bytes left, some of them only into the buffers between`)
    t.equal(await counted(), 3)
  })

  t.test('many at once leave the memory as it was', async (t) => {
    const first = process.memoryUsage().rss
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(
        Array.from({ length: 4 }, async () => {
          const { socket, closed } = post(service, { 'transfer-encoding': 'chunked' })
          await sendChunks(socket, 160)
          await closed
        }),
      )
    }
    t.equal(await counted(), 43)
    const grown = process.memoryUsage().rss - first
    t.ok(grown < 200 * 1024 * 1024, `400 MB were offered; the process has grown by ${Math.round(grown / 1048576)} MB`)
  })

  t.test('nothing of them is stored, and the largest that fits is', async (t) => {
    t.equal(await storedEvents(service), before)
    const event = eventOf(object, { padding: '' })
    const padding = 'x'.repeat(LIMIT - Buffer.byteLength(JSON.stringify(event)))
    const payload = JSON.stringify({ ...event, padding })
    t.equal(Buffer.byteLength(payload), LIMIT)
    t.match(await deliver(service, payload), { status: 200 })
    t.match(await deliver(service, `${payload} `), { status: 413 })

    const chunked = JSON.stringify(eventOf(object, { padding: padding.slice(100) }))
    const call = request(`${service.app.apiUrl}/webhooks/stripe`, {
      method: 'POST',
      headers: { 'stripe-signature': sign(service, chunked), 'transfer-encoding': 'chunked' },
    })
    for (let at = 0; at < chunked.length; at += 100_000) call.write(chunked.slice(at, at + 100_000))
    call.end()
    const [response] = await once(call, 'response')
    t.equal(response.statusCode, 200, 'without a length, too')
    response.resume()
    await quiet()
    t.equal(await storedEvents(service), before + 2)
  })
})

t.test('a backlog shows', async (t) => {
  const service = await startService(t)
  const { api, pool } = service
  const health = async () => (await api('GET', '/health')).body
  await service.quiet()
  t.match(await health(), { status: 'ok', parts: { inbox: { status: 'ok', pending: 0, oldestSeconds: 0 } } })
  const wait = (age: string) =>
    pool.query(
      `insert into stripe_events (tenant_id, id, type, livemode, created, payload, source, received_at, next_attempt_at)
       select id, 'evt_' || gen_random_uuid(), 'customer.updated', false, now(), '{}', 'webhook',
         now() - $1::interval, now() + interval '1 hour' from tenants where slug = 'default'`,
      [age],
    )
  await wait('20 seconds')
  const young = await health()
  t.match(young, { status: 'ok', parts: { inbox: { status: 'ok', pending: 1 } } }, 'a burst is nothing unusual')
  t.ok(young.parts.inbox.oldestSeconds >= 20)
  await wait('90 seconds')
  const old = await health()
  t.match(old, {
    status: 'degraded',
    parts: { inbox: { status: 'degraded', code: 'inbox_behind', pending: 2 }, database: { status: 'ok' } },
  })
  t.ok(old.parts.inbox.oldestSeconds >= 90)
  t.equal((await api('GET', '/health/ready')).status, 200, 'more deliveries can be taken')
  t.equal(await metric(service, 'lockstep_inbox_events{status="pending"}'), 2)
  await pool.query("delete from stripe_events where status = 'pending'")
  t.match(await health(), { status: 'ok', parts: { inbox: { status: 'ok', pending: 0 } } })
})
