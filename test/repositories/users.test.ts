import t from 'tap'
import { insertMetStates } from '../../src/repositories/sync-states.js'
import {
  clearStripeCustomerId,
  findLookalikes,
  findUnlinkedUsers,
  findUser,
  findUserByStripeCustomerId,
  findUsersByEmail,
  insertImportedUsers,
  lockLinkCandidates,
  lockUser,
  setStripeCustomerId,
  updateUser,
} from '../../src/repositories/users.js'
import { eventually } from '../helpers/wait.js'
import { at, fieldsOf, openTables, remoteOf } from './helpers.js'

const NOBODY = '01a00000-0000-7000-8000-000000000000'
const LATER = 'ff000000-0000-7000-8000-000000000001'
const LATEST = 'ff000000-0000-7000-8000-000000000002'

t.test('by id, by Stripe customer, by e-mail, and only of one tenant', async (t) => {
  const { db, pool, tenantId, newUser, newTenant } = await openTables(t)
  const other = await newTenant('other')
  const address = { line1: '1 St', country: 'SE' }
  const id = await newUser({ email: 'Ada@Example.com', first_name: 'Ada', address, stripe_customer_id: 'cus_1' })
  const user = await findUser(db, tenantId, id)
  t.match(user, {
    id,
    tenantId,
    email: 'Ada@Example.com',
    firstName: 'Ada',
    lastName: null,
    address,
    metadata: {},
    stripeCustomerId: 'cus_1',
    type: 'regular',
    state: 'active',
    revision: 1,
    createdAt: Date,
  })
  t.strictSame(await findUserByStripeCustomerId(db, tenantId, 'cus_1'), user)
  t.strictSame(await findUsersByEmail(db, tenantId, 'aDA@example.COM'), [user], 'whatever its case')
  t.strictSame(await lockUser(db, tenantId, id), user)

  for (const read of [
    findUser(db, other, id),
    findUser(db, tenantId, NOBODY),
    findUserByStripeCustomerId(db, other, 'cus_1'),
    findUserByStripeCustomerId(db, tenantId, 'cus_2'),
    lockUser(db, other, id),
  ]) {
    t.equal(await read, null)
  }
  t.strictSame(await findUsersByEmail(db, other, 'ada@example.com'), [])

  await newUser({ email: 'ada@example.com', state: 'erased' })
  // Ids of one millisecond have no order of their own.
  const archived = await newUser({ id: LATER, email: 'ada@example.com', state: 'archived' })
  await newUser({ id: LATEST, email: 'ada@example.com' })
  const two = await findUsersByEmail(db, tenantId, 'ada@example.com')
  t.strictSame(
    two.map((found) => found.id),
    [id, archived],
    'the oldest first, two by default, no erased one',
  )
  await t.rejects(newUser({ stripe_customer_id: 'cus_1' }), { code: '23505' }, 'a Stripe customer is of one user')
  await pool.query('delete from users where id = $1', [id])
  t.equal(await findUserByStripeCustomerId(db, tenantId, 'cus_1'), null)
})

t.test('the unlinked ones, page by page', async (t) => {
  const { db, tenantId, newUser, newTenant } = await openTables(t)
  const ids = [await newUser(), await newUser(), await newUser()]
  await newUser({ stripe_customer_id: 'cus_1' })
  await newUser({ state: 'archived' })
  await newUser({ tenant_id: await newTenant('other') })
  const idsOf = async (after: string | null, limit: number) =>
    (await findUnlinkedUsers(db, tenantId, after, limit)).map((user) => user.id)
  const first = await idsOf(null, 2)
  t.equal(first.length, 2)
  const second = await idsOf(first[1] ?? '', 2)
  t.strictSame([...first, ...second], [...ids].sort())
  t.strictSame(await idsOf(second[0] ?? '', 2), [])
})

t.test('the link is set once and cleared by name', async (t) => {
  const { db, tenantId, newUser, newTenant } = await openTables(t)
  const id = await newUser()
  t.equal(await setStripeCustomerId(db, await newTenant('other'), id, 'cus_1'), false)
  t.equal(await setStripeCustomerId(db, tenantId, id, 'cus_1'), true)
  t.equal(await setStripeCustomerId(db, tenantId, id, 'cus_1'), true, 'again')
  t.equal(await setStripeCustomerId(db, tenantId, id, 'cus_2'), false, 'not over another')
  await clearStripeCustomerId(db, tenantId, id, 'cus_2')
  t.match(await findUser(db, tenantId, id), { stripeCustomerId: 'cus_1' })
  await clearStripeCustomerId(db, tenantId, id, 'cus_1')
  t.match(await findUser(db, tenantId, id), { stripeCustomerId: null })
  t.equal(await setStripeCustomerId(db, tenantId, NOBODY, 'cus_3'), false)
})

