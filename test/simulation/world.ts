import { pino } from 'pino'
import { makeTasks, type Tasks } from '../../src/jobs/schedule.js'
import { ManualClock } from '../../src/lib/clock.js'
import { LockstepError } from '../../src/lib/errors.js'
import type { Tenant } from '../../src/models/tenant.js'
import { makeDb } from '../../src/repositories/database.js'
import { readBatch, storeDeliveries } from '../../src/repositories/delivery-batches.js'
import { findAddressees, findTenant } from '../../src/repositories/tenants.js'
import { makeVault, type Vault } from '../../src/repositories/vault.js'
import { StripeCustomerService } from '../../src/services/stripe-customer.service.js'
import { makeSimulatorCore, type SimulatorCore } from '../../src/simulator/core.js'
import type { Delivery } from '../../src/simulator/delivery.js'
import { makeStripeAccount } from '../../src/stripe/account.js'
import { RateLimitWaitError } from '../../src/stripe/rate-limiter.js'
import { makeSyncControl, type SyncControl } from '../../src/sync/control.js'
import { type Drain, makeDrain } from '../../src/sync/drain.js'
import { makeFiling } from '../../src/sync/filing.js'
import { type Inbox, makeInbox } from '../../src/sync/inbox.js'
import { makeReconcile, type Reconcile } from '../../src/sync/reconcile.js'
import { makeRelay, type Relay } from '../../src/sync/relay.js'
import { makeRuns, type Runs } from '../../src/sync/runs.js'
import type { Plan } from './config.js'
import type { SimPool } from './database.js'
import type { Lab } from './lab.js'
import { type Choices, choicesFor } from './random.js'
import { type Owner, Scheduler, type Task } from './scheduler.js'
import { makeNetwork, type Network, stripeOver } from './stripe.js'
import type { Trace } from './trace.js'

/** When every world begins. Before the time of any real machine that runs it, so that ids made by time keep their order. */
const BEGINNING = Date.UTC(2024, 0, 1)

export const SECRET = 'whsec_simulation'
export const OLD_SECRET = 'whsec_simulation_old'

/** A process of the service: it has its connections and its memory, and may die. */
export interface Process extends Owner {
  pool: SimPool
  reconcile: Reconcile
  drain: Drain
  relay: Relay
  runs: Runs
  inbox: Inbox
  control: SyncControl
  tasks_: Tasks
}

export type ProcessName = 'api' | 'worker-1' | 'worker-2'
const PROCESSES: readonly ProcessName[] = ['api', 'worker-1', 'worker-2']

/** A world: the service's processes, the database, the queue, Stripe, the network, and the clock of all of them. */
export class World {
  readonly plan: Plan
  readonly lab: Lab
  readonly trace: Trace
  readonly clock = new ManualClock(BEGINNING)
  readonly scheduler: Scheduler
  readonly stripe: SimulatorCore
  readonly network: Network
  readonly processes = new Map<ProcessName, Process>()
  /** The applications that write `users`, and people who look at the service; they don't die. */
  readonly people: Owner = { name: 'people', isDead: false, tasks: new Set() }
  tenants: Tenant[] = []
  /** Users and runs in the queue. */
  readonly queue = new Set<string>()
  readonly runQueue = new Set<string>()
  /** Events to which the service has answered 2xx, by tenant. */
  readonly acknowledged = new Set<string>()
  /** Those of them that were not in the inbox by then. */
  readonly tooEarly = new Set<string>()
  /** The choices of what is happening now. */
  choices: Choices
  /** What the next statement of the service meets. */
  nextDatabaseFault: 'fail' | 'fail-late' | null = null
  /** The runs that were made after edits and faults had ended. */
  readonly healed = new Set<'catch_up' | 'sweep'>()
  /** Every call to Stripe takes its time. */
  isSlow = false
  /** Nothing goes wrong any more. */
  isQuiet = false
  #vaults = 0
  readonly #arrived: { delivery: Delivery; answer(status: number): void; fail(error: Error): void }[] = []

