import t, { type Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { makeMetrics } from '../../src/lib/metrics.js'
import {
  StripeCustomerDeletedError,
  StripeCustomerService,
  toStripeCustomerResponse,
} from '../../src/services/stripe-customer.service.js'
import type { FaultKind } from '../../src/simulator/faults.js'
import { startSimulator } from '../../src/simulator/server.js'
import { makeStripe, makeStripeAccount } from '../../src/stripe/account.js'
import {
  StripeAuthError,
  StripeIdempotencyError,
  StripeNotFoundError,
  StripeRateLimitError,
  StripeUnavailableError,
  StripeValidationError,
} from '../../src/stripe/errors.js'
import { openTestCore } from '../helpers/core.js'

async function open(t: Test) {
  const { pool, controls, ...core } = await openTestCore(t)
  return { service: core.customersOf(core.tenant), pool, controls }
}

t.test('customers in Stripe', async (t) => {
  const { service, pool, controls } = await open(t)
  const callsMade = () => Object.values(controls.summary().calls).reduce((sum, { total }) => sum + total, 0)

  t.test('create, change, read, find, delete', async (t) => {
    const made = await service.createCustomer({ email: 'ada@example.com', name: 'Ada', metadata: { tier: 'gold' } })
    t.match(toStripeCustomerResponse(made), {
      id: /^cus_/,
      email: 'ada@example.com',
      name: 'Ada',
      phone: null,
      metadata: { tier: 'gold' },
    })
    const changed = await service.updateCustomer(made.id, { phone: '+14155550100', name: '', metadata: { tier: '' } })
    t.match(changed, { email: 'ada@example.com', phone: '+14155550100', name: null, metadata: {} })
    t.match(await service.getCustomer(made.id), { id: made.id, phone: '+14155550100' })
    t.match(await service.getCustomerByEmail('ada@example.com'), { id: made.id })
    t.equal(await service.getCustomerByEmail('nobody@example.com'), null)
    t.match(await service.deleteCustomer(made.id), { id: made.id, deleted: true })
    await t.rejects(service.getCustomer(made.id), StripeCustomerDeletedError)
    await t.rejects(service.deleteCustomer(made.id), StripeNotFoundError)
    await t.rejects(service.updateCustomer(made.id, { name: 'Late' }), StripeNotFoundError)
  })

  t.test('what Stripe would refuse is refused before any call, without quoting it', async (t) => {
    const before = callsMade()
    const long = 'x'.repeat(600)
    const cases: [object, string][] = [
      [{ email: 'not an e-mail' }, 'email'],
      [{ phone: '1'.repeat(21) }, 'phone'],
      [{ name: long }, 'name'],
      [{ metadata: { k: long } }, 'metadata[k]'],
      [{ metadata: Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`k${n}`, 'v'])) }, 'metadata'],
      [{ metadata: { 'a[b]': 'v' } }, 'metadata[a[b]]'],
      [{ shipping: { name: 'Ada' } }, 'shipping'],
      [{ unknown: 1 }, 'unknown'],
    ]
    for (const [data, param] of cases) {
      const error = await service.createCustomer(data).then(
        () => null,
        (thrown) => thrown,
      )
      t.type(error, StripeValidationError, JSON.stringify(data).slice(0, 60))
      t.equal(error.param, param)
      t.notMatch(error.message, /not an e-mail|xxx|111/)
      t.ok(error.notApplied)
    }
    await t.rejects(service.updateCustomer('cus_1', { email: 'nope' }), StripeValidationError)
    t.equal(callsMade(), before)
  })

  t.test('a blank id or e-mail means nobody, not everybody', async (t) => {
    await service.createCustomer({ email: 'anyone@example.com' })
    const before = callsMade()
    for (const id of ['', ' ', 'cus_1/x', 'x'.repeat(256)]) {
      await t.rejects(service.getCustomer(id), StripeValidationError)
      await t.rejects(service.updateCustomer(id, { name: 'Someone' }), StripeValidationError)
      await t.rejects(service.deleteCustomer(id), StripeValidationError)
    }
    await t.rejects(service.getCustomerByEmail(''), { code: 'stripe_invalid_request' })
    await t.rejects(service.getCustomerByEmail(' a@b'), StripeValidationError)
    t.equal(callsMade(), before)
    t.equal(await service.getCustomerByEmail('ANYONE@example.com'), null, 'Stripe minds the case')
  })

  t.test('a refused value is named in Stripe’s notation, whatever its key', async (t) => {
    for (const key of ['order.id', 'a/b', 'a~b', 'ключ']) {
      const refused = service.createCustomer({ metadata: { [key]: 'x'.repeat(501) } })
      await t.rejects(refused, { param: `metadata[${key}]` } as object as Error)
    }
  })

  t.test('each kind of failure is an error of ours that says what to do and leaks nothing', async (t) => {
    const { id } = await service.createCustomer({ email: 'errors@example.com' })
    const kinds: [FaultKind, typeof StripeAuthError, boolean, boolean][] = [
      ['401', StripeAuthError, true, true],
      ['403', StripeAuthError, true, true],
      ['wrong_mode', StripeAuthError, true, true],
      ['429', StripeRateLimitError, true, true],
      ['lock_timeout', StripeRateLimitError, true, true],
      ['500', StripeUnavailableError, true, false],
      ['500_after', StripeUnavailableError, true, false],
      ['truncate', StripeUnavailableError, true, false],
    ]
    for (const [kind, expected, retryable, notApplied] of kinds) {
      const fault = controls.faults.add({ operation: 'customers.update', kind })
      const error = await service.updateCustomer(id, { email: 'secret@example.com' }).then(
        () => null,
        (thrown) => thrown,
      )
      controls.faults.remove(fault.id)
      t.type(error, expected, kind)
      t.match(error, { retryable, notApplied }, kind)
      t.notMatch(error.message, /secret@|sk_test/)
    }
    await t.rejects(service.getCustomer('cus_never'), {
      code: 'stripe_not_found',
      retryable: false,
      stripeCode: 'resource_missing',
    })
    // The simulator's own check, past ours: an e-mail with two @ is none of Stripe's.
    const refused = await service.createCustomer({ email: 'a@b@c' }).then(
      () => null,
      (thrown) => thrown,
    )
    if (refused !== null) {
      t.type(refused, StripeValidationError)
      t.notMatch(refused.message, 'a@b@c')
    }
  })

  t.test('the same key with the same data is one customer; with other data an error', async (t) => {
    const first = await service.createCustomer({ email: 'once@example.com' }, 'lockstep-test-1')
    const again = await service.createCustomer({ email: 'once@example.com' }, 'lockstep-test-1')
    t.equal(again.id, first.id)
    t.equal(again.lastResponse.headers['idempotent-replayed'], 'true')
    await t.rejects(service.createCustomer({ email: 'other@example.com' }, 'lockstep-test-1'), StripeIdempotencyError)
    t.equal(controls.dump({ limit: 1_000 }).data.filter(({ email }) => email === 'once@example.com').length, 1)
  })

  t.test('a create whose answer was lost is found by its traces', async (t) => {
    const since = new Date()
    const byId = await service.createCustomer(
      { email: 'trace@example.com', metadata: { lockstep_user_id: 'u1' } },
      'lockstep-t-2',
    )
    const look = { userId: 'u1', email: 'trace@example.com', since }
    t.equal(await service.findCreatedCustomer({ ...look, idempotencyKey: 'lost' }), byId.id)
    t.equal(await service.findCreatedCustomer({ ...look, email: null, idempotencyKey: 'lockstep-t-2' }), byId.id)
    t.equal(
      await service.findCreatedCustomer({ userId: 'u2', email: 'trace@example.com', since, idempotencyKey: 'lost' }),
      null,
    )
  })

  t.test('a user gets its customer, once, however many ask', async (t) => {
    const { rows } = await pool.query(
      `insert into users (email, first_name) values ('many@example.com', 'Many') returning id`,
    )
    const ids = await Promise.all(Array.from({ length: 10 }, () => service.ensureCustomerExists(rows[0].id)))
    t.equal(new Set(ids).size, 1)
    t.equal(controls.dump({ limit: 1_000 }).data.filter(({ email }) => email === 'many@example.com').length, 1)

    await pool.query(`update users set first_name = 'More' where id = $1`, [rows[0].id])
    await service.syncCustomerWithUser(rows[0].id)
    t.match(controls.getCustomer(ids[0] ?? ''), { name: 'More' })
  })

  t.test('who has no customer and gets none, and who is not there', async (t) => {
    const { rows } = await pool.query(
      `insert into users (email, state) values ('archived@example.com', 'archived') returning id`,
    )
    await t.rejects(service.ensureCustomerExists(rows[0].id), { code: 'user_without_customer' })
    await t.rejects(service.ensureCustomerExists('01a00000-0000-7000-8000-000000000000'), { code: 'not_found' })
    await t.rejects(service.syncCustomerWithUser('nonsense'), { code: 'not_found' })
    const fault = controls.faults.add({ operation: '*', kind: '401' })
    const { rows: more } = await pool.query(`insert into users (email) values ('lane@example.com') returning id`)
    await t.rejects(service.ensureCustomerExists(more[0].id), { code: 'lane_paused' })
    controls.faults.remove(fault.id)
  })
})

