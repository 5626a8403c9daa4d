import type Stripe from 'stripe'
import type { RunCounts, RunProgress } from '../models/reconciliation.js'
import type { SyncState } from '../models/sync-state.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import {
  buryLink,
  fillStripeCreated,
  findLinks,
  findUnseenLinks,
  type StripeLink,
} from '../repositories/stripe-links.js'
import { findUnsettledWrites } from '../repositories/stripe-writes.js'
import { addMissingStates, findStates, lockState, markForFetch } from '../repositories/sync-states.js'
import { markSwept } from '../repositories/tenants.js'
import { findUsersPage, lockUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { answeredAt, type StripeAccount } from '../stripe/account.js'
import { StripeNotFoundError } from '../stripe/errors.js'
import { type Adoption, adopt, type Stranger, wouldAdopt } from './adopt.js'
import { recordDeed, sealedFields } from './deeds.js'
import { applyVerdict } from './drain.js'
import { isRedacted, remoteState, sameRemote } from './fields.js'
import { differences, judge, type Snapshot } from './observe.js'

/** Stripe lists at most this many customers per call. */
const PAGE = 100
const USERS_PAGE = 500

/** What a sweep works with. */
export interface SweepOptions {
  db: Db
  vault: Vault
  /** The run, as the audit log names it. */
  cause: string
  tenant: Tenant
  account: StripeAccount
  dryRun: boolean
  /** When the run began; customers made later are the webhook's. */
  startedAt: Date
  progress: RunProgress
  counts: RunCounts
  /** After each page; from `progress` a later run goes on. */
  onProgress(progress: RunProgress): Promise<void>
  signal: AbortSignal
}

/**
 * Goes through all Stripe customers, newest first, and all users, page by page, and finds what the two sides don't agree
 * on. It changes nothing itself: it marks users dirty, links or imports strangers, and counts. A dry run only counts.
 * A user whose customer was not listed is not taken for detached: absence from a list proves nothing, so it is read.
 */
export async function sweep(options: SweepOptions): Promise<void> {
  const { db, tenant, dryRun, startedAt, progress } = options
  if (progress.phase !== 'users') {
    await sweepCustomers(options)
    if (!dryRun) await markSwept(db, tenant.id, startedAt)
  }
  await sweepUsers(options)
}

/** Where in the list of customers, newest first, the sweep is. Times are seconds. */
interface Place {
  cursor: string | null
  /** Everything made after this second was seen. */
  createdBefore: number
  /** What was seen of that second itself, as a page may end within one. */
  boundaryIds: string[]
}

async function sweepCustomers(options: SweepOptions): Promise<void> {
  const { account, counts, progress, startedAt, signal } = options
  let place: Place = {
    cursor: progress.cursor ?? null,
    createdBefore: progress.createdBefore ?? Math.floor(startedAt.getTime() / 1000),
    boundaryIds: progress.boundaryIds ?? [],
  }
  for (;;) {
    counts.stripeCalls += 1
    const { cursor, createdBefore } = place
    let page: Stripe.Response<Stripe.ApiList<Stripe.Customer>>
    try {
      page = await account.call('customers.list', (stripe, request) =>
        stripe.customers.list(
          { limit: PAGE, created: { lte: createdBefore }, ...(cursor === null ? {} : { starting_after: cursor }) },
          request,
        ),
      )
    } catch (error) {
      // The customer that the cursor names was deleted meanwhile: go on from the same second without it.
      if (!(error instanceof StripeNotFoundError) || cursor === null) throw error
      place = { ...place, cursor: null }
      continue
    }
    place = await takePage(options, page, place)
    await options.onProgress({ ...progress, phase: 'stripe', ...place })
    signal.throwIfAborted()
    if (!page.has_more) return
  }
}

async function takePage(
  options: SweepOptions,
  page: Stripe.Response<Stripe.ApiList<Stripe.Customer>>,
  place: Place,
): Promise<Place> {
  const { db, tenant, counts, dryRun } = options
  const ids = page.data.map((customer) => customer.id)
  const links = await findLinks(db, tenant.id, ids)
  const userIds = [...links.values()].flatMap((link) => (link.userId === null ? [] : [link.userId]))
  const states = await findStates(db, tenant.id, userIds)
  const at = answeredAt(page)
  for (const customer of page.data) {
    counts.checked += 1
    const link = links.get(customer.id)
    if (isRedacted(customer)) await meetRedacted(options, customer.id, link)
    else if (link === undefined) await meetStranger(options, customer, at)
    else if (link.userId !== null && link.deletedAt === null && link.unlinkedAt === null) {
      const state = states.get(link.userId)
      if (state !== undefined) await compare(options, customer, state, at)
    }
  }
  if (!dryRun) {
    await fillStripeCreated(
      db,
      tenant.id,
      page.data.map((customer) => ({ id: customer.id, created: new Date(customer.created * 1000) })),
    )
  }
  const last = page.data.at(-1)
  const lowest = page.has_more && last !== undefined ? last.created : null
  await readUnlisted(options, { above: lowest, until: place.createdBefore, seen: [...place.boundaryIds, ...ids] })
  if (last === undefined) return { ...place, cursor: null }
  const boundary = page.data.filter((customer) => customer.created === last.created).map((customer) => customer.id)
  const isSameSecond = last.created === place.createdBefore
  return {
    cursor: last.id,
    createdBefore: last.created,
    boundaryIds: isSameSecond ? [...place.boundaryIds, ...boundary] : boundary,
  }
}

async function meetStranger(options: SweepOptions, customer: Stripe.Customer, at: Date): Promise<void> {
  const { db, vault, tenant, dryRun, counts, cause } = options
  const stranger: Stranger = {
    stripeCustomerId: customer.id,
    remote: remoteState(customer, tenant.settings.foreignMetadataPrefixes),
    asOf: at,
    stripeCreated: new Date(customer.created * 1000),
    needsFetch: false,
    idempotencyKey: null,
    cause,
  }
  const adoption = await db.transaction((tx) =>
    dryRun ? wouldAdopt(tx, tenant, stranger) : adopt(tx, vault, tenant, stranger),
  )
  for (const column of ADOPTION_COUNTS[adoption]) counts[column] += 1
}

/** A redacted customer is as good as deleted: remembered when it is a stranger, else parted from by the read that follows. */
async function meetRedacted(
  { db, tenant, dryRun, counts }: SweepOptions,
  stripeCustomerId: string,
  link: StripeLink | undefined,
): Promise<void> {
  if (link === undefined) {
    if (!dryRun) await buryLink(db, tenant.id, stripeCustomerId)
  } else if (link.userId !== null && link.deletedAt === null && link.unlinkedAt === null) {
    counts.orphaned += 1
    if (!dryRun) await markForFetch(db, tenant.id, link.userId)
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
async function compare(options: SweepOptions, customer: Stripe.Customer, state: SyncState, at: Date): Promise<void> {
  const { db, vault, tenant, dryRun, counts, cause } = options
  const foreign = tenant.settings.foreignMetadataPrefixes
  if (state.status === 'conflict') counts.conflicting += 1
  if (state.remote !== null && sameRemote(state.remote, remoteState(customer, foreign))) return
  counts.fixed += 1
  if (dryRun) return
  const snapshot: Snapshot = { customer, previous: null, created: at.getTime(), kind: 'list' }
  await db.transaction(async (tx) => {
    await lockUser(tx, tenant.id, state.userId)
    const held = await lockState(tx, tenant.id, state.userId)
    if (held === null) return
    const unsettled = await findUnsettledWrites(tx, tenant.id, state.userId)
    const verdict = judge(held, snapshot, null, unsettled, foreign, at.getTime())
    if (verdict.is !== 'in_flight') await applyVerdict(tx, held, verdict)
    if (verdict.is !== 'news' || held.remote === null) return
    const changes = differences(held.remote.fields, verdict.remote.fields)
    if (Object.keys(changes).length === 0) return
    await recordDeed(tx, tenant.id, state.userId, {
      action: 'stripe.update',
      changes: {
        ...(await sealedFields(tx, vault, tenant.id, state.userId, changes)),
        editedAt: verdict.asOf.toISOString(),
      },
      cause,
    })
  })
}

/** Users whose customer was made in a stretch of time that was listed, but is not in the list: Stripe is asked for each. */
async function readUnlisted(
  options: SweepOptions,
  range: { above: number | null; until: number; seen: string[] },
): Promise<void> {
  const { db, tenant, dryRun, counts } = options
  let skipThrough: string | null = null
  for (;;) {
    const unseen: { stripeCustomerId: string; userId: string }[] = await findUnseenLinks(db, tenant.id, {
      after: range.above === null ? null : new Date(range.above * 1000),
      until: new Date(range.until * 1000),
      seen: range.seen,
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

async function sweepUsers(options: SweepOptions): Promise<void> {
  const { db, tenant, dryRun, counts, progress, signal } = options
  let after = progress.phase === 'users' ? (progress.cursor ?? null) : null
  for (;;) {
    const users = await findUsersPage(db, tenant.id, after, USERS_PAGE)
    if (users.length === 0) return
    if (!dryRun)
      await addMissingStates(
        db,
        tenant.id,
        users.filter((user) => user.status === null).map((user) => user.id),
      )
    for (const user of users) {
      counts.checked += 1
      if (user.stripeCustomerId === null && user.state === 'active' && user.status !== 'detached') counts.created += 1
      if (user.status === 'failed') counts.failed += 1
    }
    after = users.at(-1)?.id ?? null
    await options.onProgress({ ...progress, phase: 'users', cursor: after, createdBefore: null, boundaryIds: [] })
    signal.throwIfAborted()
  }
}
