import t, { type Test } from 'tap'
import type { TenantSettings } from '../../src/models/tenant.js'
import { insertEvents } from '../../src/repositories/stripe-events.js'
import { saveSettings } from '../../src/repositories/tenant-records.js'
import { newEvent } from '../../src/sync/stored-event.js'
import { openTestCore } from '../helpers/core.js'

async function open(t: Test) {
  const core = await openTestCore(t)
  const { db, pool, controls, tenant, vault, drain } = core
  return {
    ...core,
    settings: (settings: Partial<TenantSettings>) => saveSettings(db, tenant.id, settings),
    async newUser(email: string): Promise<string> {
      return (await pool.query('insert into users (email) values ($1) returning id', [email])).rows[0].id
    },
    customerOf: async (id: string) =>
      (await pool.query('select stripe_customer_id as id from users where id = $1', [id])).rows[0].id,
    /** Every event that Stripe has made is in, and each that waits is looked at. */
    async eventsComeIn() {
      const events = controls.events().map((event) => newEvent(tenant.id, event, 'webhook'))
      await insertEvents(db, vault.cipher, events.reverse())
      await pool.query('update stripe_events set next_attempt_at = null')
      await drain.drainBatch()
    },
    outcomeOf: async (stripeId: string) =>
      (
        await pool.query('select outcome from stripe_events where stripe_customer_id = $1 order by created desc', [
          stripeId,
        ])
      ).rows.map(({ outcome }) => outcome),
    duplicates: async () =>
      (
        await pool.query(
          'select stripe_customer_id as "stripeId", user_id as "userId", reason, candidates, status from duplicate_customers',
        )
      ).rows,
  }
}

t.test('while one who looks like it is being created, nobody else gets it', async (t) => {
  const { newUser, customerOf, reconcile, controls, eventsComeIn, duplicates, outcomeOf } = await open(t)
  const creating = await newUser('two@example.com')
  const other = await newUser('two@example.com')
  controls.faults.add({ operation: 'customers.create', kind: 'truncate', times: 1 })
  t.match(await reconcile(creating), { outcome: 'retry' })
  const { id: stripeId } = controls.createCustomer({ email: 'two@example.com' })
  await eventsComeIn()
  t.strictSame(await outcomeOf(stripeId), [null], 'it waits')
  t.equal(await customerOf(other), null)
  t.match(await reconcile(creating), { outcome: 'settled' })
  await eventsComeIn()
  t.strictSame(await outcomeOf(stripeId), ['linked'])
  t.equal(await customerOf(other), stripeId, 'the one who is left')
  t.strictSame(await duplicates(), [])
})

t.test('a phone is the same in the form that Stripe has it in and in E.164', async (t) => {
  const { pool, customerOf, controls, eventsComeIn, outcomeOf, duplicates, settings, reconcile } = await open(t)
  const newUser = async (phone: string): Promise<string> =>
    (await pool.query('insert into users (phone) values ($1) returning id', [phone])).rows[0].id
  const free = await newUser('+14155550177')
  const { id: typed } = controls.createCustomer({ phone: '(415) 555-0177', name: 'Nat' })
  await eventsComeIn()
  t.equal(await customerOf(free), typed, 'who has none gets it')
  t.match(await reconcile(free), { outcome: 'settled', status: 'in_sync' })
  t.match((await pool.query('select phone from users where id = $1', [free])).rows, [{ phone: '+14155550177' }])
  t.match(controls.getCustomer(typed), { phone: '+14155550177', name: 'Nat' }, 'and both have it in E.164 from then on')
  t.strictSame((await pool.query('select from sync_conflicts')).rows, [], 'without a conflict')

  const { id: again } = controls.createCustomer({ phone: '415-555-0177' })
  await eventsComeIn()
  t.strictSame(await outcomeOf(again), ['imported_lookalike'], 'who has one is reported')
  t.match(await duplicates(), [{ stripeId: again, userId: free, reason: 'phone' }])

  const swede = await newUser('+46701740605')
  const { id: elsewhere } = controls.createCustomer({ phone: '070-174 06 05' })
  await eventsComeIn()
  t.equal(await customerOf(swede), null, 'to a tenant in the US that is no number of theirs')
  t.strictSame(await outcomeOf(elsewhere), ['imported'])
  await settings({ defaultRegion: 'SE' })
  const { id: there } = controls.createCustomer({ phone: '0701-74 06 05' })
  await eventsComeIn()
  t.equal(await customerOf(swede), there)
})

t.test('what was asked is not answered by one of the two finding another', async (t) => {
  const { newUser, customerOf, reconcile, controls, eventsComeIn, duplicates, pool } = await open(t)
  const one = await newUser('two@example.com')
  const two = await newUser('two@example.com')
  const { id: stripeId } = controls.createCustomer({ email: 'two@example.com' })
  await eventsComeIn()
  const asked = [{ stripeId, userId: null, reason: 'ambiguous', candidates: [one, two].sort(), status: 'open' }]
  t.match(await duplicates(), asked)
  t.match(await reconcile(one), { outcome: 'settled' })
  t.not(await customerOf(one), stripeId)
  controls.updateCustomer(stripeId, { name: 'Who Am I' })
  await eventsComeIn()
  t.equal(await customerOf(two), null)
  t.match(await duplicates(), [{ ...asked[0], candidates: [two] }], 'it is still asked')

  await pool.query('delete from users where id = $1', [two])
  controls.updateCustomer(stripeId, { name: 'Nobody Else' })
  await eventsComeIn()
  const { rows } = await pool.query('select id, last_name from users where stripe_customer_id = $1', [stripeId])
  t.match(rows, [{ last_name: 'Else' }], 'when nobody is left, it is a new user')
  t.match(await duplicates(), [{ stripeId, userId: one, reason: 'email', candidates: [rows[0].id], status: 'open' }])
})

t.test("a second one that looks like someone is reported under 'link-only', and not under 'ignore'", async (t) => {
  const { newUser, reconcile, controls, eventsComeIn, duplicates, settings, outcomeOf, pool } = await open(t)
  const id = await newUser('ada@example.com')
  t.match(await reconcile(id), { outcome: 'settled' })
  await settings({ onRemoteCreate: 'ignore' })
  const ignored = controls.createCustomer({ email: 'ada@example.com' })
  await eventsComeIn()
  t.strictSame(await outcomeOf(ignored.id), ['not_imported'])
  t.strictSame(await duplicates(), [])
  await settings({ onRemoteCreate: 'link-only' })
  const stranger = controls.createCustomer({ email: 'bob@example.com' })
  const { id: stripeId } = controls.createCustomer({ email: 'Ada@Example.com' })
  await eventsComeIn()
  t.strictSame(await outcomeOf(stranger.id), ['not_imported'])
  t.strictSame(await outcomeOf(stripeId), ['duplicate'])
  t.match(await duplicates(), [{ stripeId, userId: id, reason: 'email', candidates: [], status: 'open' }])
  t.equal((await pool.query('select from users')).rowCount, 1)
})
