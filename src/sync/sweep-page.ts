import type { Logger } from 'pino'
import type Stripe from 'stripe'
import type { LockstepError } from '../lib/errors.js'
import type { Turns } from '../lib/turns.js'
import type { RunCounts } from '../models/reconciliation.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { breaksUsersRule } from '../repositories/errors.js'
import {
  buryLink,
  fillStripeCreated,
  findHeldCustomers,
  findUnseenLinks,
  type HeldCustomer,
} from '../repositories/stripe-links.js'
import { findUnsettledWrites } from '../repositories/stripe-writes.js'
import { lockState, markForFetch } from '../repositories/sync-states.js'
import { lockUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { type Adoption, adoptAlone, wouldAdopt } from './adopt.js'
import { recordDeed, sealedFields } from './deeds.js'
import { applyVerdict } from './drain.js'
import { isRedacted, remoteState, sameRemote } from './fields.js'
import { importNewcomers, type Stranger } from './import-users.js'
import { differences, judge, type Snapshot } from './observe.js'
import { type CustomerPage, PAGE } from './read-list.js'

/** What a sweep works with at each page. */
export interface SweepPageOptions {
  db: Db
  vault: Vault
  tenant: Tenant
  /** The run, as the audit log names it. */
  cause: string
  dryRun: boolean
  log: Logger
  /** Of the whole run. */
  counts: RunCounts
}

/**
 * What a sweep makes of one page of Stripe's customers.
 *
 * @param inTurn lets a page import its newcomers when it is its turn
 * @param onRefused is told of a customer that a rule of the application's keeps from being imported
 */
export async function sweepPage(
  options: SweepPageOptions,
  page: CustomerPage,
  inTurn: Turns,
  onRefused: (error: LockstepError) => void,
): Promise<void> {
  const { db, tenant, counts, dryRun } = options
  const { customers, at } = page
  const ids = customers.map((customer) => customer.id)
  const held = await findHeldCustomers(db, tenant.id, ids)
  const unknown = customers.filter((customer) => !held.has(customer.id) && !isRedacted(customer))
  const strangers = new Map(unknown.map((customer) => [customer.id, strangerOf(options, customer, at)]))
  const imported = await importTogether(options, [...strangers.values()], inTurn)
  for (const customer of customers) {
    counts.checked += 1
    if (imported.has(customer.id)) continue
    const known = held.get(customer.id)
    const stranger = strangers.get(customer.id)
    if (stranger !== undefined) await meetStranger(options, stranger, onRefused)
    else if (isRedacted(customer)) await meetRedacted(options, customer.id, known)
    else if (known?.isLive) await compare(options, customer, known, at)
  }
  const undated = customers.filter(({ id }) => held.get(id)?.isDated === false)
  if (!dryRun && undated.length > 0) {
    await fillStripeCreated(
      db,
      tenant.id,
      undated.map((customer) => ({ id: customer.id, created: new Date(customer.created * 1000) })),
    )
  }
  await readUnlisted(options, page)
}

function strangerOf({ tenant, cause }: SweepPageOptions, customer: Stripe.Customer, at: Date): Stranger {
  return {
    stripeCustomerId: customer.id,
    remote: remoteState(customer, tenant.settings.foreignMetadataPrefixes),
    asOf: at,
    stripeCreated: new Date(customer.created * 1000),
    needsFetch: false,
    idempotencyKey: null,
    cause,
  }
}

/** Makes users of those of the strangers that are plainly new. Answers which. */
async function importTogether(
  { db, vault, tenant, dryRun, counts }: SweepPageOptions,
  strangers: readonly Stranger[],
  inTurn: Turns,
): Promise<ReadonlySet<string>> {
  if (dryRun || strangers.length === 0) return new Set()
  const imported = await inTurn(() => db.transaction((tx) => importNewcomers(tx, vault, tenant, strangers))).catch(
    (error: unknown): ReadonlySet<string> => {
      if (!breaksUsersRule(error)) throw error
      // None was imported: each is met by itself, which tells the one that is refused from the others.
      return new Set()
    },
  )
  counts.created += imported.size
  return imported
}

async function meetStranger(
  options: SweepPageOptions,
  stranger: Stranger,
  onRefused: (error: LockstepError) => void,
): Promise<void> {
  const { db, vault, tenant, dryRun, counts, log } = options
  try {
    const adoption = dryRun
      ? await db.transaction((tx) => wouldAdopt(tx, vault, tenant, stranger))
      : await adoptAlone(db, vault, tenant, stranger)
    for (const column of ADOPTION_COUNTS[adoption]) counts[column] += 1
  } catch (error) {
    if (!breaksUsersRule(error)) throw error
    counts.failed += 1
    onRefused(error)
    log.warn(
      { stripeCustomerId: stranger.stripeCustomerId, err: error.message },
      'sweep: a customer could not be imported',
    )
  }
}

/** A redacted customer is as good as deleted: remembered when it is a stranger, else parted from by the read that follows. */
async function meetRedacted(
  { db, tenant, dryRun, counts }: SweepPageOptions,
  stripeCustomerId: string,
  known: HeldCustomer | undefined,
): Promise<void> {
  if (known === undefined) {
    if (!dryRun) await buryLink(db, tenant.id, stripeCustomerId, null)
  } else if (known.isLive && known.userId !== null) {
    counts.orphaned += 1
    if (!dryRun) await markForFetch(db, tenant.id, known.userId)
  }
}

const ADOPTION_COUNTS: Record<Adoption, readonly (keyof RunCounts)[]> = {
  awaited: [],
  linked: ['linked'],
  imported: ['created'],
  imported_lookalike: ['created', 'duplicate'],
  duplicate: ['duplicate'],
  ambiguous: ['duplicate'],
  not_imported: [],
  dead_customer: [],
}

/** Compares what the list shows with what we hold; only where they differ is anything locked or written. */
async function compare(
  options: SweepPageOptions,
  customer: Stripe.Customer,
  { userId, status, remote }: HeldCustomer,
  at: Date,
): Promise<void> {
  const { db, vault, tenant, dryRun, counts, cause } = options
  const foreign = tenant.settings.foreignMetadataPrefixes
  if (userId === null || status === null) return
  if (status === 'conflict') counts.conflicting += 1
  if (remote !== null && sameRemote(remote, remoteState(customer, foreign))) return
  counts.fixed += 1
  if (dryRun) return
  const snapshot: Snapshot = { customer, previous: null, created: at.getTime(), kind: 'list' }
  await db.transaction(async (tx) => {
    await lockUser(tx, tenant.id, userId)
    const held = await lockState(tx, tenant.id, userId)
    if (held === null) return
    const unsettled = await findUnsettledWrites(tx, vault, tenant.id, userId)
    const verdict = judge(held, snapshot, null, unsettled, foreign, at.getTime())
    if (verdict.is !== 'in_flight') await applyVerdict(tx, held, verdict)
    if (verdict.is !== 'news' || held.remote === null) return
    const changes = differences(held.remote.fields, verdict.remote.fields)
    if (Object.keys(changes).length === 0) return
    await recordDeed(tx, tenant.id, userId, {
      action: 'stripe.update',
      changes: {
        ...(await sealedFields(tx, vault, tenant.id, userId, changes)),
        editedAt: verdict.asOf.toISOString(),
      },
      cause,
    })
  })
}

/** Users whose customer was made in a stretch of time that was listed, but is not in the list: Stripe is asked for each. */
async function readUnlisted(
  { db, tenant, dryRun, counts }: SweepPageOptions,
  { customers, above, until, boundaryIds }: CustomerPage,
): Promise<void> {
  const range = {
    after: new Date(above * 1000),
    until: new Date(until * 1000),
    seen: [...boundaryIds, ...customers.map(({ id }) => id)],
  }
  let skipThrough: string | null = null
  for (;;) {
    const unseen: { stripeCustomerId: string; userId: string }[] = await findUnseenLinks(db, tenant.id, {
      ...range,
      skipThrough,
      limit: PAGE,
    })
    for (const { userId } of unseen) {
      counts.orphaned += 1
      if (!dryRun) await markForFetch(db, tenant.id, userId)
    }
    skipThrough = unseen.at(-1)?.stripeCustomerId ?? null
    if (unseen.length < PAGE) return
  }
}
