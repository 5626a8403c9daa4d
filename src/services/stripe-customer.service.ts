import type Stripe from 'stripe'
import type { TSchema } from 'typebox'
import { Value } from 'typebox/value'
import { ConflictError, NotFoundError } from '../lib/errors.js'
import {
  CreateStripeCustomerDto,
  type StripeCustomerResponseDto,
  UpdateStripeCustomerDto,
} from '../models/dtos/stripe-customer.dto.js'
import type { StripeAccount } from '../stripe/account.js'
import { invalidParameter, StripeNotFoundError } from '../stripe/errors.js'

/** The customer was deleted in Stripe: Stripe itself says so, which is proof where absence is not. */
export class StripeCustomerDeletedError extends StripeNotFoundError {
  constructor(stripeCustomerId: string) {
    super(`The customer '${stripeCustomerId}' was deleted in Stripe; that is final.`, {
      code: 'stripe_customer_deleted',
      retryable: false,
      notApplied: true,
      cause: undefined,
    })
  }
}

/** How a user ended up after being brought into step. */
export interface SyncResult {
  status: string
  stripeCustomerId: string | null
}

/** What the service needs beyond Stripe: the one function that brings a user into step. */
export interface StripeCustomerServiceOptions {
  account: StripeAccount
  /** Reconciles the user; answers null when the tenant has no such user. */
  sync(userId: string): Promise<SyncResult | null>
  /** Our own keys, one per write; Stripe repeats them in the events that a write causes. */
  newIdempotencyKey(): string
}

/**
 * A tenant's customers in Stripe. The only code that writes them: reconcile acts through it, and so does an application
 * that uses Lockstep as a library. Each method throws a `StripeCallError` of `stripe/errors.ts`: StripeValidationError for input
 * that Stripe would refuse (checked before any call), StripeNotFoundError, DuplicateCustomerError, StripeRateLimitError,
 * StripeAuthError, StripeIdempotencyError, StripeUnavailableError.
 */
export class StripeCustomerService {
  readonly #account: StripeAccount
  readonly #sync: (userId: string) => Promise<SyncResult | null>
  readonly #newIdempotencyKey: () => string

  constructor(options: StripeCustomerServiceOptions) {
    this.#account = options.account
    this.#sync = options.sync
    this.#newIdempotencyKey = options.newIdempotencyKey
  }

