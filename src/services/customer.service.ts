import type { Clock } from '../lib/clock.js'
import { ConflictError, NotFoundError, RevisionMismatchError, ValidationError } from '../lib/errors.js'
import { isId, newId } from '../lib/ids.js'
import { sameJson } from '../lib/json.js'
import { normalisePhone } from '../lib/phones.js'
import { timeOf } from '../lib/times.js'
import {
  type Customer,
  type CustomerInput,
  type CustomerPatch,
  type CustomerQuery,
  toCustomer,
} from '../models/dtos/customer.dto.js'
import type { Match, MatchInput } from '../models/dtos/order.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import { type StateChange, toStateChange } from '../models/dtos/state-change.dto.js'
import type { TenantSettings } from '../models/tenant.js'
import { MERGED_INTO, type User } from '../models/user.js'
import type { Actor } from '../repositories/audit-log.js'
import { contactNames, lockContacts } from '../repositories/contact-locks.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import { findLosers } from '../repositories/customer-merges.js'
import { type CustomerPage, listCustomers } from '../repositories/customer-pages.js'
import { isWholeId } from '../repositories/customer-search.js'
import { actAs, listStateChanges, STATE_CHANGE_ORDER } from '../repositories/customer-state-changes.js'
import {
  type CustomerChanges,
  type CustomerRow,
  findCustomer,
  insertCustomer,
  readCustomer,
  updateCustomer,
} from '../repositories/customers.js'
import { type Db, statementsOf } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { type IdempotencyKey, keepAnswer, takeIdempotencyKey } from '../repositories/idempotency-keys.js'
import { findOpenOrders } from '../repositories/orders.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import { type ListReads, primaryReads } from '../repositories/replica.js'
import { lockUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { auditCustomer } from './customer-audit.js'
import { eraseRemains, erasureOf, forgetPerson } from './customer-erasure.js'
import { matchContact } from './customer-matching.js'
import { checkCustomer, draftOf, mergePatch, profileOf } from './customer-rules.js'

/** What the customer service asks of the sync. */
export interface CustomerSync {
  /** Tells the relay of this process that there are dirty users. */
  wake(): void
  /** Lets a detached user have a new Stripe customer. */
  reattach(tenantId: string, userId: string): Promise<void>
}

export interface CustomerServiceDeps {
  prisma: PrismaClient
  /** The same database, without Prisma in between: for what is asked most. */
  db: Db
  /** Where lists are read from; absent: from `prisma`. */
  lists?: ListReads
  vault: Vault
  sync: CustomerSync
  settingsOf(tenantId: string): Promise<TenantSettings>
  clock: Clock
}

/** Decides whether a write may go ahead on a row of this revision. */
export type RevisionCheck = (revision: number) => boolean

export type CustomerService = ReturnType<typeof makeCustomerService>

/**
 * What can be done with a customer. A write is one row and one audit entry in one transaction; the change trigger does
 * the rest, as for any other program's write. Throws `ValidationError`, `NotFoundError`, `ConflictError`,
 * {@link RevisionMismatchError} and `DatabaseError`.
 */
export function makeCustomerService(deps: CustomerServiceDeps) {
  const { prisma, db, lists = primaryReads(prisma), vault, sync, settingsOf, clock } = deps

  async function find(tenantId: string, id: string): Promise<CustomerRow> {
    const row = isId(id) ? await findCustomer(prisma, tenantId, id) : null
    if (row === null) throw new NotFoundError('customer', id)
    return row
  }

  /**
   * Works out a change of the row as it is, and writes it. Of a row that moves on meanwhile it is worked out once more, while nobody else
   * can write it.
   */
  async function write(
    by: Actor,
    id: string,
    action: string,
    check: RevisionCheck | null,
    changesFor: (row: CustomerRow) => CustomerChanges,
    reason: string | null = null,
  ): Promise<CustomerRow> {
    const workOut = (row: CustomerRow): CustomerChanges | null => {
      if (check !== null && !check(row.user.revision)) throw new RevisionMismatchError(row.user.revision)
      const changes = onlyChanged(row.user, changesFor(row))
      return Object.keys(changes).length === 0 ? null : changes
    }
    const row = await find(by.tenantId, id)
    const changes = workOut(row)
    if (changes === null) return row
    const saved = await inTransaction(prisma, (tx) => save(tx, by, action, row, changes, reason))
    const written =
      saved ??
      (await inTransaction(prisma, async (tx) => {
        await lockUser(statementsOf(tx), by.tenantId, id)
        const held = await findCustomer(tx, by.tenantId, id)
        if (held === null) throw new NotFoundError('customer', id)
        const changes = workOut(held)
        return changes === null ? held : save(tx, by, action, held, changes, reason)
      }))
    if (written === null) throw new Error('A row moved on while it was locked.')
    sync.wake()
    return written
  }

  /** Answers null, and has written nothing, where the row has moved on. */
  async function save(
    tx: PrismaDb,
    by: Actor,
    action: string,
    { user }: CustomerRow,
    changes: CustomerChanges,
    reason: string | null,
  ): Promise<CustomerRow | null> {
    const { tenantId } = by
    if (changes.state !== undefined) await actAs(statementsOf(tx), by.actor, reason)
    const updated = await updateCustomer(tx, tenantId, user.id, user.revision, changes)
    if (updated === null) return null
    // Before the entry, whose values are then gone as well.
    if (changes.state === 'erased') await forgetPerson(tx, vault, tenantId, user.id, render(updated))
    await auditCustomer(statementsOf(tx), vault, by, action, user, updated.user)
    // After the update, which holds the row: an order that was being taken for it is seen now, and no other comes.
    if (changes.state === 'archived' || changes.state === 'erased') await mustBeFree(tx, tenantId, user.id)
    return updated
  }

  /** Of one whose row another program deleted there is no revision to be of, and what is left of it goes. */
  async function eraseOne(
    by: Actor,
    id: string,
    check: RevisionCheck | null,
    reason: string | null,
  ): Promise<CustomerRow> {
    const erasing = ({ user }: CustomerRow) => erasureOf(user, new Date(clock.now()))
    try {
      return await write(by, id, 'customer.erase', check, erasing, reason)
    } catch (error) {
      if (!(error instanceof NotFoundError) || check !== null || !isId(id)) throw error
      const row = await inTransaction(prisma, async (tx) => {
        const erased = await eraseRemains(tx, vault, by, id, reason)
        if (erased !== null) await mustBeFree(tx, by.tenantId, id)
        return erased
      })
      if (row === null) throw error
      sync.wake()
      return row
    }
  }

  return {
    /**
     * Adds a customer. With `idempotency`, the same key and request answer the first one's customer, as it was then, with
     * `replayed`; the key is kept in the transaction of the row, so no crash comes between them.
     */
    async create(
      by: Actor,
      input: CustomerInput,
      idempotency: IdempotencyKey | null = null,
    ): Promise<{ customer: Customer; replayed: boolean }> {
      const values = checkCustomer(draftOf(input), null, await settingsOf(by.tenantId))
      const id = newId()
      const result = await db.transaction(async (tx) => {
        const earlier = idempotency === null ? null : await takeIdempotencyKey(tx, by.tenantId, idempotency)
        if (earlier !== null) return { customer: earlier.body as Customer, replayed: true }
        // Whoever takes over a Stripe customer of the same person meanwhile waits, and then finds this row.
        await lockContacts(tx, by.tenantId, contactNames(values))
        await actAs(tx, by.actor)
        const added = await insertCustomer(tx, by.tenantId, id, values)
        const customer = render(added)
        await auditCustomer(tx, vault, by, 'customer.create', null, added.user)
        if (idempotency !== null) {
          await keepAnswer(tx, by.tenantId, idempotency.key, { status: 201, body: customer })
        }
        return { customer, replayed: false }
      })
      if (!result.replayed) sync.wake()
      return result
    },

    async get(tenantId: string, id: string): Promise<Customer> {
      const row = isId(id) ? await readCustomer(db, tenantId, id) : null
      if (row === null) throw new NotFoundError('customer', id)
      return render(row)
    },

    /**
     * A page of customers; active ones unless the query names another state or `any`.
     *
     * @param seesPersonalData false: `q` finds whole ids only, see {@link needsPersonalData}
     * @param isLatest whether it must have in it all that was written before, also by others; see {@link ListReads}
     */
    async list(
      tenantId: string,
      query: CustomerQuery,
      seesPersonalData: boolean,
      isLatest = false,
    ): Promise<Omit<CustomerPage, 'data'> & { data: Customer[] }> {
      const { sort = '-createdAt', limit = DEFAULT_LIMIT, cursor, count, state = 'active', q, phone, ...rest } = query
      if (sort === 'relevance' && q === undefined) {
        throw new ValidationError([{ path: 'sort', code: 'not_allowed', message: "'relevance' needs `q`" }])
      }
      const { createdFrom, createdTo, updatedFrom, updatedTo, email, ...filter } = rest
      const region = phone === undefined && q === undefined ? '' : (await settingsOf(tenantId)).defaultRegion
      const selection = {
        ...filter,
        ...(email === undefined ? {} : { email: email.trim() }),
        ...(q === undefined ? {} : { search: { q, phone: normalisePhone(q, region), seesPersonalData } }),
        ...(state === 'any' ? {} : { state }),
        ...(phone === undefined ? {} : { phone: normalisePhone(phone, region) ?? phone }),
        ...timesOf({ createdFrom, createdTo, updatedFrom, updatedTo }),
      }
      const request = { sort, limit, cursor, count: count === 'true' ? ('exact' as const) : count }
      const page = await lists.read(tenantId, { isLatest }, (from) => listCustomers(from, tenantId, selection, request))
      return { ...page, data: page.data.map(render) }
    },

    /** Who of the active customers has this e-mail or phone. */
    async match(tenantId: string, input: MatchInput): Promise<Match> {
      const settings = await settingsOf(tenantId)
      const phone = input.phone?.trim() || null
      const contact = {
        email: input.email?.trim() || null,
        phone: phone === null ? null : (normalisePhone(phone, settings.defaultRegion) ?? phone),
      }
      if (contact.email === null && contact.phone === null) {
        const message = 'is needed, or the other of email and phone'
        throw new ValidationError([{ path: 'email', code: 'required', message }])
      }
      const match = await matchContact(prisma, tenantId, contact)
      return { ...match, customers: match.customers.map(render) }
    },

    /** Applies a JSON merge patch (RFC 7396). Only an active customer can be changed. */
    async patch(by: Actor, id: string, patch: CustomerPatch, check: RevisionCheck | null = null): Promise<Customer> {
      const settings = await settingsOf(by.tenantId)
      return render(
        await write(by, id, 'customer.update', check, ({ user }) => {
          mustBeActive(user)
          return checkCustomer(draftOf(mergePatch(profileOf(user), patch)), user, settings)
        }),
      )
    },

    /** Puts the input in place of all that a client can write; what is absent is removed. */
    async replace(by: Actor, id: string, input: CustomerInput, check: RevisionCheck | null = null): Promise<Customer> {
      const settings = await settingsOf(by.tenantId)
      return render(
        await write(by, id, 'customer.replace', check, ({ user }) => {
          mustBeActive(user)
          return checkCustomer(draftOf(input), user, settings)
        }),
      )
    },

    /**
     * Soft-deletes; the Stripe customer stays, marked. Does nothing to a customer that is archived or erased.
     *
     * @param reason why, for the history of its states
     * @throws {ConflictError} `customer_in_use` while it has open orders
     */
    async archive(
      by: Actor,
      id: string,
      check: RevisionCheck | null = null,
      reason: string | null = null,
    ): Promise<Customer> {
      const archiving = ({ user }: CustomerRow): CustomerChanges =>
        user.state === 'active' ? { state: 'archived', archivedAt: new Date(clock.now()) } : {}
      return render(await write(by, id, 'customer.archive', check, archiving, reason))
    },

    /**
     * Removes the personal data for good, here, in orders, in the inbox, in the evidence of consents and in all that is kept for the
     * record, and lets the Stripe customer be deleted; so it does with those that were merged into this customer. Does nothing
     * when that was done. Of one whose row another program deleted it does the same with what is left, and leaves an erased row.
     *
     * @param reason why, for the history of its states
     * @throws {ConflictError} `customer_in_use` while it has open orders
     */
    async erase(
      by: Actor,
      id: string,
      check: RevisionCheck | null = null,
      reason: string | null = null,
    ): Promise<Customer> {
      const row = isId(id) ? await findCustomer(prisma, by.tenantId, id) : null
      // There is nothing that the condition could hold for.
      if (row === null && check !== null) throw new NotFoundError('customer', id)
      if (row?.user.state !== 'erased' && isId(id)) {
        const losers = await findLosers(prisma, by.tenantId, id)
        if (losers.length > 0) {
          if (row !== null && check !== null && !check(row.user.revision))
            throw new RevisionMismatchError(row.user.revision)
          await mustBeFree(prisma, by.tenantId, id)
        }
        // Before the survivor: while any of them is left, the request can be made again.
        for (const loser of losers) {
          await eraseOne(by, loser, null, reason).catch((error: unknown) => {
            if (!(error instanceof NotFoundError)) throw error
          })
        }
      }
      return render(await eraseOne(by, id, check, reason))
    },

    /**
     * Makes an archived customer active again; one whose Stripe customer is gone gets a new one.
     *
     * @param reason why, for the history of its states
     * @throws {ConflictError} `customer_erased`; `customer_merged` when it lives on in another
     */
    async restore(
      by: Actor,
      id: string,
      check: RevisionCheck | null = null,
      reason: string | null = null,
    ): Promise<Customer> {
      const restoring = ({ user }: CustomerRow): CustomerChanges => {
        if (user.state === 'erased') throw erased()
        const mergedInto = user.metadata[MERGED_INTO]
        if (mergedInto !== undefined) {
          throw new ConflictError(`The customer was merged into ${mergedInto}, and lives on there.`, 'customer_merged')
        }
        return { state: 'active', archivedAt: null }
      }
      const restored = await write(by, id, 'customer.restore', check, restoring, reason)
      if (restored.sync.status !== 'detached') return render(restored)
      await sync.reattach(by.tenantId, id)
      sync.wake()
      return render(await find(by.tenantId, id))
    },

    /** A page of the states that the customer had, newest first; also of one whose row another program deleted. */
    async states(
      tenantId: string,
      id: string,
      { limit = DEFAULT_LIMIT, cursor }: { limit?: number | undefined; cursor?: string | undefined },
    ): Promise<Page<StateChange>> {
      const after = cursor === undefined ? null : decodeCursor(cursor, STATE_CHANGE_ORDER, isId)
      if (!isId(id)) throw new NotFoundError('customer', id)
      const page = await listStateChanges(prisma, tenantId, id, { limit, after })
      if (page.data.length === 0) await find(tenantId, id)
      return { ...page, data: page.data.map(toStateChange) }
    },
  }
}

function render({ user, sync }: CustomerRow): Customer {
  return toCustomer(user, sync)
}

/** Of the changes, those that change something. */
export function onlyChanged(user: User, changes: CustomerChanges): CustomerChanges {
  const entries = Object.entries(changes) as [keyof CustomerChanges, unknown][]
  return Object.fromEntries(entries.filter(([name, value]) => !sameJson(value, user[name])))
}

async function mustBeFree(tx: PrismaDb, tenantId: string, id: string): Promise<void> {
  const orders = await findOpenOrders(tx, tenantId, id)
  if (orders.length === 0) return
  throw new ConflictError(
    'The customer has open orders; `blockers` names them. Complete or cancel them first: PATCH /orders/:id.',
    'customer_in_use',
    orders.map((order) => ({ kind: 'order', ...order })),
  )
}

/**
 * Whether the query looks for personal data, or orders by it: its answer, even with everything masked, then confirms a guess. An
 * exact id tells nothing.
 */
export function needsPersonalData({ q, email, phone, sort }: CustomerQuery): boolean {
  const isGuess = q !== undefined && !isWholeId(q)
  return isGuess || email !== undefined || phone !== undefined || PERSONAL_SORTS.has(sort ?? '')
}

/** The orders whose cursors hold personal data. */
const PERSONAL_SORTS = new Set<string>(['name', '-name', 'email', '-email'])

/** The times that are given, as such. */
function timesOf<Name extends string>(texts: Record<Name, string | undefined>): Partial<Record<Name, Date>> {
  const times: Partial<Record<Name, Date>> = {}
  for (const [path, text] of Object.entries(texts) as [Name, string | undefined][]) {
    if (text !== undefined) times[path] = timeOf(path, text)
  }
  return times
}

/** Throws ConflictError for an archived or erased one. */
export function mustBeActive(user: User): void {
  if (user.state === 'erased') throw erased()
  if (user.state === 'archived') {
    throw new ConflictError(
      'The customer is archived. Restore it first: POST /customers/:id/restore.',
      'customer_archived',
    )
  }
}

function erased(): ConflictError {
  return new ConflictError('The customer was erased for good; create a new one.', 'customer_erased')
}
