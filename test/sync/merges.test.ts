import t, { type Test } from 'tap'
import { systemClock } from '../../src/lib/clock.js'
import { makeMerges } from '../../src/sync/merges.js'
import { openTestCore } from '../helpers/core.js'
import { testLog } from '../helpers/log.js'
import { testVault } from '../helpers/vault.js'

const signal = new AbortController().signal

async function open(t: Test) {
  const core = await openTestCore(t)
  const { pool, controls, reconcile, tenant } = core
  const by = { tenantId: tenant.id, actor: 'test', requestId: null, ip: null }
  const newUser = async (columns: Record<string, unknown>) => {
    const names = Object.keys(columns)
    const { rows } = await pool.query(
      `insert into users (${names.join(', ')}) values (${names.map((_, n) => `$${n + 1}`).join(', ')}) returning id`,
      Object.values(columns),
    )
    const id = rows[0].id as string
    const result = await reconcile(id)
    if (result.outcome !== 'settled' || result.stripeCustomerId === null) throw new Error(JSON.stringify(result))
    return { id, stripeId: result.stripeCustomerId }
  }
  return {
    ...core,
    by,
    newUser,
    stripeOf: (id: string) =>
      controls.getCustomer(id) as unknown as { metadata: Record<string, string>; deleted?: true },
    mergeOf: async (id: string) => (await pool.query('select * from customer_merges where id = $1', [id])).rows[0],
    /** The wait after a failed try is over. */
    due: () => pool.query("update customer_merges set next_attempt_at = null where status = 'pending'"),
  }
}

t.test('Stripe fails after the local part: the rest is done from the record', async (t) => {
  const { merges, by, newUser, controls, stripeOf, mergeOf, due } = await open(t)
  const survivor = await newUser({ email: 'a@example.com' })
  for (const [kind, isMade] of [
    ['500', false],
    ['reset_after', true],
  ] as const) {
    const loser = await newUser({ email: `${kind}@example.com` })
    controls.faults.add({ operation: 'customers.update', kind })
    const merge = await merges.mergeCustomers(by, survivor.id, { from: loser.id, deleteLoser: false })
    t.match(merge, { status: 'pending', fate: null, error: { code: 'stripe_unavailable' } }, kind)
    t.equal('lockstep_merged_into' in stripeOf(loser.stripeId).metadata, isMade)
    controls.faults.remove()
    await merges.workOff(signal)
    t.match(await mergeOf(merge.id), { status: 'pending', attempts: 1 }, 'not before its time')
    await due()
    await merges.workOff(signal)
    t.match(await mergeOf(merge.id), { status: 'done', fate: 'marked', attempts: 2, error: null })
    t.equal(stripeOf(loser.stripeId).metadata.lockstep_merged_into, survivor.stripeId)
  }
})

t.test('the process dies between the local part and Stripe: another one goes on', async (t) => {
  const { db, merges, by, newUser, stripeOf, mergeOf, due, reconcile, pool } = await open(t)
  const survivor = await newUser({ email: 'a@example.com' })
  const loser = await newUser({ email: 'b@example.com', phone: '+14155550100' })
  // It never comes to its call.
  const dying = makeMerges({
    db,
    vault: testVault(),
    customersOf: () => {
      const dies = () => Promise.reject(new TypeError('the process is gone'))
      return { getCustomer: async () => ({}), updateCustomer: dies, deleteCustomer: dies } as never
    },
    timer: systemClock,
    random: () => 0,
    log: testLog,
    wake() {},
  })
  await t.rejects(dying.mergeCustomers(by, survivor.id, { from: loser.id, deleteLoser: false }), /process is gone/)
  const known = await merges.mergeCustomers(by, survivor.id, { from: loser.id, deleteLoser: false })
  t.match(known, { status: 'pending', filled: ['phone'] }, 'what was done here stands')
  t.equal((await pool.query('select from customer_merges')).rowCount, 1)
  await due()
  await merges.workOff(signal)
  t.match(await mergeOf(known.id), { status: 'done', fate: 'marked' })
  t.equal(stripeOf(loser.stripeId).metadata.lockstep_merged_into, survivor.stripeId)
  t.match(await reconcile(survivor.id), { outcome: 'settled', status: 'in_sync' })
  t.match(stripeOf(survivor.stripeId), { phone: '+14155550100' })
  t.match(await reconcile(loser.id), { outcome: 'settled', status: 'ignored' })
})

