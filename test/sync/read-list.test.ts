import t, { type Test } from 'tap'
import type { ListPlan } from '../../src/models/reconciliation.js'
import { startSimulator } from '../../src/simulator/server.js'
import { makeStripe, type StripeAccount } from '../../src/stripe/account.js'
import { mapStripeError, StripeRateLimitError } from '../../src/stripe/errors.js'
import { startPlan } from '../../src/sync/list-plan.js'
import { type CustomerPage, readList } from '../../src/sync/read-list.js'

const DAY = 86_400_000
const END = Date.UTC(2026, 5, 1)

/** A Stripe with so many customers, made at these times, and an account whose calls a test may meddle with. */
async function openStripe(t: Test, times: readonly number[]) {
  const simulator = await startSimulator({ rateLimit: undefined, operationRateLimit: undefined })
  t.teardown(() => simulator.close())
  const { controls } = simulator
  const made = [...times]
    .sort((a, b) => a - b)
    .map((time) => {
      controls.setClock(time)
      return { id: controls.createCustomer({}).id, created: Math.floor(time / 1000) }
    })
  controls.setClock(END)
  const stripe = makeStripe({ secretKey: 'sk_test_read_list', apiBase: simulator.url })
  let calls = 0
  let underWay = 0
  let most = 0
  const meddle: { before(call: number): void; after(call: number): Promise<void> | void } = { before() {}, after() {} }
  const account: StripeAccount = {
    async call(_operation, ask) {
      calls += 1
      const call = calls
      meddle.before(call)
      underWay += 1
      most = Math.max(most, underWay)
      try {
        const answer = await ask(stripe, {})
        await meddle.after(call)
        return answer
      } catch (error) {
        throw error instanceof Error && 'type' in error ? mapStripeError(error) : error
      } finally {
        underWay -= 1
      }
    },
  }
  return { controls, made, account, meddle, calls: () => calls, mostAtOnce: () => most }
}

type World = Awaited<ReturnType<typeof openStripe>>

/** Reads the list; notes each page, and what of it is wrong by the customers that were there all the time. */
async function read(
  { account, made }: World,
  options: { lanes: number; plan?: ListPlan; signal?: AbortSignal; onPage?: (page: CustomerPage) => void },
) {
  const seen = new Map<string, number>()
  const wrong: string[] = []
  const saved: string[] = []
  const ended = readList({
    account,
    lanes: options.lanes,
    plan: options.plan ?? startPlan(END / 1000),
    knownFrom: async () => 0,
    onCall() {},
    async onPage(page) {
      options.onPage?.(page)
      for (const { id } of page.customers) seen.set(id, (seen.get(id) ?? 0) + 1)
      const shown = new Set([...page.boundaryIds, ...page.customers.map(({ id }) => id)])
      const range = made.filter(({ created }) => created > page.above && created <= page.until)
      wrong.push(...range.filter(({ id }) => !shown.has(id)).map(({ id }) => id))
    },
    save: async (plan) => {
      saved.push(JSON.stringify(plan))
    },
    signal: options.signal ?? new AbortController().signal,
  }).then(
    () => null,
    (error: unknown) => error,
  )
  const error = await ended
  const last = saved.at(-1)
  return { error, seen, wrong, saved: last === undefined ? null : (JSON.parse(last) as ListPlan) }
}

/** Spread over three years, and 600 within a minute, some of them in the same second. */
const MIXED = Array.from({ length: 1_800 }, (_, n) =>
  n % 3 === 0 ? END - 400 * DAY - ((n * 97) % 60_000) : END - DAY - ((n * 52_837_219) % (1_000 * DAY)),
)

t.test('every customer is read once, side by side', async (t) => {
  for (const lanes of [1, 12]) {
    const world = await openStripe(t, MIXED)
    const { error, seen, wrong, saved } = await read(world, { lanes })
    t.equal(error, null)
    t.equal(seen.size, MIXED.length)
    t.ok([...seen.values()].every((n) => n === 1))
    t.strictSame(wrong, [], 'each page tells what it covers')
    t.match(saved, { windows: [], frontier: null })
    t.ok(world.mostAtOnce() <= lanes)
    if (lanes > 1) t.ok(world.mostAtOnce() > 2, `${world.mostAtOnce()} at once`)
  }
})

t.test('customers that are made and deleted meanwhile, also the one that a cursor names', async (t) => {
  const world = await openStripe(t, MIXED)
  const gone = new Set<string>()
  const { error, seen, wrong } = await read(world, {
    lanes: 6,
    onPage(page) {
      world.controls.createCustomer({})
      for (const customer of [page.customers.at(-1), page.customers.at(3)]) {
        if (customer === undefined || gone.has(customer.id)) continue
        world.controls.deleteCustomer(customer.id)
        gone.add(customer.id)
      }
    },
  })
  t.equal(error, null)
  t.ok(gone.size > 20)
  t.strictSame(
    world.made.filter(({ id }) => !seen.has(id) && !gone.has(id)),
    [],
    'what lived throughout was seen',
  )
  t.strictSame(
    wrong.filter((id) => !gone.has(id)),
    [],
  )
})

t.test('broken off again and again, it goes on from what was stored, and misses nothing', async (t) => {
  const world = await openStripe(t, MIXED)
  const seen = new Set<string>()
  let plan = startPlan(END / 1000)
  let breaks = 0
  for (;;) {
    let pages = 0
    const part = await read(world, {
      lanes: 6,
      plan,
      onPage() {
        pages += 1
        if (pages === 3) throw new Error('as a process does whose database went away')
      },
    })
    for (const id of part.seen.keys()) seen.add(id)
    t.strictSame(part.wrong, [])
    if (part.saved !== null) plan = part.saved
    if (part.error === null) break
    breaks += 1
    t.match(part.error, { message: /went away/ })
  }
  t.ok(breaks > 3, `${breaks} breaks`)
  t.equal(seen.size, MIXED.length)
})

t.test('a call that Stripe refuses for their number is made again; another failure, or a stop, ends it', async (t) => {
  const world = await openStripe(t, MIXED)
  const refused = new StripeRateLimitError('too many', {
    code: 'stripe_rate_limited',
    retryable: true,
    notApplied: true,
    cause: null,
  })
  world.meddle.before = (call) => {
    if (call % 3 === 0) throw refused
  }
  const { error, seen } = await read(world, { lanes: 4 })
  t.equal(error, null)
  t.equal(seen.size, MIXED.length)

  world.meddle.before = () => {
    throw refused
  }
  t.equal((await read(world, { lanes: 4 })).error, refused, 'but not for ever')

  world.meddle.before = () => {}
  const stop = new AbortController()
  const stopped = await read(world, { lanes: 4, signal: stop.signal, onPage: () => stop.abort(new Error('stopped')) })
  t.match(stopped.error, { message: 'stopped' })
  t.ok(stopped.seen.size < MIXED.length)
  t.ok(stopped.saved !== null, 'what was under way is stored')
})