t.test(
  'the life of a customer, in real Stripe test mode when STRIPE_TEST_SECRET_KEY is set, else in the simulator',
  async (t) => {
    const secretKey = process.env.STRIPE_TEST_SECRET_KEY
    const simulator = secretKey === undefined ? await startSimulator() : null
    t.teardown(() => simulator?.close())
    const account = makeStripeAccount({
      stripe: makeStripe({ secretKey: secretKey ?? 'sk_test_life', apiBase: simulator?.url }),
      connectAccount: null,
      urgency: 'interactive',
      limiter: { take: async () => {}, slow: async () => {} },
      metrics: makeMetrics(),
    })
    const service = new StripeCustomerService({
      account,
      newIdempotencyKey: () => `lockstep-life-${newId()}`,
      sync: async () => null,
    })
    const email = `life-${Date.now()}@example.com`
    const made = await service.createCustomer({
      email,
      name: ' Ada ',
      address: { line1: '1 Main St', country: 'us' },
      metadata: { lockstep_user_id: 'life' },
    })
    t.match(made, { email, name: 'Ada', address: { country: 'US', city: null } }, 'Stripe trims and upper-cases')
    t.match(await service.updateCustomer(made.id, { address: { line1: '2 Main St' } }), {
      address: { line1: '2 Main St', country: null },
    })
    t.match(await service.getCustomerByEmail(email), { id: made.id })
    t.match(await service.deleteCustomer(made.id), { deleted: true })
    await t.rejects(service.getCustomer(made.id), StripeCustomerDeletedError)
  },
)
