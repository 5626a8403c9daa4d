import Stripe from 'stripe'
import t, { type Test } from 'tap'
import { makeApiKeys } from '../../src/access/keys.js'
import { systemClock } from '../../src/lib/clock.js'
import { newId } from '../../src/lib/ids.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { untilFiled } from '../helpers/inbox.js'
import { type Answer, type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

// A dozen tenants' first runs take a second alone, and much longer beside other tests.
t.setTimeout(580_000)

type Json = Record<string, unknown>

interface Shop {
  id: string
  key: string
  account: string
  secretKey: string
  call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>
}

/** A key of an operator, as `lockstep keys create --role operator` makes it. */
async function operatorKey({ pool }: Service): Promise<string> {
  const keys = makeApiKeys({ prisma: openPrisma(pool), clock: systemClock })
  const { rows } = await pool.query("select id from tenants where slug = 'default'")
  const by = { tenantId: rows[0].id, actor: 'cli', requestId: null, ip: null }
  return (await keys.create(by, { name: 'operations', role: 'operator' })).key
}

/** Makes a tenant by the API; its Stripe key is good for an account of its own. */
async function newShop(service: Service, operator: string, slug: string): Promise<Shop> {
  const made = await service.api('POST', '/tenants', { slug, name: slug }, { authorization: `Bearer ${operator}` })
  if (made.status !== 201) throw new Error(JSON.stringify(made.body))
  const { id, adminKey: key } = made.body
  const account = `acct_1${slug[0]?.toUpperCase()}${slug.slice(1)}`
  return {
    id,
    key,
    account,
    secretKey: `sk_test_${account}_first`,
    call: (method, path, body, headers) =>
      service.api(method, path, body, { authorization: `Bearer ${key}`, ...headers }),
  }
}

function sdk({ simulator }: Service, secretKey: string): Stripe {
  const { hostname, port } = new URL(simulator.url)
  return new Stripe(secretKey, { host: hostname, port, protocol: 'http', telemetry: false, maxNetworkRetries: 0 })
}

/** A webhook endpoint of the shop's own account; answers its secret. */
async function newEndpoint(service: Service, { id, secretKey }: Pick<Shop, 'id' | 'secretKey'>): Promise<string> {
  const endpoint = await sdk(service, secretKey).webhookEndpoints.create({
    url: `${service.app.apiUrl}/webhooks/stripe/${id}`,
    enabled_events: ['*'],
  })
  return endpoint.secret ?? ''
}

function eventOf(object: object, changes: Json = {}): Json & { id: string } {
  return {
    id: `evt_${newId().replaceAll('-', '')}`,
    object: 'event',
    api_version: Stripe.API_VERSION,
    created: Math.floor(Date.now() / 1000),
    data: { object },
    livemode: false,
    pending_webhooks: 1,
    request: { id: null, idempotency_key: null },
    type: 'customer.updated',
    ...changes,
  }
}

async function deliver(service: Service, path: string, secret: string, event: Json) {
  const payload = JSON.stringify(event)
  const timestamp = Math.floor(Date.now() / 1000)
  const response = await fetch(`${service.app.apiUrl}/webhooks/stripe${path}`, {
    method: 'POST',
    headers: { 'stripe-signature': Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp }) },
    body: payload,
  })
  return { status: response.status, body: (await response.json()) as Json }
}

const customersIn = ({ simulator }: Service, account?: string) =>
  simulator.controls.dump({ limit: 1_000, ...(account === undefined ? {} : { account }) }).data

function isRefused(t: Test, answer: Answer, path: string, why: string): void {
  t.match(answer, { status: 422, body: { code: 'stripe_key_refused', errors: [{ path, code: why }] } })
}