  /** Creates a customer. The same key with the same data answers the same customer for 24 hours. */
  async createCustomer(
    data: CreateStripeCustomerDto,
    idempotencyKey = this.#newIdempotencyKey(),
  ): Promise<Stripe.Response<Stripe.Customer>> {
    check(CreateStripeCustomerDto, data)
    return this.#account.call('customers.create', (stripe, options) =>
      stripe.customers.create(data, { ...options, idempotencyKey }),
    )
  }

  /** Changes what `data` names and nothing else. Answers the customer as Stripe now holds it. */
  async updateCustomer(
    stripeCustomerId: string,
    data: UpdateStripeCustomerDto,
    idempotencyKey = this.#newIdempotencyKey(),
  ): Promise<Stripe.Response<Stripe.Customer>> {
    checkId(stripeCustomerId)
    check(UpdateStripeCustomerDto, data)
    return this.#account.call('customers.update', (stripe, options) =>
      stripe.customers.update(stripeCustomerId, data, { ...options, idempotencyKey }),
    )
  }

  /** The customer as Stripe holds it. Throws {@link StripeCustomerDeletedError} for one that was deleted. */
  async getCustomer(stripeCustomerId: string): Promise<Stripe.Response<Stripe.Customer>> {
    checkId(stripeCustomerId)
    const customer = await this.#account.call('customers.retrieve', (stripe, options) =>
      stripe.customers.retrieve(stripeCustomerId, {}, options),
    )
    if (isDeleted(customer)) throw new StripeCustomerDeletedError(stripeCustomerId)
    return customer
  }

  /** The customer with exactly this e-mail (Stripe compares case-sensitively), the newest if several; null when none. */
  async getCustomerByEmail(email: string): Promise<Stripe.Customer | null> {
    // To Stripe a blank e-mail is no filter: the answer would be just anyone.
    check(CreateStripeCustomerDto, { email })
    const found = await this.findCustomersByEmail(email, 1)
    return found.data[0] ?? null
  }

  /** Up to `limit` customers with exactly this e-mail, newest first. */
  async findCustomersByEmail(email: string, limit: number): Promise<Stripe.Response<Stripe.ApiList<Stripe.Customer>>> {
    return this.#account.call('customers.list', (stripe, options) => stripe.customers.list({ email, limit }, options))
  }

  /**
   * Deletes the customer for good: its subscriptions end at once. Prefer archiving. A customer that is gone already throws
   * {@link StripeNotFoundError}.
   */
  async deleteCustomer(stripeCustomerId: string): Promise<Stripe.Response<Stripe.DeletedCustomer>> {
    checkId(stripeCustomerId)
    return this.#account.call('customers.del', (stripe, options) => stripe.customers.del(stripeCustomerId, {}, options))
  }

  /**
   * Looks for the customer that an earlier create may have made, by the traces that it leaves: our user id in its metadata,
   * our key in its event. Search is not used: it lags behind (docs.stripe.com/search#data-freshness).
   *
   * @param since when the create was first sent
   */
  async findCreatedCustomer(create: {
    idempotencyKey: string
    userId: string
    email: string | null
    since: Date
  }): Promise<string | null> {
    const created = { gte: Math.floor(create.since.getTime() / 1000) - CLOCK_SLACK_SECONDS }
    if (create.email !== null) {
      const email = create.email
      const page = await this.#account.call('customers.list', (stripe, options) =>
        stripe.customers.list({ email, created, limit: 100 }, options),
      )
      const ours = page.data.find((customer) => customer.metadata.lockstep_user_id === create.userId)
      if (ours !== undefined) return ours.id
    }
    let after: string | undefined
    do {
      const page: Stripe.Response<Stripe.ApiList<Stripe.Event>> = await this.#account.call(
        'events.list',
        (stripe, options) =>
          stripe.events.list(
            {
              type: 'customer.created',
              created,
              limit: 100,
              ...(after === undefined ? {} : { starting_after: after }),
            },
            options,
          ),
      )
      const ours = page.data.find((event) => event.request?.idempotency_key === create.idempotencyKey)
      if (ours !== undefined) return (ours.data.object as Stripe.Customer).id
      after = page.has_more ? page.data.at(-1)?.id : undefined
    } while (after !== undefined)
    return null
  }

  /**
   * Brings the user and its Stripe customer into step now. Throws NotFoundError for a user that is not there, and
   * ConflictError while they cannot be brought into step (the code says why).
   */
  async syncCustomerWithUser(userId: string): Promise<void> {
    await this.#synced(userId)
  }

  /** The id of the user's Stripe customer, which is made if there is none. Throws as {@link syncCustomerWithUser} does. */
  async ensureCustomerExists(userId: string): Promise<string> {
    const { status, stripeCustomerId } = await this.#synced(userId)
    if (stripeCustomerId === null) {
      throw new ConflictError(
        `User ${userId} has no Stripe customer and gets none while it is '${status}'; restore it first.`,
        'user_without_customer',
      )
    }
    return stripeCustomerId
  }

  async #synced(userId: string): Promise<SyncResult> {
    const result = await this.#sync(userId)
    if (result === null) throw new NotFoundError('user', userId)
    return result
  }
}

/** How far Stripe's clock and ours may be apart when a window of creation times is asked for. */
const CLOCK_SLACK_SECONDS = 300

/** The parts of a customer that other code is meant to rely on. */
export function toStripeCustomerResponse(customer: Stripe.Customer): StripeCustomerResponseDto {
  return {
    id: customer.id,
    email: customer.email,
    name: customer.name ?? null,
    phone: customer.phone ?? null,
    created: customer.created,
    livemode: customer.livemode,
    metadata: customer.metadata,
  }
}

function isDeleted(
  customer: Stripe.Response<Stripe.Customer | Stripe.DeletedCustomer>,
): customer is Stripe.Response<Stripe.DeletedCustomer> {
  return customer.deleted === true
}

/** With a blank id the SDK would call the collection: an update would create a customer, a read answer a list. */
function checkId(stripeCustomerId: string): void {
  if (!/^[^\s/]{1,255}$/.test(stripeCustomerId)) throw invalidParameter('id', 'must be the id of a Stripe customer')
}

/** The parameters that have a form of their own, and how it is told to people. */
const FORM_OF: Readonly<Record<string, string>> = {
  email: 'an e-mail address',
  metadata: 'keys of 1 to 40 characters without [ and ]',
}

/** Throws StripeValidationError naming the first parameter that Stripe would refuse, in Stripe's own notation. */
function check(schema: TSchema, data: unknown): void {
  if (Value.Check(schema, data)) return
  const [error] = Value.Errors(schema, data)
  // A JSON pointer (RFC 6901), in which a key has its own `/` and `~` escaped.
  const parts = (error?.instancePath ?? '').split('/').slice(1)
  const [head = 'body', ...rest] = parts.map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
  const param = rest.reduce((path, part) => `${path}[${part}]`, head)
  const rule =
    error?.keyword === 'boolean'
      ? 'is nothing that Stripe takes here'
      : error?.keyword === 'pattern'
        ? `must be ${FORM_OF[head] ?? 'of another form'}`
        : (error?.message ?? 'is not valid')
  throw invalidParameter(param, rule)
}
