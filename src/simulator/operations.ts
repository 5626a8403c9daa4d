import type { Caller, Customers } from './customers.js'
import { ApiError } from './errors.js'
import type { Events } from './events.js'
import type { Params } from './form.js'
import { allowOnly } from './list.js'
import type { Account } from './state.js'
import type { WebhookEndpoints } from './webhook-endpoints.js'

interface Parts {
  customers: Customers
  events: Events
  endpoints: WebhookEndpoints
}

interface Input {
  account: Account
  id: string
  params: Params
  caller: Caller
}

interface Operation {
  name: string
  method: 'GET' | 'POST' | 'DELETE'
  pattern: RegExp
  /** The name that permissions have for it. */
  resource: string
  run: (parts: Parts, input: Input) => object
}

const operation = (
  name: string,
  method: Operation['method'],
  path: string,
  resource: string,
  run: Operation['run'],
): Operation => ({ name, method, pattern: new RegExp(`^${path.replace(':id', '([^/]+)')}/?$`), resource, run })

/** Every call the simulator answers. A path's fixed form stands before the one with an id. */
export const operations: readonly Operation[] = [
  operation('account.retrieve', 'GET', '/v1/account', 'Account', (_, { account, params }) =>
    showAccount(account, params),
  ),
  operation('customers.search', 'GET', '/v1/customers/search', 'Customers', ({ customers }, { account, params }) =>
    customers.search(account, params),
  ),
  operation('customers.list', 'GET', '/v1/customers', 'Customers', ({ customers }, { account, params }) =>
    customers.list(account, params),
  ),
  operation('customers.create', 'POST', '/v1/customers', 'Customers', ({ customers }, { account, params, caller }) =>
    customers.create(account, params, caller),
  ),
  operation('customers.retrieve', 'GET', '/v1/customers/:id', 'Customers', ({ customers }, { account, id, params }) =>
    customers.retrieve(account, id, params),
  ),
  operation('customers.update', 'POST', '/v1/customers/:id', 'Customers', ({ customers }, input) =>
    customers.update(input.account, input.id, input.params, input.caller),
  ),
  operation('customers.delete', 'DELETE', '/v1/customers/:id', 'Customers', ({ customers }, input) =>
    customers.remove(input.account, input.id, input.params, input.caller),
  ),
  operation('events.list', 'GET', '/v1/events', 'Events', ({ events }, { account, params }) =>
    events.list(account, params),
  ),
  operation('events.retrieve', 'GET', '/v1/events/:id', 'Events', ({ events }, { account, id, params }) =>
    events.retrieve(account, id, params),
  ),
  operation('webhook_endpoints.list', 'GET', '/v1/webhook_endpoints', 'Webhook Endpoints', ({ endpoints }, input) =>
    endpoints.list(input.account, input.params),
  ),
  operation('webhook_endpoints.create', 'POST', '/v1/webhook_endpoints', 'Webhook Endpoints', ({ endpoints }, input) =>
    endpoints.create(input.account, input.params),
  ),
  operation(
    'webhook_endpoints.retrieve',
    'GET',
    '/v1/webhook_endpoints/:id',
    'Webhook Endpoints',
    ({ endpoints }, input) => endpoints.retrieve(input.account, input.id, input.params),
  ),
  operation(
    'webhook_endpoints.update',
    'POST',
    '/v1/webhook_endpoints/:id',
    'Webhook Endpoints',
    ({ endpoints }, input) => endpoints.update(input.account, input.id, input.params),
  ),
  operation(
    'webhook_endpoints.delete',
    'DELETE',
    '/v1/webhook_endpoints/:id',
    'Webhook Endpoints',
    ({ endpoints }, input) => endpoints.remove(input.account, input.id, input.params),
  ),
]

export const unknownUrl = (method: string, path: string) =>
  new ApiError(
    404,
    `Unrecognized request URL (${method}: ${path}). Please see https://stripe.com/docs or we can help at https://support.stripe.com/.`,
  )

/** Only what a program needs to know whom a key belongs to; the rest of Stripe's account object is left out. */
function showAccount(account: Account, params: Params): object {
  allowOnly(params, ['expand'])
  return {
    id: account.id,
    object: 'account',
    business_profile: { name: 'Lockstep simulator', url: null },
    business_type: null,
    charges_enabled: true,
    country: 'US',
    default_currency: 'usd',
    details_submitted: true,
    email: 'simulator@example.com',
    metadata: {},
    payouts_enabled: true,
    settings: { dashboard: { display_name: 'Lockstep simulator', timezone: 'Etc/UTC' } },
    type: 'standard',
  }
}
