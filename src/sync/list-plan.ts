/**
 * How a list of Stripe's is read by several at once. Stripe pages by cursor, one page after another; but it lists by `created`
 * too, so that stretches of time can be read side by side. Pure; times are whole seconds since the Unix epoch, as Stripe has them.
 */

/** A stretch of time, both ends inclusive, and how far it is read; newest first, as Stripe lists. */
export interface ListWindow {
  from: number
  /** Everything of the window that was made after this second is read; at first the window's end. */
  until: number
  /** The last id that was read, null before the first page, or when that one is gone. */
  cursor: string | null
  /** What was read of the second `until` itself, since a page may end within one. */
  boundaryIds: string[]
  /** The second of its first item, once that is known: from there on it is as dense as it seems. */
  start: number
  /** Pages, and items on them, that were read of it. */
  pages: number
  items: number
}

/** What is left to read. Plain data: stored after every page, it is where a broken-off run goes on. */
export interface ListPlan {
  /** Windows that are begun, or were split off and wait. */
  windows: ListWindow[]
  /** All up to this second is not given out yet; null: all is. */
  frontier: number | null
  /** How many seconds the next window should have for it to hold about {@link WINDOW_PAGES} pages, by the last ones read. */
  span: number
}

/** What a page of a window showed. */
export interface PageSeen {
  /** Ids and times, newest first, as listed. */
  items: readonly { id: string; created: number }[]
  hasMore: boolean
}

/** A window should hold so many pages: more, and lanes idle at the end; fewer, and the last pages, which are part full, cost. */
export const WINDOW_PAGES = 20
/** A window that turned out to hold more pages than this is split as soon as somebody is free. */
const TOO_LARGE = 2 * WINDOW_PAGES
/** A first guess, in seconds, where nothing is known yet: a day. */
const FIRST_SPAN = 86_400
/** Pages that must seem to be left of a window for somebody else to take part of it. */
const WORTH_SHARING = 3
/** How much longer a window may be than the one before. */
const MOST_GROWTH = 4
/** Stripe has no customers from before it was (2010). */
const EPOCH = 1_262_304_000

/** Nothing read yet of all that was made up to `until`. */
export function startPlan(until: number): ListPlan {
  return { windows: [], frontier: until, span: FIRST_SPAN }
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
 * know ourselves: 0 when we know of less; null when we know nothing of this account.
 */
export function takeWindow(
  plan: ListPlan,
  isTaken: (window: ListWindow) => boolean,
  knownFrom: number | null,
  pageSize: number,
): ListWindow | null {
  const waiting = plan.windows.find((window) => !isTaken(window))
  if (waiting !== undefined) return waiting
  if (plan.frontier !== null) return takeFrontier(plan, plan.frontier, knownFrom)
  return splitOne(plan, pageSize)
}

function takeFrontier(plan: ListPlan, frontier: number, knownFrom: number | null): ListWindow {
  // While nothing is known of the windows given out before, each is twice as long as the last: most of the past is empty.
  const unread = plan.windows.filter(({ pages }) => pages === 0).length
  const from = Math.min(knownFrom ?? frontier - plan.span * 2 ** unread + 1, frontier)
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

/** Items that are still to come in the window, if what is left of it is as dense as what was read. Unknown before its first page. */
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
 * Takes in what a page of the window showed. A window that is read to its end leaves the plan; one that holds far more than
 * was thought gives its lower half away.
 */
export function takePage(plan: ListPlan, window: ListWindow, page: PageSeen, pageSize: number): void {
  if (window.pages === 0) window.start = page.items[0]?.created ?? window.start
  window.pages += 1
  window.items += page.items.length
  const last = page.items.at(-1)
  if (!page.hasMore || last === undefined) {
    plan.span = nextSpan(window, pageSize)
    plan.windows = plan.windows.filter((one) => one !== window)
    return
  }
  const boundary = page.items.filter(({ created }) => created === last.created).map(({ id }) => id)
  window.boundaryIds = last.created === window.until ? [...window.boundaryIds, ...boundary] : boundary
  window.until = last.created
  window.cursor = last.id
  if (window.pages >= TOO_LARGE && window.pages % WINDOW_PAGES === 0) splitOff(plan, window, pageSize)
}

/** By how dense this window was; where there was little, longer by so much at the most, since what comes may be dense again. */
function nextSpan({ from, start, items }: ListWindow, pageSize: number): number {
  const seconds = start - Math.max(from, EPOCH) + 1
  const wanted = WINDOW_PAGES * pageSize
  return Math.max(1, Math.round(seconds * Math.min(MOST_GROWTH, wanted / Math.max(items, 1))))
}
