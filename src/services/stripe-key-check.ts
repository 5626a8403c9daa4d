import { ValidationError } from '../lib/errors.js'
import type { Tenant } from '../models/tenant.js'
import type { Statements } from '../repositories/database.js'
import { areOthersCustomers, findSomeCustomers, isAccountTaken } from '../repositories/tenant-records.js'
import type { StripeAccount } from '../stripe/account.js'
import type { StripeAccounts } from '../stripe/accounts.js'
import { StripeAuthError, StripeNotFoundError } from '../stripe/errors.js'

/** How many customers are looked at on either side to tell one account from another. */
const SAMPLE = 3
/** No customer has this id, so that writing to it shows whether the key may write, and writes nothing. */
const NO_CUSTOMER = 'cus_lockstep_no_such_customer'

/** What a way to an account was found to be. */
export interface CheckedConnection {
  /** The account of the key; null where the key may not say. */
  keyAccount: string | null
  livemode: boolean
}

/** How an account is to be reached. */
export interface ProposedConnection {
  /** Null: by the platform's key. */
  secretKey: string | null
  connectAccount: string | null
  livemode: boolean
  /** Whether it is the key that is new, and not only the account that it is to act for. */
  isNewKey: boolean
}

/** The field of the request that a refusal is about. */
export function fieldOf({
  secretKey,
  connectAccount,
  isNewKey,
}: Pick<ProposedConnection, 'secretKey' | 'connectAccount' | 'isNewKey'>): 'secretKey' | 'connectAccount' {
  return connectAccount !== null && (secretKey === null || !isNewKey) ? 'connectAccount' : 'secretKey'
}

/** The key, or the account, is none that this tenant can have. `path` is the field of PUT /tenant/stripe. */
export function refused(path: 'secretKey' | 'connectAccount', code: string, message: string): ValidationError {
  return new ValidationError([{ path, code, message }], 'stripe_key_refused')
}

/**
 * Tries a key against Stripe before it is a tenant's: whether it is known, may do what the sync does, is of the tenant's
 * mode, and opens the account that the tenant's customers are in, and nobody else's.
 *
 * @throws {ValidationError} `stripe_key_refused`, saying why; what Stripe throws when it cannot be asked now
 */
export async function checkConnection(
  db: Statements,
  accounts: StripeAccounts,
  tenant: Tenant,
  proposed: ProposedConnection,
): Promise<CheckedConnection> {
  const { secretKey, connectAccount, livemode } = proposed
  const path = fieldOf(proposed)
  const own = await findSomeCustomers(db, tenant.id, SAMPLE)
  if (livemode !== tenant.livemode && own.length > 0) {
    const modes = livemode ? ['live', 'test'] : ['test', 'live']
    const message = `is of ${modes[0]} mode, but the tenant's customers are of ${modes[1]} mode; make another tenant for the other mode`
    throw refused(path, 'wrong_mode', message)
  }
  const name = `check-${tenant.id}`
  const account =
    secretKey === null
      ? accounts.of({ ...tenant, stripeSecretKey: null, stripeAccount: connectAccount }, 'interactive')
      : accounts.behind({ secretKey, connectAccount, name })
  const { customers } = await tryCalls(account, path)
  const keyAccount =
    secretKey === null
      ? null
      : await accountIdOf(
          connectAccount === null ? account : accounts.behind({ secretKey, connectAccount: null, name }),
        )
  const accountId = connectAccount ?? keyAccount

  const platform = await platformAccountId(accounts, tenant, secretKey)
  const isPlatforms = secretKey !== null && connectAccount === null && accounts.isPlatformKey(secretKey)
  const isTaken =
    (accountId !== null && (await isAccountTaken(db, tenant.id, accountId, livemode))) ||
    (tenant.slug !== 'default' && (isPlatforms || (accountId !== null && accountId === platform))) ||
    (await areOthersCustomers(db, tenant.id, customers))
  if (isTaken) throw refused(path, 'account_taken', 'opens the Stripe account of another tenant')

  const before = tenant.stripeAccount ?? tenant.stripeKeyAccount
  if (own.length > 0 && (before === null || accountId === null || before !== accountId)) {
    const isProvenOther = before !== null && accountId !== null
    if (isProvenOther || !(await hasOne(account, own))) {
      const message = "opens another Stripe account than the one that the tenant's customers are in"
      throw refused(path, 'another_account', message)
    }
  }
  return { keyAccount, livemode }
}

/** The calls that the sync makes, each once, where they cost least. */
async function tryCalls(
  account: StripeAccount,
  path: 'secretKey' | 'connectAccount',
): Promise<{ customers: string[] }> {
  const may = async <T>(what: string, call: Promise<T>): Promise<T> => {
    try {
      return await call
    } catch (error) {
      if (!(error instanceof StripeAuthError)) throw error
      if (error.statusCode === 401) throw refused(path, 'revoked', 'is not known to Stripe: wrong, expired or revoked')
      if (path === 'connectAccount' || error.stripeCode === 'account_invalid') {
        throw refused('connectAccount', 'no_access', 'is no account that this key may act for')
      }
      throw refused(path, 'lacks_permission', `may not ${what}; give it that permission in the Stripe dashboard`)
    }
  }
  const page = await may(
    'read customers',
    account.call('customers.list', (stripe, options) => stripe.customers.list({ limit: SAMPLE }, options)),
  )
  await may(
    'read events',
    account.call('events.list', (stripe, options) => stripe.events.list({ limit: 1 }, options)),
  )
  await may(
    'write customers',
    account
      .call('customers.update', (stripe, options) => stripe.customers.update(NO_CUSTOMER, { description: '' }, options))
      .catch((error: unknown) => {
        if (!(error instanceof StripeNotFoundError)) throw error
      }),
  )
  return { customers: page.data.map(({ id }) => id) }
}

/** Restricted keys may lack the right to read their account: then it is known by its customers alone. */
async function accountIdOf(account: StripeAccount): Promise<string | null> {
  try {
    return (await account.call('accounts.retrieve', (stripe, options) => stripe.accounts.retrieveCurrent({}, options)))
      .id
  } catch (error) {
    if (error instanceof StripeAuthError && error.statusCode === 403) return null
    throw error
  }
}

/** The platform's account, if it can be told; asked only for a key that may be of it. */
async function platformAccountId(
  accounts: StripeAccounts,
  tenant: Tenant,
  secretKey: string | null,
): Promise<string | null> {
  if (secretKey === null || tenant.slug === 'default') return null
  return accountIdOf(accounts.platform).catch((error: unknown) => {
    // A platform without a working key has no customers here that could be mixed up with others.
    if (error instanceof StripeAuthError) return null
    throw error
  })
}

async function hasOne(account: StripeAccount, customerIds: readonly string[]): Promise<boolean> {
  for (const id of customerIds) {
    try {
      await account.call('customers.retrieve', (stripe, options) => stripe.customers.retrieve(id, {}, options))
      return true
    } catch (error) {
      if (!(error instanceof StripeNotFoundError)) throw error
    }
  }
  return false
}
