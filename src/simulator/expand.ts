import type Stripe from 'stripe'
import { invalid } from './errors.js'
import { items, type Params } from './form.js'
import { listOf } from './list.js'

/** What current versions only show when asked, as an account without billing data has it (stripe-facts section 1). */
const expansions: Record<string, (customer: Stripe.Customer) => Partial<Stripe.Customer>> = {
  cash_balance: () => ({ cash_balance: null }),
  default_source: () => ({}),
  discount: () => ({}),
  'invoice_settings.default_payment_method': () => ({}),
  invoice_credit_balance: () => ({ invoice_credit_balance: {} }),
  sources: ({ id }) => ({ sources: listOf(`/v1/customers/${id}/sources`, [], false) }),
  subscriptions: ({ id }) => ({ subscriptions: listOf(`/v1/customers/${id}/subscriptions`, [], false) }),
  tax: () => ({
    tax: { automatic_tax: 'unrecognized_location', ip_address: null, location: null, provider: 'stripe' },
  }),
  tax_ids: ({ id }) => ({ tax_ids: listOf(`/v1/customers/${id}/tax_ids`, [], false) }),
  test_clock: () => ({}),
}

/** The customer with what `expand[]` asks for; in a list each name starts with `data.`. */
export function expandCustomer(customer: Stripe.Customer, params: Params, prefix = ''): Stripe.Customer {
  const shown = { ...customer }
  for (const name of items(params.expand)) {
    const expand =
      typeof name === 'string' && name.startsWith(prefix) ? expansions[name.slice(prefix.length)] : undefined
    if (!expand) throw invalid(`This property cannot be expanded (${String(name)}).`, 'expand')
    Object.assign(shown, expand(customer))
  }
  return shown
}