t.test('a write by the sync happens at the revision that was read, or not at all', async (t) => {
  const { db, tenantId, newUser, newTenant } = await openTables(t)
  const id = await newUser({ email: 'a@example.com', metadata: { keep: '1' } })
  const changes = {
    email: null,
    phone: '+1',
    firstName: 'Ada',
    lastName: 'L',
    description: 'd',
    locale: 'sv',
    address: { line1: 'x' },
    shipping: { name: 'n' },
    metadata: { k: 'v' },
    billing: { balance: 1 },
  }
  t.equal(await updateUser(db, tenantId, id, 2, changes), null)
  t.match(await findUser(db, tenantId, id), { email: 'a@example.com', revision: 1 })
  t.equal(await updateUser(db, tenantId, id, 1, changes), 2, 'the revision after it')
  t.match(await findUser(db, tenantId, id), { ...changes, revision: 2 })
  t.equal(await updateUser(db, tenantId, id, 1, { phone: '+2' }), null)
  t.ok(await updateUser(db, tenantId, id, null, { address: null, shipping: null, billing: null }))
  t.match(await findUser(db, tenantId, id), { address: null, shipping: null, billing: null, phone: '+1', revision: 3 })
  t.ok(await updateUser(db, tenantId, id, 99, {}), 'no change is no write')
  t.equal(await updateUser(db, await newTenant('other'), id, null, { phone: '+3' }), null)
  t.ok(await updateUser(db, tenantId, id, null, { state: 'archived' }))
  t.match(await findUser(db, tenantId, id), { state: 'archived', archivedAt: Date })
})

t.test('whom a stranger of Stripe could be', async (t) => {
  const { db, pool, tenantId, newUser, newTenant } = await openTables(t)
  const free = await newUser({ email: 'Ada@example.com', phone: '+1' })
  await newUser({ email: 'ada@example.com', state: 'archived' })
  const creating = await newUser({ email: 'ada@example.com' })
  await pool.query("update sync_state set create_key = 'lockstep-create' where user_id = $1", [creating])
  const linked = await newUser({ email: 'ada@example.com', phone: '+1', stripe_customer_id: 'cus_1' })
  await newUser({ email: 'ada@example.com', tenant_id: await newTenant('other') })

  t.strictSame(await lockLinkCandidates(db, tenantId, { email: 'ADA@example.com' }), [
    { id: free, isCreating: false },
    { id: creating, isCreating: true },
  ])
  t.strictSame(await lockLinkCandidates(db, tenantId, { phones: ['+1'] }), [{ id: free, isCreating: false }])
  t.strictSame(await lockLinkCandidates(db, tenantId, { email: 'nobody@example.com' }), [])
  const other = await newUser({ email: 'grace@example.com' })
  const people = [
    { email: 'ADA@example.com', phones: ['+1'] },
    { email: 'grace@example.com', phones: ['+2'] },
    { email: 'nobody@example.com', phones: [] },
  ]
  const lookalikes = await findLookalikes(db, tenantId, people)
  t.strictSame(
    lookalikes.sort((a, b) => (a.value < b.value ? -1 : 1)),
    [
      { by: 'phone', value: '+1', userId: linked, hasStripeCustomer: true },
      { by: 'email', value: 'ADA@example.com', userId: linked, hasStripeCustomer: true },
      { by: 'email', value: 'grace@example.com', userId: other, hasStripeCustomer: false },
    ],
    'of several the one with a customer; each as it was asked for',
  )
  for (let n = 0; n < 3; n += 1) await newUser({ email: 'ada@example.com' })
  t.equal(
    (await lockLinkCandidates(db, tenantId, { email: 'ada@example.com' })).length,
    2,
    'two are one too many already',
  )

  let asked = false
  let second: Promise<unknown> | undefined
  await db.transaction(async (tx) => {
    await lockLinkCandidates(tx, tenantId, { phones: ['+1'] })
    second = db
      .transaction((other) => lockUser(other, tenantId, free))
      .then(() => {
        asked = true
      })
    const waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    await eventually(async () => (await pool.query(waits)).rowCount === 1, { what: 'the second to wait' })
    t.notOk(asked, 'a candidate is held until the transaction ends')
  })
  await second
  t.ok(asked)
})

t.test('a user that Stripe had first', async (t) => {
  const { db, tenantId, stateOf } = await openTables(t)
  const id = '01a00000-0000-7000-8000-000000000001'
  await db.transaction(async (tx) => {
    await tx.query(
      "insert into stripe_links (tenant_id, stripe_customer_id, user_id, how) values ($1, 'cus_1', $2, 'imported')",
      [tenantId, id],
    )
    const values = { email: 'a@example.com', metadata: { k: 'v' }, billing: { balance: 3 } }
    await insertImportedUsers(tx, tenantId, [{ id, stripeCustomerId: 'cus_1', values }])
    const met = { userId: id, remote: remoteOf('met'), asOf: at(1), base: fieldsOf('met'), needsFetch: false }
    await insertMetStates(tx, tenantId, [met])
  })
  t.match(await findUser(db, tenantId, id), {
    email: 'a@example.com',
    phone: null,
    address: null,
    metadata: { k: 'v' },
    billing: { balance: 3 },
    stripeCustomerId: 'cus_1',
  })
  const state = { dirty: true, needs_fetch: false, local_revision: 1, remote_revision: 1, base: fieldsOf('met') }
  t.match(await stateOf(id), state, 'its link was there first: no need to read it')
  await updateUser(db, tenantId, id, 1, { phone: '+1' })
  t.match(await stateOf(id), { local_revision: 2 }, 'from now on the trigger counts')
})
