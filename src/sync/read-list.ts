import type Stripe from 'stripe'
import type { ListPlan, ListWindow } from '../models/reconciliation.js'
import { answeredAt, type StripeAccount } from '../stripe/account.js'
import { StripeNotFoundError, StripeRateLimitError } from '../stripe/errors.js'
import { isRead, restingPlan, takePage, takeWindow } from './list-plan.js'

/** Stripe lists at most this many customers per call. */
export const PAGE = 100
/** Calls in a row that may be refused for their number before the reading ends: a place was free, and yet Stripe had none. */
const MAX_REFUSALS = 20

/**
 * Calls that ask for a place in the rate limit at the same time: several are given theirs in one go, so that the way to the store of
 * the limit is not what bounds them.
 */
const MOST_ASKING = 8

/** A page of customers, and what it is a page of. */
export interface CustomerPage {
  customers: Stripe.Customer[]
  /** When Stripe answered it. */
  at: Date
  /** Every customer made after `above` and until `until` (Unix seconds) is on this page, or is one of `boundaryIds`, or is no more. */
  above: number
  until: number
  boundaryIds: string[]
}

/** What the list is read by. */
export interface ReadListOptions {
  account: StripeAccount
  /** Where to begin; changed as pages come. */
  plan: ListPlan
  /** Pages under way at once, at most. */
  lanes: number
  /** See `knownFrom` of {@link takeWindow}; asked for each stretch that is begun. */
  knownFrom(frontier: number): Promise<number>
  onCall(): void
  onPage(page: CustomerPage): Promise<void>
  /** Stores from where to go on, after each page. */
  save(plan: ListPlan): Promise<void>
  signal: AbortSignal
}

/**
 * Reads all customers of the plan, several windows of time side by side. A few calls at a time ask for a place in the rate
 * limit; as soon as one has it another may ask, so that there are as many calls under way as the limit and Stripe's speed call for. A call that fails ends the reading, after those under way: what they brought is stored.
 *
 * @throws what a call, `onPage` or `save` throws; the signal's reason.
 */
export async function readList(options: ReadListOptions): Promise<void> {
  const { account, plan, lanes, knownFrom, onCall, onPage, save, signal } = options
  const reading = new Set<ListWindow>()
  const untaken = new Map<ListWindow, { until: number }[]>()
  const failures: unknown[] = []
  let asking = 0
  let underWay = 0
  let refusals = 0
  let changes = 0
  let onChange = () => {}
  const changed = () => {
    changes += 1
    onChange()
  }
  const saveInTurn = oneAtATime(() => save(restingPlan(plan, untaken)))

  async function nextWindow(): Promise<ListWindow | null> {
    const isTaken = (window: ListWindow) => reading.has(window)
    const { frontier } = plan
    const known = frontier !== null && plan.windows.every(isTaken) ? await knownFrom(frontier) : 0
    return takeWindow(plan, isTaken, known, PAGE)
  }

  async function readPage(window: ListWindow): Promise<void> {
    const page = await listPage(window).catch((error: unknown) => {
      reading.delete(window)
      throw error
    })
    refusals = 0
    const range = takePage(plan, window, { items: page.data, hasMore: page.has_more }, PAGE)
    const place = { until: range.until }
    untaken.set(window, [...(untaken.get(window) ?? []), place])
    reading.delete(window)
    changed()
    await onPage({ ...range, customers: page.data.slice(0, range.count), at: answeredAt(page) })
    const left = (untaken.get(window) ?? []).filter((one) => one !== place)
    if (left.length > 0) untaken.set(window, left)
    else untaken.delete(window)
    await saveInTurn()
  }

  async function listPage({
    from,
    until,
    cursor,
  }: ListWindow): Promise<Stripe.Response<Stripe.ApiList<Stripe.Customer>>> {
    let hasPlace = false
    const letNextAsk = () => {
      if (hasPlace) return
      hasPlace = true
      asking -= 1
      changed()
    }
    onCall()
    try {
      return await account.call('customers.list', (stripe, request) => {
        letNextAsk()
        const created = { lte: until, ...(from > 0 ? { gte: from } : {}) }
        return stripe.customers.list(
          { limit: PAGE, created, ...(cursor === null ? {} : { starting_after: cursor }) },
          request,
        )
      })
    } finally {
      letNextAsk()
    }
  }

  function start(window: ListWindow): void {
    reading.add(window)
    asking += 1
    underWay += 1
    readPage(window)
      .catch((error: unknown) => {
        // The customer that the cursor names was deleted meanwhile: on from the same second without it.
        if (error instanceof StripeNotFoundError && window.cursor !== null) window.cursor = null
        else if (error instanceof StripeRateLimitError && refusals < MAX_REFUSALS) refusals += 1
        else failures.push(error)
      })
      .finally(() => {
        underWay -= 1
        changed()
      })
  }

  for (;;) {
    const seen = changes
    const isStopping = failures.length > 0 || signal.aborted
    if (isStopping || isRead(plan)) {
      if (underWay === 0) break
    } else if (asking < MOST_ASKING && underWay < lanes) {
      const window = await nextWindow()
      if (window !== null) {
        start(window)
        continue
      }
    }
    if (seen === changes) {
      await new Promise<void>((resolve) => {
        onChange = resolve
      })
    }
  }
  signal.throwIfAborted()
  if (failures.length > 0) throw failures[0]
}

/** Runs the work for all who ask; who asks while it runs waits for the next time, which is one for all of them. */
function oneAtATime(work: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | null = null
  let next: Promise<void> | null = null
  const run = (): Promise<void> => {
    running = work().finally(() => {
      running = null
    })
    return running
  }
  return () => {
    if (running === null) return run()
    next ??= running
      .catch(() => {})
      .then(() => {
        next = null
        return run()
      })
    return next
  }
}
