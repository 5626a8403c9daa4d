import type { Logger } from 'pino'
import type { Timer } from '../lib/clock.js'
import { ConflictError, LockstepError, messageOf, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { backoffDelay } from '../lib/retry.js'
import type { CustomerMerge } from '../models/customer-merge.js'
import type { Tenant } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import {
  claimMerge,
  findMerge,
  findMergeOfDuplicate,
  findMergeOfLoser,
  findPendingMerges,
  finishMerge,
  listMerges,
  MERGE_ORDER,
  postponeMerge,
} from '../repositories/customer-merges.js'
import type { Db } from '../repositories/database.js'
import { type DuplicateRow, findDuplicate } from '../repositories/duplicate-customers.js'
import { buryLink, findLink, findLiveLink } from '../repositories/stripe-links.js'
import { findTenant } from '../repositories/tenants.js'
import { findUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import type { StripeCustomerService } from '../services/stripe-customer.service.js'
import { answeredAt } from '../stripe/account.js'
import { nothingChanged, StripeNotFoundError, StripeValidationError } from '../stripe/errors.js'
import { remoteState } from './fields.js'
import { withLeases } from './lease.js'
import { type MergeRequest, markOf, mergeHere } from './merge-customers.js'
import { isStake, keptByStripe } from './merge-plan.js'
import { KEY_PREFIX } from './step-context.js'

/** How long the part in Stripe, two calls at the most, is left to whoever took it up, in milliseconds. */
const LEASE_MS = 60_000
const BACKOFF = { first: 5_000, max: 30 * 60_000 }
const BATCH = 100

/** What an operator says of a Stripe customer that looks like someone, when the two are one. */
export interface DuplicateMerge {
  /** Whose Stripe customer and values stay. */
  survivor: 'linked' | 'duplicate'
  customerId?: string | undefined
  deleteLoser: boolean
}

/** Merges of people whom someone said to be one. */
export interface Merges {
  /**
   * Merges `from` into the survivor. Done twice it does nothing more.
   *
   * @throws {NotFoundError} when the tenant has no such customer.
   * @throws {ConflictError} `customer_merged` when either was merged elsewhere, `customer_archived`, `customer_erased`, `sync_busy`.
   * @throws {ValidationError} when both are one already.
   */
  mergeCustomers(by: Actor, survivorId: string, request: { from: string; deleteLoser: boolean }): Promise<CustomerMerge>
  /**
   * Merges a Stripe customer that looks like someone with that someone. Done twice it does nothing more. Throws as
   * {@link mergeCustomers} does, and ConflictError `duplicate_already_resolved`, `stripe_customer_gone`, `nothing_to_merge`.
   */
  mergeDuplicate(by: Actor, id: string, request: DuplicateMerge): Promise<CustomerMerge>
  /** A page of the merges that the customer was in, newest first. Throws NotFoundError, ValidationError. */
  list(
    tenantId: string,
    customerId: string,
    page: { limit: number; cursor: string | undefined },
  ): Promise<Page<CustomerMerge>>
  /** Does in Stripe what is due of all merges, also what a process that died left. */
  workOff(signal: AbortSignal): Promise<void>
}

/**
 * Makes the merges of all tenants. The local part is one transaction, which writes the record; what is left to do in Stripe is done from
 * that record, at once or by any process later, and may be done twice.
 */
export function makeMerges(options: {
  db: Db
  vault: Vault
  customersOf(tenant: Tenant): StripeCustomerService
  timer: Timer
  random: () => number
  log: Logger
  /** Tells the relay that there are dirty users. */
  wake(): void
}): Merges {
  const { db, vault, customersOf, timer, random, log, wake } = options

  async function tenantOf(tenantId: string): Promise<Tenant> {
    const tenant = await findTenant(db, tenantId)
    if (tenant === null) throw new LockstepError(`No tenant with id '${tenantId}'.`, { code: 'unknown_tenant' })
    return tenant
  }

  /** What the losing Stripe customer keeps, and whether it is there at all. No transaction is open meanwhile. */
  async function look(tenant: Tenant, stripeCustomerId: string) {
    try {
      const customer = await customersOf(tenant).getCustomer(stripeCustomerId)
      return { customer, notMoved: keptByStripe(customer, tenant.settings.foreignMetadataPrefixes) }
    } catch (error) {
      if (error instanceof StripeNotFoundError) return null
      throw error
    }
  }

  /** The same before anything is written, for whoever waits for the answer. */
  async function lookFirst(tenant: Tenant, stripeCustomerId: string) {
    return look(tenant, stripeCustomerId).catch((error: unknown) => {
      throw nothingChanged(error)
    })
  }

  async function carryOut(by: Actor, tenant: Tenant, request: MergeRequest): Promise<CustomerMerge> {
    const ids = [request.survivorId, ...(request.loserId === null ? [] : [request.loserId])]
    const merge = await withLeases(db, timer, ids, () =>
      db.transaction((tx) => mergeHere(tx, vault, tenant, request, by)),
    )
    wake()
    await finish(merge.id)
    return (await findMerge(db, merge.tenantId, merge.id)) ?? merge
  }

  /** Two that ask for the same at once: whoever comes second is answered with what the first one did. */
  async function unlessKnown(
    work: () => Promise<CustomerMerge>,
    find: () => Promise<CustomerMerge | null>,
  ): Promise<CustomerMerge> {
    try {
      return await work()
    } catch (error) {
      const known = error instanceof ConflictError ? await find() : null
      if (known === null) throw error
      return known
    }
  }

  async function finish(id: string): Promise<void> {
    const merge = await claimMerge(db, id, LEASE_MS)
    if (merge === null || merge.loserStripeCustomerId === null) return
    try {
      await finishInStripe(merge, merge.loserStripeCustomerId)
    } catch (error) {
      if (!(error instanceof LockstepError) || error.code.startsWith('database_')) throw error
      const retryAfterMs = backoffDelay(BACKOFF, merge.attempts, random)
      log.warn({ mergeId: id, code: error.code, retryAfterMs }, `merge: ${error.message}`)
      await postponeMerge(db, id, { code: error.code, message: messageOf(error) }, retryAfterMs)
    }
  }

  async function finishInStripe(merge: CustomerMerge, stripeCustomerId: string): Promise<void> {
    const tenant = await tenantOf(merge.tenantId)
    const customers = customersOf(tenant)
    // Of someone who was erased nothing may be left, whatever it is worth.
    const isErased = (await findUser(db, tenant.id, merge.survivorId))?.state === 'erased'
    let { notMoved } = merge
    if (merge.deleteLoser) {
      const seen = await look(tenant, stripeCustomerId)
      if (seen === null) return finishMerge(db, merge.id, 'gone', notMoved)
      // Something may have come to it since it was looked at.
      notMoved = [...seen.notMoved, ...notMoved.filter(({ what }) => !seen.notMoved.some((one) => one.what === what))]
      if (isErased || !seen.notMoved.some(isStake)) {
        await customers.deleteCustomer(stripeCustomerId).catch((error: unknown) => {
          if (!(error instanceof StripeNotFoundError)) throw error
        })
        await buryLink(db, tenant.id, stripeCustomerId, merge.loserId)
        return finishMerge(db, merge.id, 'deleted', notMoved)
      }
    }
    try {
      // A key for each try: marking twice is marking once, and a failure would be repeated under its key for a day.
      const key = `${KEY_PREFIX}merge-${merge.id}-${merge.attempts}`
      await customers.updateCustomer(stripeCustomerId, { metadata: markOf(merge) }, key)
    } catch (error) {
      if (error instanceof StripeNotFoundError) return finishMerge(db, merge.id, 'gone', notMoved)
      // Such as 50 metadata keys: the mark is for people who look at it in Stripe, and Lockstep remembers without it.
      if (error instanceof StripeValidationError) return finishMerge(db, merge.id, 'unmarked', notMoved)
      throw error
    }
    return finishMerge(db, merge.id, 'marked', notMoved)
  }

  return {
    async mergeCustomers(by, survivorId, { from, deleteLoser }) {
      const { tenantId } = by
      if (!isId(survivorId)) throw new NotFoundError('customer', survivorId)
      if (survivorId.toLowerCase() === from.toLowerCase()) {
        throw new ValidationError([{ path: 'from', code: 'same_customer', message: 'is this very customer' }])
      }
      const survivor = await findUser(db, tenantId, survivorId)
      if (survivor === null) throw new NotFoundError('customer', survivorId)
      const find = async () => {
        const merge = await findMergeOfLoser(db, tenantId, from)
        if (merge?.survivorId !== survivor.id) return null
        if (deleteLoser && !merge.deleteLoser) {
          throw new ConflictError(
            'They were merged before, and the Stripe customer that lost was kept, marked. Delete it in Stripe, if it is to go.',
            'customer_merged',
          )
        }
        return merge
      }
      const known = await find()
      if (known !== null) return known
      const loser = await findUser(db, tenantId, from)
      if (loser === null) throw new NotFoundError('customer', from)
      const tenant = await tenantOf(tenantId)
      const own = await findLiveLink(db, tenantId, survivor.id)
      const other = await findLiveLink(db, tenantId, loser.id)
      const seen = own === null || other === null ? null : await lookFirst(tenant, other)
      const request: MergeRequest = {
        survivorId: survivor.id,
        loserId: loser.id,
        own,
        other,
        stranger: null,
        keep: 'own',
        notMoved: seen?.notMoved ?? [],
        deleteLoser,
        duplicateId: null,
      }
      return unlessKnown(() => carryOut(by, tenant, request), find)
    },

    async mergeDuplicate(by, id, { survivor, customerId, deleteLoser }) {
      const { tenantId } = by
      const duplicate = isId(id) ? await findDuplicate(db, tenantId, id) : null
      if (duplicate === null) throw new NotFoundError('duplicate', id)
      const find = async () => {
        const merge = await findMergeOfDuplicate(db, tenantId, id)
        return merge !== null && isSame(merge, duplicate, { survivor, customerId, deleteLoser }) ? merge : null
      }
      const known = await find()
      if (known !== null) return known
      if (duplicate.status !== 'open') {
        throw new ConflictError(`It was decided already: '${duplicate.status}'.`, 'duplicate_already_resolved')
      }
      const tenant = await tenantOf(tenantId)
      const other = duplicate.stripeCustomerId
      const link = await findLink(db, tenantId, other)
      if (link !== null && (link.deletedAt !== null || link.unlinkedAt !== null)) throw gone(other)
      const survivorId = chosenOf(duplicate, customerId, link?.userId ?? null)
      if ((await findUser(db, tenantId, survivorId)) === null) throw new NotFoundError('customer', survivorId)
      const own = await findLiveLink(db, tenantId, survivorId)
      if (own === null && link === null) {
        throw new ConflictError(
          `Customer ${survivorId} has no Stripe customer that ${other} could be merged with: link it instead.`,
          'nothing_to_merge',
        )
      }
      const keep = survivor === 'linked' ? 'own' : 'other'
      // Who is a stranger here is known only by what Stripe shows of it; what is lost, by what it is seen to keep.
      const lost = keep === 'own' && own !== null ? other : own
      const shown = link === null || lost === other ? await lookFirst(tenant, other) : null
      if (link === null && shown === null) throw gone(other)
      const seen = lost === other ? shown : lost === null ? null : await lookFirst(tenant, lost)
      const foreign = tenant.settings.foreignMetadataPrefixes
      const request: MergeRequest = {
        survivorId,
        loserId: link?.userId ?? null,
        own,
        other,
        stranger:
          link !== null || shown === null
            ? null
            : {
                remote: remoteState(shown.customer, foreign),
                asOf: answeredAt(shown.customer),
                created: new Date(shown.customer.created * 1000),
              },
        keep,
        notMoved: seen?.notMoved ?? [],
        deleteLoser,
        duplicateId: duplicate.id,
      }
      return unlessKnown(() => carryOut(by, tenant, request), find)
    },

    async list(tenantId, customerId, { limit, cursor }) {
      const after = cursor === undefined ? null : decodeCursor(cursor, MERGE_ORDER, isId)
      const isThere = isId(customerId) && (await findUser(db, tenantId, customerId)) !== null
      if (!isThere) throw new NotFoundError('customer', customerId)
      return listMerges(db, tenantId, customerId, { limit, after })
    },

    async workOff(signal) {
      for (;;) {
        const ids = await findPendingMerges(db, BATCH)
        for (const id of ids) {
          if (signal.aborted) return
          await finish(id)
        }
        if (ids.length < BATCH) return
      }
    },
  }
}

/** The customer that is meant; never the one that was made of the duplicate itself. */
function chosenOf(duplicate: DuplicateRow, customerId: string | undefined, madeOfIt: string | null): string {
  const others = [...new Set([duplicate.userId, ...duplicate.candidates])].filter(
    (id): id is string => id !== null && id !== madeOfIt,
  )
  const chosen = customerId?.toLowerCase() ?? (others.length === 1 ? others[0] : undefined)
  if (chosen === undefined) {
    const message = `is needed, since several could be meant: ${others.join(', ')}`
    throw new ValidationError([{ path: 'customerId', code: 'required', message }])
  }
  if (chosen === madeOfIt) {
    const message = 'is the one that was made of this Stripe customer; name the other'
    throw new ValidationError([{ path: 'customerId', code: 'same_customer', message }])
  }
  return chosen
}

/** Whether what was done is what is asked for. */
function isSame(
  known: CustomerMerge,
  { stripeCustomerId }: DuplicateRow,
  { survivor, customerId, deleteLoser }: DuplicateMerge,
): boolean {
  return (
    (known.survivorStripeCustomerId === stripeCustomerId) === (survivor === 'duplicate') &&
    (customerId === undefined || customerId.toLowerCase() === known.survivorId) &&
    (known.deleteLoser || !deleteLoser)
  )
}

function gone(stripeCustomerId: string): ConflictError {
  return new ConflictError(`${stripeCustomerId} was deleted in Stripe, or given up before.`, 'stripe_customer_gone')
}