t.test('tenants with Stripe accounts of their own', async (t) => {
  const service = await startService(t)
  const { pool, simulator, api, newCustomer, quiet } = service
  const { controls } = simulator
  const operator = await operatorKey(service)
  const asOperator = (method: string, path: string, body?: unknown) =>
    api(method, path, body, { authorization: `Bearer ${operator}` })
  const acme = await newShop(service, operator, 'acme')
  const bolt = await newShop(service, operator, 'bolt')
  const secrets = { acme: '', bolt: '' }
  const adaOf: Record<string, { id: string; stripeId: string }> = {}

  t.test('an operator sees all tenants, and nothing in them', async (t) => {
    const { body } = await asOperator('GET', '/tenants')
    t.strictSame(
      body.data.map((tenant: { slug: string }) => tenant.slug),
      ['bolt', 'acme', 'default'],
    )
    const first = (await asOperator('GET', '/tenants?limit=1')).body
    t.equal((await asOperator('GET', `/tenants?limit=1&cursor=${first.nextCursor}`)).body.data[0].slug, 'acme')
    t.match(await asOperator('GET', `/tenants/${acme.id}`), { status: 200, body: { slug: 'acme' } })
    t.match(await asOperator('PATCH', `/tenants/${acme.id}`, { name: 'Acme Ltd' }), { body: { name: 'Acme Ltd' } })
    t.equal((await asOperator('GET', '/tenants/00000000-0000-4000-8000-000000000000')).status, 404)
    t.equal((await asOperator('GET', '/customers')).status, 403)
    t.match(await asOperator('POST', '/tenants', { slug: 'acme', name: 'x' }), {
      status: 409,
      body: { code: 'tenant_exists' },
    })
    t.match(await acme.call('GET', '/tenant'), { status: 200, body: { id: acme.id, name: 'Acme Ltd' } })
    t.equal((await acme.call('GET', '/tenants')).status, 403, 'an admin is no operator')
    const grab = await acme.call('POST', '/api-keys', { name: 'more', role: 'operator' })
    t.match(grab, { status: 403, body: { code: 'permission_denied' } }, 'and cannot make one')
  })

  t.test('without an account nothing is called, and nobody is said to wait', async (t) => {
    t.match((await acme.call('GET', '/tenant')).body.stripe, { status: 'not_connected', key: null, webhookSecrets: [] })
    const { body } = await acme.call('POST', '/customers', { email: 'early@acme.example' })
    await quietBut(service, acme.id)
    t.match((await acme.call('GET', `/customers/${body.id}/sync`)).body, { status: 'pending' })
    t.match((await api('GET', '/health')).body.parts, { sync: { dirty: 0 }, stripe: { status: 'ok' } })
    t.equal(customersIn(service).length, 0, 'least of all at the platform')
  })

  t.test('with its own key its customers are in its own account, both ways', async (t) => {
    for (const shop of [acme, bolt]) {
      const secret = await newEndpoint(service, shop)
      secrets[shop === acme ? 'acme' : 'bolt'] = secret
      const answer = await shop.call('PUT', '/tenant/stripe', { secretKey: shop.secretKey, webhookSecrets: [secret] })
      t.match(answer, {
        status: 200,
        body: {
          stripe: {
            status: 'connected',
            account: shop.account,
            mode: 'test',
            key: { last4: shop.secretKey.slice(-4), sealedWith: /^[0-9a-f]{16}$/ },
            webhookSecrets: [{ last4: secret.slice(-4) }],
          },
        },
      })
      t.notMatch(JSON.stringify(answer.body), shop.secretKey)
      t.notMatch(JSON.stringify(answer.body), secret)
      const made = await shop.call('POST', '/customers', { email: 'ada@example.com' }, { prefer: 'wait=10' })
      t.equal(made.status, 201)
      adaOf[shop.account] = { id: made.body.id, stripeId: made.body.stripeCustomerId }
    }
    await newCustomer({ email: 'ada@example.com' })
    await quiet()
    t.same(emails(customersIn(service, acme.account)), ['ada@example.com', 'early@acme.example'])
    t.same(emails(customersIn(service, bolt.account)), ['ada@example.com'])
    t.same(emails(customersIn(service)), ['ada@example.com'])

    const ada = adaOf[acme.account]
    controls.updateCustomer(ada?.stripeId ?? '', { description: 'from their dashboard' }, acme.account)
    await eventually(async () => (await acme.call('GET', `/customers/${ada?.id}`)).body.description !== null)
    await quiet()
    const others = await pool.query('select 1 from users where description is not null and tenant_id <> $1', [acme.id])
    t.equal(others.rows.length, 0, 'nobody else’s')

    const { rows } = await pool.query(`select stripe_secret_key, stripe_webhook_secrets from tenants`)
    t.notMatch(JSON.stringify(rows), /sk_test|whsec_/, 'nothing of it is stored in the clear')
    const audit = await pool.query("select changes from audit_log where action = 'tenant.stripe'")
    t.equal(audit.rows.length, 2)
    t.notMatch(JSON.stringify(audit.rows), /sk_test|whsec_/)
    const lanes = await pool.query('select account as key from stripe_pace')
    t.same(
      lanes.rows
        .map((row) => row.key)
        .filter((key) => /^(acct|platform)/.test(key))
        .sort(),
      [`${acme.account}:test`, `${bolt.account}:test`, 'platform:test'],
      'each account has calls of its own',
    )
  })

  t.test('who signed a delivery decides whose it can be', async (t) => {
    const ada = adaOf[acme.account]
    const object = () => controls.getCustomer(ada?.stripeId ?? '', acme.account)
    const storedOf = async (id: string) => {
      await untilFiled(pool)
      return (await pool.query('select tenant_id, status from stripe_events where id = $1', [id])).rows[0]
    }
    for (const [path, secret] of [
      [`/${acme.id}`, secrets.bolt],
      [`/${acme.id}`, service.webhookSecret],
      ['', secrets.acme],
      [`/${bolt.id}`, secrets.acme],
    ] as const) {
      const event = eventOf(object())
      t.match(await deliver(service, path, secret, event), { status: 400, body: { code: 'bad_signature' } })
      t.equal(await storedOf(event.id), undefined)
    }
    const named = eventOf(object(), { account: acme.account })
    t.equal((await deliver(service, `/${acme.id}`, secrets.acme, named)).status, 200)
    t.match(await storedOf(named.id), { tenant_id: acme.id, status: /pending|processed/ })

    // A tenant knows its own secret, so what it signs must reach no other tenant.
    await pool.query('update tenants set stripe_account = $2 where id = $1', [bolt.id, bolt.account])
    const theirs = controls.getCustomer(adaOf[bolt.account]?.stripeId ?? '', bolt.account)
    const forged = eventOf({ ...theirs, description: 'forged' }, { account: bolt.account })
    t.equal((await deliver(service, `/${acme.id}`, secrets.acme, forged)).status, 200)
    t.match(await storedOf(forged.id), { tenant_id: acme.id, status: 'quarantined' })
    await pool.query('update tenants set stripe_account = null where id = $1', [bolt.id])
    const unnamed = eventOf({ ...theirs, description: 'forged' })
    t.equal((await deliver(service, `/${acme.id}`, secrets.acme, unnamed)).status, 200)
    await eventually(async () => (await storedOf(unnamed.id))?.status === 'quarantined')
    const { body: kept } = await acme.call('GET', `/events/${unnamed.id}`)
    t.match(kept, { error: /none of this tenant/, attempts: 0, payload: { data: { object: { id: theirs.id } } } })
    t.notMatch(JSON.stringify(kept), /forged|constraint|23505/)
    await quiet()
    t.equal((await bolt.call('GET', `/customers/${adaOf[bolt.account]?.id}`)).body.description, null)
  })

  t.test('a webhook secret is replaced while both count', async (t) => {
    const ada = adaOf[acme.account]
    const object = controls.getCustomer(ada?.stripeId ?? '', acme.account)
    const set = (webhookSecrets: string[]) => acme.call('PUT', '/tenant/stripe', { webhookSecrets })
    const answers = async (secret: string) => (await deliver(service, `/${acme.id}`, secret, eventOf(object))).status
    const next = await newEndpoint(service, acme)
    t.match((await set([secrets.acme, next])).body.stripe, { key: { last4: 'irst' }, webhookSecrets: { length: 2 } })
    t.strictSame([await answers(secrets.acme), await answers(next)], [200, 200])
    await set([next])
    await eventually(async () => (await answers(secrets.acme)) === 400)
    t.equal(await answers(next), 200)
    await set([secrets.acme, next])
  })

  t.test('a key that cannot be this tenant’s is refused, with the reason, and nothing is changed', async (t) => {
    const before = (await pool.query('select * from tenants order by id')).rows
    const put = (body: Json) => acme.call('PUT', '/tenant/stripe', body)
    controls.changeKey('sk_test_acct_1Acme_gone', { revoked: true })
    controls.changeKey('rk_test_acct_1Acme_reader', { allow: ['customers.list', 'customers.retrieve', 'events.*'] })
    isRefused(t, await put({ secretKey: 'sk_test_acct_1Acme_gone' }), 'secretKey', 'revoked')
    const weak = await put({ secretKey: 'rk_test_acct_1Acme_reader' })
    isRefused(t, weak, 'secretKey', 'lacks_permission')
    t.match(weak.body.detail, 'write customers')
    isRefused(t, await put({ secretKey: 'sk_live_acct_1Acme' }), 'secretKey', 'wrong_mode')
    isRefused(t, await put({ secretKey: bolt.secretKey }), 'secretKey', 'account_taken')
    isRefused(t, await put({ secretKey: 'sk_test_flows' }), 'secretKey', 'account_taken')
    isRefused(t, await put({ secretKey: 'sk_test_another_of_the_platform' }), 'secretKey', 'account_taken')
    isRefused(t, await put({ secretKey: 'sk_test_acct_1Other' }), 'secretKey', 'another_account')
    t.match(await put({ secretKey: null, connectAccount: 'acct_1Bolt' }), { status: 403 })
    const given = await asOperator('PATCH', `/tenants/${acme.id}`, { connectAccount: bolt.account })
    t.match(given, { status: 422, body: { errors: [{ path: 'connectAccount' }] } }, 'the field that was sent')
    for (const [secretKey, code] of [
      ['pk_test_abc', 'wrong_format'],
      ['', 'wrong_format'],
      [1, 'wrong_type'],
    ]) {
      t.match(await put({ secretKey }), { status: 400, body: { errors: [{ path: 'secretKey', code }] } })
    }
    controls.faults.add({ operation: 'customers.list', kind: '500', times: 1 })
    t.match(await put({ secretKey: 'sk_test_acct_1Acme_new' }), { status: 502, body: { code: 'stripe_unavailable' } })
    t.strictSame((await pool.query('select * from tenants order by id')).rows, before)
  })

  t.test('a restricted key that may not read its account is known by its customers', async (t) => {
    const needed = ['customers.*', 'events.*']
    controls.changeKey('rk_test_acct_1Acme_narrow', { allow: needed })
    controls.changeKey('rk_test_acct_1Bolt_narrow', { allow: needed })
    controls.changeKey('rk_test_acct_1Other_narrow', { allow: needed })
    const put = (secretKey: string) => acme.call('PUT', '/tenant/stripe', { secretKey })
    isRefused(t, await put('rk_test_acct_1Bolt_narrow'), 'secretKey', 'account_taken')
    isRefused(t, await put('rk_test_acct_1Other_narrow'), 'secretKey', 'another_account')
    t.match((await put('rk_test_acct_1Acme_narrow')).body.stripe, { status: 'connected', account: null })
    t.match((await put(acme.secretKey)).body.stripe, { status: 'connected', account: acme.account })
  })

  t.test('a revoked key stops its tenant alone; a new one takes the work up, without a restart', async (t) => {
    await quiet()
    const ada = adaOf[acme.account]
    controls.changeKey(acme.secretKey, { revoked: true })
    const paused = await acme.call('PATCH', `/customers/${ada?.id}`, { description: 'kept' }, { prefer: 'wait=1' })
    t.equal(paused.status, 202)
    await eventually(async () => (await acme.call('GET', '/tenant')).body.stripe.status === 'refused')
    t.match((await acme.call('GET', '/tenant')).body.stripe, { refusedSince: String, refusal: /refuses our key/ })
    t.match((await api('GET', '/health')).body.parts.stripe, {
      status: 'degraded',
      refused: 1,
      code: 'stripe_auth_failed',
    })
    t.match((await api('GET', '/metrics')).body, /^lockstep_lane_paused 1$/m)
    const other = await bolt.call('POST', '/customers', { email: 'still@bolt.example' }, { prefer: 'wait=10' })
    t.match(other, { status: 201, body: { stripeCustomerId: /^cus_/ } }, 'another tenant goes on')

    const renewed = await acme.call('PUT', '/tenant/stripe', { secretKey: `sk_test_${acme.account}_second` })
    t.match(renewed.body.stripe, { status: 'connected', key: { last4: 'cond' }, refusal: null })
    await eventually(() => customersIn(service, acme.account).some(({ description }) => description === 'kept'))
    await quiet()
    t.match((await api('GET', '/health')).body.parts.stripe, { status: 'ok', refused: 0 })
  })

  t.test('a connected account is given out by operators', async (t) => {
    const cafe = await newShop(service, operator, 'cafe')
    t.match(await cafe.call('PUT', '/tenant/stripe', { connectAccount: 'acct_1Connected' }), {
      status: 403,
      body: { code: 'permission_denied' },
    })
    const given = await asOperator('PATCH', `/tenants/${cafe.id}`, { connectAccount: 'acct_1Connected' })
    t.match(given, { status: 200, body: { stripe: { status: 'connected', account: 'acct_1Connected', key: null } } })
    const twice = await asOperator('PATCH', `/tenants/${bolt.id}`, { connectAccount: 'acct_1Connected' })
    t.equal(twice.status, 422)
    const made = await cafe.call('POST', '/customers', { email: 'c@cafe.example' }, { prefer: 'wait=10' })
    t.equal(made.status, 201)
    t.same(emails(customersIn(service, 'acct_1Connected')), ['c@cafe.example'])
    controls.updateCustomer(made.body.stripeCustomerId, { description: 'by Connect' }, 'acct_1Connected')
    await eventually(
      async () => (await cafe.call('GET', `/customers/${made.body.id}`)).body.description === 'by Connect',
    )
    // The platform's own events are no tenant's of a connected account, wherever they come in.
    const { id: event } = { id: eventOf(customersIn(service)[0] ?? {}) }
    t.equal((await deliver(service, `/${cafe.id}`, service.webhookSecret, event)).status, 200)
    await untilFiled(pool)
    const { rows } = await pool.query(
      'select t.slug from stripe_events e join tenants t on t.id = e.tenant_id where e.id = $1',
      [event.id],
    )
    t.strictSame(rows, [{ slug: 'default' }])
  })

  t.test('each start reads what was missed, of every tenant that has an account', async (t) => {
    const idle = await newShop(service, operator, 'idle')
    await quiet()
    controls.setDeliveryFaults({ drop: 1 })
    controls.updateCustomer(adaOf[bolt.account]?.stripeId ?? '', { description: 'missed' }, bolt.account)
    await service.restart({})
    controls.setDeliveryFaults()
    await eventually(
      async () => (await bolt.call('GET', `/customers/${adaOf[bolt.account]?.id}`)).body.description === 'missed',
    )
    const { rows } = await pool.query(
      `select distinct t.slug from reconciliations r join tenants t on t.id = r.tenant_id where r.trigger = 'start' order by 1`,
    )
    t.same(rows, [{ slug: 'acme' }, { slug: 'bolt' }, { slug: 'cafe' }, { slug: 'default' }])
    t.ok(idle.id)
  })
})

/** Quiet but for the tenant that waits for its account. */
async function quietBut({ pool }: Service, tenantId: string): Promise<void> {
  await eventually(async () => {
    const { rows } = await pool.query('select 1 from sync_state where dirty and tenant_id <> $1', [tenantId])
    return rows.length === 0
  })
}

function emails(customers: { email: string | null }[]): (string | null)[] {
  return customers.map(({ email }) => email).sort()
}
