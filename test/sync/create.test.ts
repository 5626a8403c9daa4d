import t, { type Test } from 'tap'
import { findState } from '../../src/repositories/sync-states.js'
import { recordStatements } from '../bench/statements.js'
import { openTestCore } from '../helpers/core.js'
import { eventually } from '../helpers/wait.js'

/** Of a create, from taking the lease to giving it back, with begin and commit. More of them is what limits a first import. */
const MOST_STATEMENTS = 23

async function open(t: Test) {
  const { pool, controls, ...core } = await openTestCore(t)
  return {
    ...core,
    pool,
    controls,
    async newUser(email: string): Promise<string> {
      const { rows } = await pool.query('insert into users (email, first_name) values ($1, $2) returning id', [
        email,
        'Ada',
      ])
      return rows[0].id
    },
    rowOf: async (id: string) => (await pool.query('select * from users where id = $1', [id])).rows[0],
    async deedsOf(id: string): Promise<string[]> {
      const sql = "select action from audit_log where entity_id = $1 and actor = 'sync' order by action"
      return (await pool.query(sql, [id])).rows.map(({ action }) => action)
    },
    async stepsTaken(): Promise<Record<string, number>> {
      const { values } = await core.metrics.reconcileSteps.get()
      return Object.fromEntries(values.map(({ labels, value }) => [labels.step, value]))
    },
  }
}

t.test('a create takes one call and few statements, and leaves both sides in step', async (t) => {
  const { reconcile, controls, newUser, rowOf, deedsOf, stepsTaken, db, tenant } = await open(t)
  t.match(
    await reconcile(await newUser('first@example.com')),
    { outcome: 'settled' },
    'what is opened at first is open',
  )
  controls.resetCalls()
  const id = await newUser('a@example.com')
  const statements = await recordStatements(() => reconcile(id), /./)
  const texts = statements.map(({ text }) => text.trim().slice(0, 60)).join('\n')
  t.ok(statements.length <= MOST_STATEMENTS, `${statements.length} statements:\n${texts}`)
  const calls = Object.entries(controls.summary().calls).map(([name, { total }]) => [name, total])
  t.strictSame(calls, [['customers.create', 1]])
  t.strictSame(await stepsTaken(), { intend: 2, create: 2, settle: 2 })

  const row = await rowOf(id)
  const customer = controls.getCustomer(row.stripe_customer_id) as { invoice_prefix?: string }
  t.match(customer, { email: 'a@example.com', metadata: { lockstep_user_id: id } })
  t.match(row.billing, { taxExempt: 'none', invoicePrefix: customer.invoice_prefix }, 'what Stripe alone decides too')
  t.match(await findState(db, tenant.id, id), { status: 'in_sync', dirty: false, createIntent: null, remote: {} })
  t.strictSame(await deedsOf(id), ['sync.apply', 'sync.link', 'sync.push'], 'each with its entry')
})

t.test('what is sent is in Postgres before it is, and what came of it after', async (t) => {
  const { reconcile, controls, pool, newUser } = await open(t)
  const id = await newUser('a@example.com')
  controls.faults.add({ operation: 'customers.create', kind: 'delay', delayMs: 500, times: 1 })
  const settled = reconcile(id)
  await eventually(() => controls.faults.rules.length === 0)
  t.equal(controls.dump().total, 0, 'Stripe has not done it yet')
  const { rows: intents } = await pool.query('select create_key, create_params from sync_state where user_id = $1', [
    id,
  ])
  const { rows: writes } = await pool.query('select idempotency_key as key, outcome from stripe_writes')
  t.match(intents, [{ create_key: writes[0]?.key, create_params: { email: 'a@example.com' } }])
  t.match(writes, [{ key: /^lockstep-create-/, outcome: null }])
  t.match(await settled, { outcome: 'settled', status: 'in_sync' })
  t.match((await pool.query('select outcome from stripe_writes')).rows, [{ outcome: 'answered' }])
})

t.test('a replayed answer is old: nothing of it is taken for current', async (t) => {
  const { reconcile, controls, pool, newUser, rowOf, stepsTaken } = await open(t)
  const id = await newUser('a@example.com')
  controls.faults.add({ operation: 'customers.create', kind: 'timeout_after', times: 1 })
  t.match(await reconcile(id), { outcome: 'retry' })
  const [made] = controls.dump().data
  controls.updateCustomer(made?.id as string, { tax_exempt: 'exempt' })
  await pool.query('update sync_state set next_attempt_at = null')
  t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync', stripeCustomerId: made?.id })
  t.equal(controls.dump().total, 1)
  t.match((await rowOf(id)).billing, { taxExempt: 'exempt' })
  t.match(await stepsTaken(), { fetch: 1, apply: 1 })
})

t.test('the key of a person who had one before stays theirs', async (t) => {
  const { reconcile, pool, db, vault, tenant, newUser, rowOf, deedsOf } = await open(t)
  const known = await newUser('a@example.com')
  await vault.person(db, tenant.id, known)
  t.match(await reconcile(known), { outcome: 'settled', status: 'in_sync' })
  const seal = await vault.person(db, tenant.id, known)
  const { rows } = await pool.query('select sent from stripe_writes where user_id = $1', [known])
  t.equal(seal.open(rows[0].sent.email, 'stripe_writes.sent'), 'a@example.com', 'sealed with that key')
  t.ok((await deedsOf(known)).includes('sync.apply'))
  t.ok((await rowOf(known)).stripe_customer_id)
})

t.test('of who is erased while the create is under way nothing is taken over', async (t) => {
  const { reconcile, controls, newUser, pool, rowOf } = await open(t)
  const id = await newUser('a@example.com')
  controls.faults.add({ operation: 'customers.create', kind: 'delay', delayMs: 500, times: 1 })
  const settled = reconcile(id)
  await eventually(() => controls.faults.rules.length === 0)
  await pool.query("update users set state = 'erased', email = null, first_name = null where id = $1", [id])
  await settled
  t.equal((await rowOf(id)).billing, null)
  t.match(await reconcile(id), { outcome: 'settled' })
  t.equal(controls.dump().total, 0, 'and the customer is deleted')
})