t.test('what stands against a deletion is looked at again before it', async (t) => {
  const { merges, by, newUser, controls, stripeOf, mergeOf, due } = await open(t)
  const survivor = await newUser({ email: 'a@example.com' })
  const loser = await newUser({ email: 'b@example.com' })
  controls.faults.add({ operation: 'customers.delete', kind: '500' })
  const merge = await merges.mergeCustomers(by, survivor.id, { from: loser.id, deleteLoser: true })
  t.match(merge, { status: 'pending', deleteLoser: true, notMoved: [] })
  controls.faults.remove()
  controls.updateCustomer(loser.stripeId, { balance: -100 })
  await due()
  await merges.workOff(signal)
  t.match(await mergeOf(merge.id), { status: 'done', fate: 'marked', not_moved: [{ what: 'balance' }, {}] })
  t.notOk(stripeOf(loser.stripeId).deleted)
})

t.test('of an erased survivor nothing is left in Stripe, whatever the loser keeps', async (t) => {
  const { merges, by, newUser, controls, stripeOf, mergeOf, pool } = await open(t)
  const survivor = await newUser({ email: 'a@example.com' })
  const loser = await newUser({ email: 'b@example.com' })
  controls.updateCustomer(loser.stripeId, { balance: -100 })
  const merge = await merges.mergeCustomers(by, survivor.id, { from: loser.id, deleteLoser: false })
  t.equal(merge.fate, 'marked')
  await pool.query("update users set state = 'erased'")
  await pool.query("update customer_merges set status = 'pending', delete_loser = true, finished_at = null")
  await merges.workOff(signal)
  t.match(await mergeOf(merge.id), { status: 'done', fate: 'deleted' })
  t.match(stripeOf(loser.stripeId), { deleted: true })
  const link = await pool.query('select deleted_at from stripe_links where stripe_customer_id = $1', [loser.stripeId])
  t.ok(link.rows[0].deleted_at, 'and its id never comes back')
})

t.test('a Stripe customer without room for the mark is remembered here', async (t) => {
  const { merges, by, newUser, controls, reconcile, pool } = await open(t)
  const survivor = await newUser({ email: 'a@example.com' })
  const loser = await newUser({ email: 'b@example.com' })
  const full = Object.fromEntries(Array.from({ length: 46 }, (_, n) => [`k${n}`, 'v']))
  controls.updateCustomer(loser.stripeId, { metadata: full })
  const merge = await merges.mergeCustomers(by, survivor.id, { from: loser.id, deleteLoser: false })
  t.match(merge, { status: 'done', fate: 'unmarked' })
  const link = await pool.query('select user_id, unlinked_at from stripe_links where stripe_customer_id = $1', [
    loser.stripeId,
  ])
  t.ok(link.rows[0].unlinked_at)
  t.match(await reconcile(loser.id), { status: 'ignored' })
})

t.test('neither may have a create under way', async (t) => {
  const { merges, by, newUser, controls, pool, reconcile } = await open(t)
  const survivor = await newUser({ email: 'a@example.com' })
  controls.faults.add({ operation: 'customers.create', kind: 'reset_after' })
  const { rows } = await pool.query("insert into users (email) values ('b@example.com') returning id")
  t.match(await reconcile(rows[0].id), { outcome: 'retry' })
  const asked = merges.mergeCustomers(by, survivor.id, { from: rows[0].id, deleteLoser: false })
  await t.rejects(asked, { code: 'sync_busy' })
  t.equal((await pool.query('select from customer_merges')).rowCount, 0)
  t.match((await pool.query('select state from users where id = $1', [rows[0].id])).rows, [{ state: 'active' }])
})
