import { ApiError, forbidden, unauthorized } from './errors.js'
import type { Account, State } from './state.js'

/** A key that is accepted, with its account, and for a restricted key the operations it may call (`customers.*`). */
export interface ApiKey {
  key: string
  account?: string
  allow?: string[]
}

/** What was done to a key in the dashboard. */
export interface KeyRule {
  revoked?: boolean
  allow?: string[]
}

export interface Caller {
  key: string
  account: Account
  allow?: string[]
  forbidden(resource: string, access?: 'Read' | 'Write'): ApiError
}

export interface KeyDeps {
  state: State
  livemode: boolean
  platformId: string
  apiKeys: Array<string | ApiKey> | undefined
}

export type Keys = ReturnType<typeof makeKeys>

/**
 * Which account and mode a key stands for (stripe-facts section 7). Unless the keys are listed, any secret or restricted key of
 * the simulator's mode is good: for the platform, or for the account whose id it holds (`sk_test_acct_1Abc`).
 */
export function makeKeys({ state, livemode, platformId, apiKeys }: KeyDeps) {
  const known =
    apiKeys &&
    new Map(apiKeys.map((entry) => (typeof entry === 'string' ? [entry, { key: entry }] : [entry.key, entry])))
  const standalone = new Set(apiKeys?.flatMap((entry) => (typeof entry === 'string' ? [] : (entry.account ?? []))))
  const changed = new Map<string, KeyRule>()
  const platform = () => state.account(platformId, livemode)

  /** Throws 401 for a missing or unacceptable key. `connected` is the Stripe-Account header. */
  function authenticate(authorization: string | undefined, connected: string | undefined): Caller {
    const key = secretOf(authorization)
    if (key === undefined) throw unauthorized(undefined)
    const entry = find(key)
    if (!entry) throw unauthorized(key)
    const own = entry.account ?? platformId
    if (connected !== undefined && !/^acct_\w+$/.test(connected)) throw noAccess(key, connected)
    const account = state.account(connected ?? own, /_live_/.test(key))
    return {
      key,
      account,
      ...(entry.allow && { allow: entry.allow }),
      forbidden: (resource, access = 'Read') => forbidden(key, account.id, resource, access),
    }
  }

  function find(key: string): ApiKey | undefined {
    const rule = changed.get(key)
    if (rule?.revoked) return undefined
    const entry = accepted(key)
    return entry && rule?.allow ? { ...entry, allow: rule.allow } : entry
  }

  function accepted(key: string): ApiKey | undefined {
    if (known) return known.get(key)
    const prefix = livemode ? /^[sr]k_live_\w+$/ : /^[sr]k_test_\w+$/
    if (!prefix.test(key)) return undefined
    const account = /acct_[A-Za-z0-9]+/.exec(key)?.[0]
    if (account) standalone.add(account)
    return { key, ...(account && { account }) }
  }

  return {
    authenticate,
    platform,
    /** Revokes a key, or lets it call nothing but what it lists; an empty rule undoes both. */
    change: (key: string, rule: KeyRule): void => void changed.set(key, rule),
    /** Whether an account is reached through the platform rather than by a key of its own. */
    isConnected: (account: Account) => account.id !== platformId && !standalone.has(account.id),
  }
}

/** A restricted key may only call what it lists. */
export function refuseForbidden(caller: Caller, operation: { name: string; method: string; resource: string }): void {
  const allowed = caller.allow?.some((pattern) =>
    pattern.endsWith('*') ? operation.name.startsWith(pattern.slice(0, -1)) : pattern === operation.name,
  )
  if (allowed === false) throw caller.forbidden(operation.resource, operation.method === 'GET' ? 'Read' : 'Write')
}

/** Bearer, or basic with the key as user name, as curl's `-u sk_test_…:` sends it. */
function secretOf(authorization: string | undefined): string | undefined {
  const [scheme = '', value = ''] = (authorization ?? '').split(' ')
  if (scheme.toLowerCase() === 'bearer') return value || undefined
  if (scheme.toLowerCase() !== 'basic') return undefined
  return Buffer.from(value, 'base64').toString().split(':')[0] || undefined
}

const noAccess = (key: string, account: string) =>
  new ApiError(
    403,
    `The provided key '${key.slice(0, 8)}***' does not have access to account '${account}' (or that account does not exist). Application access may have been revoked.`,
    { code: 'account_invalid' },
  )
