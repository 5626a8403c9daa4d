import type { Action, ActionKind } from './config.js'
import { someBeginning, someEdit, stripeParamsOf } from './edits.js'
import type { Ledger } from './ledger.js'
import { accountOf, type Moves } from './moves.js'
import type { World } from './world.js'

/** What people do in Stripe's dashboard. */
export function dashboardActions(world: World, ledger: Ledger, moves: Moves) {
  const { stripe, trace } = world
  const { overseer } = world.lab
  const { fields, mostUsers } = world.plan.config
  const { someTenant, customers, someCustomer, tagOf, asText, dashboard, setAtStripe, sweepOf } = moves

  return {
    async dashboardCreate(action) {
      const tenant = someTenant()
      if (customers(tenant).length > mostUsers) return
      const edit = someBeginning(world.choices, tagOf(action), fields)
      // Now and then someone whom we know.
      if (world.choices.chance(0.3)) {
        const [known] = await overseer.query<{ email: string | null }>(
          `select email from users where tenant_id = $1 and email is not null order by created_at desc, id desc limit 1`,
          [tenant.id],
        )
        if (known?.email != null) edit.set('email', known.email)
      }
      const params = stripeParamsOf(edit)
      const metadata = { ...((params.metadata ?? {}) as Record<string, string>), other_system: `o${action.index}` }
      const present = Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== ''))
      await dashboard(tenant, () =>
        stripe.controls.createCustomer({ ...params, metadata: present }, accountOf(tenant).account),
      )
      trace.note(`the dashboard creates a customer ${asText(edit)}`)
    },

    /** Several at once, as by an import into Stripe; mostly a sweep comes across them before their events do. */
    async newcomers(action) {
      const tenant = someTenant()
      if (customers(tenant).length > mostUsers) return
      for (const name of ['a', 'b', 'c'].slice(0, 2 + world.choices.int(2))) {
        const edit = someBeginning(world.choices, `${tagOf(action)}${name}`, fields)
        const params = stripeParamsOf(edit)
        const given = Object.entries((params.metadata ?? {}) as Record<string, string>)
        const metadata = Object.fromEntries(given.filter(([, value]) => value !== ''))
        await dashboard(tenant, () =>
          stripe.controls.createCustomer({ ...params, metadata }, accountOf(tenant).account),
        )
        trace.note(`a program creates a customer in Stripe ${asText(edit)}`)
      }
      if (world.choices.chance(0.7)) await sweepOf(tenant)
    },

    async dashboardEdit(action) {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer !== null) await setAtStripe(tenant, customer.id, someEdit(world.choices, tagOf(action), fields))
    },

    /** Someone makes a customer with the metadata of another one. */
    async dashboardCopy() {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer === null) return
      trace.note(`the dashboard copies ${customer.id}`)
      const { metadata, email } = customer
      await dashboard(tenant, () =>
        stripe.controls.createCustomer({ metadata, ...(email === null ? {} : { email }) }, accountOf(tenant).account),
      )
    },

    async dashboardForeign(action) {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer === null) return
      const value = `o${action.index}`
      const fields = { balance: action.index, metadata: { other_system: value } }
      await dashboard(tenant, () => stripe.controls.updateCustomer(customer.id, fields, accountOf(tenant).account))
      ledger.foreignEdit(customer.id, { balance: action.index, other_system: value })
      trace.note(`the dashboard sets ${customer.id} balance and metadata of another system`)
    },

    async dashboardDelete() {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer === null) return
      stripe.controls.deleteCustomer(customer.id, accountOf(tenant).account)
      ledger.deleted.add(customer.id)
      trace.note(`the dashboard deletes ${customer.id}`)
    },
  } satisfies Partial<Record<ActionKind, (action: Action) => Promise<void>>>
}