  constructor(plan: Plan, lab: Lab, trace: Trace) {
    this.plan = plan
    this.lab = lab
    this.trace = trace
    this.choices = choicesFor(plan.seed, 'start')
    this.scheduler = new Scheduler(lab.locks, (task, error) => this.#taskEnded(task, error))
    const { config } = plan
    const stripeClock = { now: () => this.clock.now() + config.skewMs }
    this.stripe = makeSimulatorCore({
      clock: stripeClock,
      random: choicesFor(plan.seed, 'stripe').next,
      webhookUrl: 'http://lockstep/webhooks/stripe',
      webhookSecret: SECRET,
      retryDelaysMs: [1_000, 5_000, 30_000, 120_000, 3_600_000],
      ...config.simulator,
      transport: (delivery) =>
        new Promise((answer, fail) => {
          this.#arrived.push({ delivery, answer, fail })
        }),
    })
    this.stripe.controls.setDeliveryFaults({ ...config.delivery, reorderWindowMs: 4_000 })
    this.network = makeNetwork({
      core: this.stripe,
      scheduler: this.scheduler,
      now: () => this.clock.now(),
      isQuick: () => !this.isSlow && (this.isQuiet || !this.choices.chance(config.slowStripe)),
    })
  }

  /** Prepares the database and starts the processes. */
  async begin(): Promise<void> {
    const { lab, plan } = this
    await lab.overseer.clean()
    const { settings, isSwept, tenants } = plan.config
    const now = this.clock.now()
    await lab.overseer.query(
      `update tenants set settings = $1, events_read_through = $2::timestamptz, swept_at = case when $3 then $2::timestamptz end`,
      [JSON.stringify(settings), new Date(now - 600_000), isSwept],
    )
    if (tenants === 2) {
      await lab.overseer.query(
        `insert into tenants (slug, name, stripe_account, settings, events_read_through, swept_at)
         select 'second', 'Second', 'acct_Second', settings, events_read_through, swept_at from tenants`,
      )
    }
    const ids = await lab.overseer.query<{ id: string }>(`select id from tenants order by slug`)
    const db = makeDb(lab.pool('people'))
    for (const { id } of ids) {
      const tenant = await findTenant(db, id)
      if (tenant !== null) this.tenants.push(tenant)
    }
    for (const name of PROCESSES) this.#spawn(name)
  }

  process(name: ProcessName): Process {
    const process = this.processes.get(name)
    if (process === undefined) throw new Error(`no process ${name}`)
    return process
  }

  /** Any of the processes that work. */
  worker(): Process {
    return this.process(this.choices.pick(['worker-1', 'worker-2'] as const))
  }

  /** A vault such as every process has of its own: the same key, and what it remembers dies with it. */
  vault(): Vault {
    this.#vaults += 1
    const { int } = choicesFor(this.plan.seed, 'vault', this.#vaults)
    return makeVault({
      keys: [Buffer.alloc(32, 'simulation')],
      now: () => this.clock.now(),
      randomBytes: (size) => Uint8Array.from({ length: size }, () => int(256)),
    })
  }

  #spawn(name: ProcessName): void {
    const { lab, plan, network } = this
    const pool = lab.pool(name)
    const db = makeDb(pool)
    const vault = this.vault()
    const log = pino({ level: 'silent' })
    const random = choicesFor(plan.seed, 'jitter', name).next
    const { metrics } = lab
    const timer = {
      now: () => this.clock.now(),
      sleep: async (milliseconds: number) => {
        const until = this.clock.now() + milliseconds
        await this.scheduler.point('wait', 'sleep', () => this.clock.now() >= until)
      },
    }
    const stripe = stripeOver(network)
    const limiter = {
      take: async () => {
        if (!this.isQuiet && this.choices.chance(0.01)) throw new RateLimitWaitError()
      },
      slow: async () => {},
    }
    const accountOf = (tenant: Tenant) =>
      makeStripeAccount({ stripe, connectAccount: tenant.stripeAccount, urgency: 'push', limiter, metrics })
    let keys = 0
    const customersOf = (tenant: Tenant) =>
      new StripeCustomerService({
        account: accountOf(tenant),
        newIdempotencyKey: () => `lockstep-${name}-${keys++}`,
        sync: async () => null,
      })
    const wake = () => {}
    const filing = makeFiling({ db, vault, metrics, log, random, lanes: 1 })
    const runs = makeRuns({
      filing,
      db,
      vault,
      accountOf,
      enqueueRun: async (runId) => {
        this.runQueue.add(runId)
      },
      wake,
      metrics,
      log,
      random,
      timer,
      // Two pages side by side would be one task that stands at two points at once.
      sweepLanes: 1,
    })
    this.processes.set(name, {
      name,
      isDead: false,
      tasks: new Set(),
      pool,
      runs,
      reconcile: makeReconcile({ db, vault, customersOf, metrics, log, random }),
      drain: makeDrain({ db, vault, metrics, log, random, wake, filing, lanes: 1 }),
      relay: makeRelay({
        db,
        enqueue: async (userIds) => {
          // The order in which Postgres gives rows that are equal is not the world's to say.
          for (const id of [...userIds].sort()) this.queue.add(id)
        },
        clock: timer,
      }),
      inbox: makeInbox({
        db,
        addressee: async (tenantId) => (await findAddressees(db, [tenantId])).get(tenantId) ?? null,
        // Without company: two deliveries that wait for one statement would be no two tasks any more.
        storeDelivery: (delivery) => storeDeliveries(db, vault.cipher, [delivery]),
        platformSecrets: [SECRET, OLD_SECRET],
        ownSecretsOf: () => [],
        tolerance: 300,
        clock: timer,
        metrics,
        log,
        wake,
      }),
      control: makeSyncControl({ db, vault, timer, wake }),
      // Retention and merges are outside of what is simulated.
      tasks_: makeTasks({
        db,
        runs,
        wake,
        log,
        retention: { async startDaily() {}, async workOff() {} },
        merges: { async workOff() {} },
      }),
    })
  }

  /** The process dies where it stands, and another one takes its place. */
  async crash(name: ProcessName): Promise<void> {
    const process = this.process(name)
    this.trace.note(`${name} dies with ${[...process.tasks].map((task) => task.name).join(', ') || 'nothing'} in hand`)
    this.lab.count('crash', name)
    const backends = process.pool.backends()
    this.scheduler.kill(process)
    process.pool.destroy()
    await this.lab.overseer.gone(backends)
    this.lab.dropPool(name)
    if (name === 'api') for (const fail of this.#deliveries.splice(0)) fail(new Error('the connection was reset'))
    await this.scheduler.settleBlocked()
    this.#spawn(name)
  }

  /** How to tell Stripe that a delivery in the API's hands came to nothing. */
  readonly #deliveries: ((error: Error) => void)[] = []

  /** Stripe makes its next delivery; the API takes it in hand. False: none is due. */
  async deliver(): Promise<boolean> {
    void this.stripe.deliveries.deliverDue(1)
    const arrived = this.#arrived.shift()
    if (arrived === undefined) return false
    const { delivery, answer, fail } = arrived
    const api = this.process('api')
    const { account } = JSON.parse(delivery.body) as { account?: string }
    this.#deliveries.push(fail)
    await this.scheduler.start(api, `deliver ${this.trace.alias(delivery.event)}`, async () => {
      let status = 500
      try {
        const accepted = await api.inbox.accept({
          tenantId: null,
          signature: delivery.headers['Stripe-Signature'],
          rawBody: Buffer.from(delivery.body),
        })
        status = accepted.outcome === 'rejected' ? 400 : 200
        this.lab.count('delivery', accepted.outcome === 'rejected' ? accepted.reason : accepted.outcome)
      } finally {
        if (!api.isDead) {
          this.#deliveries.splice(this.#deliveries.indexOf(fail), 1)
          if (status === 200) await this.#noteAcknowledged(delivery.event, account ?? '')
          answer(status)
        }
      }
    })
    return true
  }

  /** What was acknowledged must be in the inbox from that moment: later, catch-up may have brought it. */
  async #noteAcknowledged(eventId: string, account: string): Promise<void> {
    this.acknowledged.add(`${account}/${eventId}`)
    const sql = `select from stripe_events where id = $1 and coalesce(account, '') = $2`
    const rows = await this.lab.overseer.query(sql, [eventId, account])
    if (rows.length === 0 && !(await this.#isDelivered(eventId, account))) this.tooEarly.add(`${account}/${eventId}`)
  }

  /** Whether the event is in a batch that is not filed yet. */
  async #isDelivered(eventId: string, account: string): Promise<boolean> {
    const batches = await this.lab.overseer.query<{ id: string }>('select id from delivery_batches')
    const { cipher } = this.vault()
    for (const { id } of batches) {
      const batch = await readBatch(this.lab.overseer, cipher, id)
      const events = (batch?.deliveries ?? []).map(({ event }) => event as { id: string; account?: string })
      if (events.some((event) => event.id === eventId && (event.account ?? '') === account)) return true
    }
    return false
  }

  #taskEnded(task: Task, error: unknown): void {
    if (error === undefined) {
      this.trace.step(task, 'ends')
      return
    }
    // A part of the service may fail, it is tried again; it may not fail by a mistake of its own.
    if (error instanceof LockstepError || task.owner === this.people) {
      const code = error instanceof LockstepError ? error.code : String(error)
      this.trace.step(task, `fails: ${code}`)
      this.lab.count('task failed', `${task.name.split(' ')[0]} (${code})`)
      return
    }
    this.crashes.push(error instanceof Error ? error : new Error(String(error)))
    this.trace.step(task, `THROWS ${String(error)}`)
  }

  /** What was thrown that no code of the service may throw. */
  readonly crashes: Error[] = []
}
