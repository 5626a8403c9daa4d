import t from 'tap'
import { NO_FIELDS } from '../../src/sync/fields.js'
import { differenceOf, isStake, keptByStripe, planMerge } from '../../src/sync/merge-plan.js'

t.test('gaps are filled, nothing is overwritten', async (t) => {
  const survivor = { ...NO_FIELDS, email: 'Ada@example.com', name: 'Ada', metadata: { a: '1', same: 's' } }
  const address = { line1: '1 Main St', line2: null, city: null, state: null, postalCode: null, country: 'US' }
  const loser = {
    ...NO_FIELDS,
    email: 'ada@EXAMPLE.com',
    name: 'Bob',
    phone: '+14155550100',
    address,
    metadata: { a: '2', b: '3', c: '4', same: 's' },
  }
  const plan = planMerge(survivor, loser, 3)
  t.strictSame(plan.filled, ['phone', 'address', 'metadata.b'])
  t.strictSame(plan.conflicts, [
    { field: 'name', survivor: 'Ada', loser: 'Bob' },
    { field: 'metadata.a', survivor: '1', loser: '2' },
  ])
  t.match(plan.notMoved, [{ what: 'metadata.c', why: /at most 3/ }])
  t.strictSame(plan.fields, { ...survivor, phone: loser.phone, address, metadata: { a: '1', b: '3', same: 's' } })
  t.strictSame(differenceOf(survivor, plan.fields), { phone: loser.phone, address, 'metadata.b': '3' })
  t.strictSame(planMerge(survivor, NO_FIELDS, 3), { fields: survivor, filled: [], conflicts: [], notMoved: [] })
})

t.test('what a Stripe customer keeps, by what it shows', async (t) => {
  const fresh = {
    balance: 0,
    currency: null,
    default_source: null,
    delinquent: false,
    discount: null,
    invoice_settings: { custom_fields: null, default_payment_method: null, footer: null, rendering_options: null },
    next_invoice_sequence: 1,
    tax_exempt: 'none',
    metadata: { plan: 'pro', lockstep_user_id: 'x' },
  }
  t.strictSame(keptByStripe(fresh, []), [])
  t.strictSame(keptByStripe(null, []), [])
  const cases: [object, string, boolean][] = [
    [{ default_source: 'card_1' }, 'payment_methods', true],
    [{ invoice_settings: { default_payment_method: 'pm_1' } }, 'payment_methods', true],
    [{ balance: -500 }, 'balance', true],
    [{ currency: 'usd' }, 'subscriptions_and_invoices', true],
    [{ next_invoice_sequence: 2 }, 'subscriptions_and_invoices', true],
    [{ delinquent: true }, 'subscriptions_and_invoices', true],
    [{ discount: { id: 'di_1' } }, 'discount', true],
    [{ invoice_settings: { footer: 'Thanks' } }, 'invoice_settings', false],
    [{ tax_exempt: 'reverse' }, 'tax_exempt', false],
    [{ metadata: { crm_id: '7' } }, 'metadata.crm_id', false],
  ]
  for (const [change, what, stake] of cases) {
    const kept = keptByStripe({ ...fresh, ...change }, ['crm_'])
    t.match(kept, [{ what }], what)
    t.equal(kept.length, 1)
    t.equal(kept.some(isStake), stake)
  }
})
