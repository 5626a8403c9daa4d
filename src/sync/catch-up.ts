import type Stripe from 'stripe'
import type { RunCounts } from '../models/reconciliation.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { findKnownEvents, insertEvents } from '../repositories/stripe-events.js'
import { advanceEventsReadThrough } from '../repositories/tenants.js'
import type { Vault } from '../repositories/vault.js'
import type { StripeAccount } from '../stripe/account.js'
import { EVENT_TYPES, OVERLAP_MS } from './event-types.js'
import type { Filing } from './filing.js'
import { newEvent } from './stored-event.js'

/** Stripe forgets events after 30 days; one hour of slack for the run itself. */
export const RETENTION_MS = 30 * 86_400_000 - 3_600_000
/** The gap is read in pieces, so that after a crash only a piece is read again. */
const WINDOW_MS = 6 * 3_600_000

/** What a catch-up found out. */
export interface CaughtUp {
  /** The gap began before what Stripe still remembers: only a sweep can tell what happened in between. */
  isGapTooOld: boolean
}

/**
 * Reads from `GET /v1/events` what the webhook may have missed and puts it into the same inbox. The cursor moves on only
 * when a whole window is stored, and never closer to now than {@link OVERLAP_MS}: what is read twice is stored once.
 *
 * @param now milliseconds since the Unix epoch
 */
export async function catchUp(options: {
  db: Db
  vault: Vault
  tenant: Tenant
  account: StripeAccount
  filing: Filing
  now: number
  dryRun: boolean
  counts: RunCounts
  /** After each page. */
  onProgress(): Promise<void>
  signal: AbortSignal
}): Promise<CaughtUp> {
  const { db, tenant, now, dryRun, signal } = options
  const settledUntil = now - OVERLAP_MS
  const from = tenant.eventsReadThrough?.getTime() ?? settledUntil
  const oldest = now - RETENTION_MS
  const isGapTooOld = from < oldest
  for (let start = Math.max(from, oldest); start < now; start += WINDOW_MS) {
    const end = start + WINDOW_MS
    // The last one has no end: by Stripe's clock it may be later than by ours.
    await readWindow(options, start, end < now ? end : null)
    signal.throwIfAborted()
    if (!dryRun) await advanceEventsReadThrough(db, tenant.id, new Date(Math.min(end, settledUntil)))
  }
  return { isGapTooOld }
}

async function readWindow(options: Parameters<typeof catchUp>[0], start: number, end: number | null): Promise<void> {
  const { db, vault, tenant, account, filing, dryRun, counts, signal } = options
  let after: string | undefined
  do {
    counts.stripeCalls += 1
    const page: Stripe.Response<Stripe.ApiList<Stripe.Event>> = await account.call('events.list', (stripe, request) =>
      stripe.events.list(
        {
          types: Object.keys(EVENT_TYPES),
          created: { gte: Math.floor(start / 1000), ...(end === null ? {} : { lte: Math.ceil(end / 1000) }) },
          limit: 100,
          ...(after === undefined ? {} : { starting_after: after }),
        },
        request,
      ),
    )
    const events = page.data.filter((event) => event.livemode === tenant.livemode)
    // What was delivered and is not on file yet was not missed.
    while ((await filing.fileDeliveries()) > 0) signal.throwIfAborted()
    const known = dryRun
      ? await findKnownEvents(
          db,
          tenant.id,
          events.map((event) => event.id),
        )
      : new Set<string>()
    const stored = dryRun
      ? events.filter((event) => !known.has(event.id))
      : await insertEvents(
          db,
          vault.cipher,
          events.map((event) => newEvent(tenant.id, event, 'catch_up')),
        )
    counts.checked += page.data.length
    counts.missed += stored.length
    await options.onProgress()
    signal.throwIfAborted()
    after = page.has_more ? page.data.at(-1)?.id : undefined
  } while (after !== undefined)
}
