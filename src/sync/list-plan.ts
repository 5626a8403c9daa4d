/**
 * How a list of Stripe's is read by several at once. Stripe pages by cursor, one page after another; but it lists by `created`
 * too, so that stretches of time can be read side by side. Pure; times are whole seconds since the Unix epoch, as Stripe has them.
 */
import type { ListPlan, ListWindow } from '../models/reconciliation.js'

/** What a page of a window showed. */
export interface PageSeen {
  /** Ids and times, newest first, as listed. */
  items: readonly { id: string; created: number }[]
  hasMore: boolean
}

/** What a page says of the window: everything made after `above` and until `until` is on it, or was on the pages before. */
export interface PageRange {
  /** How many items of the page are the window's; the rest belongs to one that was split off meanwhile. */
  count: number
  above: number
  until: number
  /** What pages before had shown of the second `until`. */
  boundaryIds: string[]
}

/** A window should hold so many pages: more, and lanes idle at the end; fewer, and the last pages, which are part full, cost. */
export const WINDOW_PAGES = 40
/** A window that turned out to hold more pages than this is split as soon as somebody is free. */
const TOO_LARGE = 2 * WINDOW_PAGES
/** Pages that must seem to be left of a window for somebody else to take part of it. */
const WORTH_SHARING = 3
/** Stripe has no customers from before it was (2010). */
const EPOCH = 1_262_304_000

/** Nothing read yet of all that was made up to `until`. */
export function startPlan(until: number): ListPlan {
  return { windows: [], frontier: until }
}

export function isRead(plan: ListPlan): boolean {
  return plan.frontier === null && plan.windows.length === 0
}

/**
 * The next window to read for someone who is free: one that waits, else the next stretch below the frontier, else part of what
 * someone else reads. Null: there is nothing that could be shared.
 *
 * @param isTaken whether someone reads this window now.
 * @param pageSize items on a full page.
 * @param knownFrom where the stretch below the frontier should begin for it to hold about WINDOW_PAGES pages, by what we
 * know ourselves; 0 when we know of less: then it is one window, which is split by what its first page shows.
 */
export function takeWindow(
  plan: ListPlan,
  isTaken: (window: ListWindow) => boolean,
  knownFrom: number,
  pageSize: number,
): ListWindow | null {
  const waiting = plan.windows.find((window) => !isTaken(window))
  if (waiting !== undefined) return waiting
  if (plan.frontier !== null) return takeFrontier(plan, plan.frontier, knownFrom)
  return splitOne(plan, pageSize)
}

function takeFrontier(plan: ListPlan, frontier: number, knownFrom: number): ListWindow {
  const from = Math.min(knownFrom, frontier)
  const isLast = from <= EPOCH
  const window = windowOf(isLast ? 0 : from, frontier)
  plan.frontier = isLast ? null : from - 1
  plan.windows.push(window)
  return window
}

function windowOf(from: number, until: number): ListWindow {
  return { from, until, start: until, cursor: null, boundaryIds: [], pages: 0, items: 0 }
}

/** Shares the window that seems to hold most that is unread. Null: none holds more than its reader will have read soon. */
function splitOne(plan: ListPlan, pageSize: number): ListWindow | null {
  const [largest] = [...plan.windows].sort((a, b) => expected(b) - expected(a))
  if (largest === undefined || expected(largest) < WORTH_SHARING * pageSize) return null
  return splitOff(plan, largest, pageSize)
}

/** Items that are still to come in the window, if what is left of it is as dense as its last page. Unknown before its first one. */
function expected({ from, until, start, items }: ListWindow): number {
  return (items / (start - until + 1)) * (until - Math.max(from, Math.min(EPOCH, until)))
}

/**
 * Gives away the lower part of what is left of a window: what its reader will not get to within the pages of a window, or half
 * of it, if that is more. Null where nothing can be given: all is of one second.
 */
function splitOff(plan: ListPlan, window: ListWindow, pageSize: number): ListWindow | null {
  const left = window.until - window.from
  const seconds = Math.ceil(((window.start - window.until + 1) / Math.max(window.items, 1)) * WINDOW_PAGES * pageSize)
  const kept = Math.max(1, Math.min(Math.floor(left / 2), seconds))
  const end = window.until - kept
  if (end < window.from) return null
  const lower = windowOf(window.from, end)
  window.from = end + 1
  plan.windows.push(lower)
  return lower
}

/**
 * Takes in what a page of the window showed, and answers what that covers. A window that is read to its end leaves the plan; one
 * that holds far more than was thought gives its lower half away.
 */
export function takePage(plan: ListPlan, window: ListWindow, page: PageSeen, pageSize: number): PageRange {
  const items = page.items.filter(({ created }) => created >= window.from)
  const { until, boundaryIds } = window
  window.start = items[0]?.created ?? window.start
  window.pages += 1
  window.items = items.length
  const last = items.at(-1)
  if (!page.hasMore || last === undefined || items.length < page.items.length) {
    plan.windows = plan.windows.filter((one) => one !== window)
    return { count: items.length, above: window.from - 1, until, boundaryIds }
  }
  const boundary = items.filter(({ created }) => created === last.created).map(({ id }) => id)
  window.boundaryIds = last.created === until ? [...boundaryIds, ...boundary] : boundary
  window.until = last.created
  window.cursor = last.id
  if (window.pages >= TOO_LARGE && window.pages % WINDOW_PAGES === 0) splitOff(plan, window, pageSize)
  return { count: items.length, above: last.created, until, boundaryIds }
}

/**
 * The plan to store while pages are still worked on: as if those had not been read. It names seconds only, so that it stays small;
 * whoever goes on from it reads the second that a page ended in once more.
 *
 * @param untaken pages that have come and are not worked off, by window: up to which second each began.
 */
export function restingPlan(plan: ListPlan, untaken: ReadonlyMap<ListWindow, readonly { until: number }[]>): ListPlan {
  const windows = [...new Set([...untaken.keys(), ...plan.windows])]
  return {
    ...plan,
    windows: windows.map((window) => ({
      ...window,
      until: untaken.get(window)?.[0]?.until ?? window.until,
      cursor: null,
      boundaryIds: [],
    })),
  }
}
