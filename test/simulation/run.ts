import { DEFAULT_SETTINGS } from '../../src/models/tenant.js'
import { makeDb } from '../../src/repositories/database.js'
import { makeCustomerService } from '../../src/services/customer.service.js'
import { type Actions, makeActions } from './actions.js'
import type { Plan } from './config.js'
import { checkInvariants, type Violation } from './invariants.js'
import type { Lab } from './lab.js'
import { Ledger } from './ledger.js'
import { choicesFor } from './random.js'
import type { Point, Task, Verdict } from './scheduler.js'
import { Trace } from './trace.js'
import { World } from './world.js'

/** What came of a run. */
export interface RunResult {
  violations: Violation[]
  trace: readonly string[]
  /** How many steps tasks made. */
  steps: number
}

/** Rounds until a world whose edits and faults have ended is quiet, at the most. */
const MOST_ROUNDS = 60

/** Lives through a plan: the rough part, then the quiet one, then the check. */
export async function runPlan(plan: Plan, lab: Lab): Promise<RunResult> {
  const trace = new Trace()
  const world = new World(plan, lab, trace)
  lab.world = world
  trace.clockIs(() => world.clock.now())
  const run = { world, steps: 0 }
  let violations: Violation[]
  try {
    await world.begin()
    const service = makeCustomerService({
      prisma: lab.prisma,
      db: makeDb(lab.pool('people')),
      vault: world.vault(),
      sync: { wake() {}, reattach: (tenantId, id) => world.process('api').control.reattach(tenantId, id) },
      settingsOf: async () => ({ ...DEFAULT_SETTINGS, ...plan.config.settings }),
      clock: world.clock,
    })
    const ledger = new Ledger(lab.overseer, service)
    const actions = makeActions(world, ledger)
    if (plan.config.isWarm) await warmUp(run, actions)
    for (const action of plan.actions) {
      world.choices = choicesFor(plan.seed, 'action', action.index)
      await actions.actions[action.kind](action)
      await letTasksOn(run)
    }
    violations = await becomeQuiet(run, actions)
    await noteImports(world)
    if (violations.length === 0) violations = await checkInvariants(world, ledger)
    if (violations.length > 0) await noteEvents(world)
    for (const error of world.crashes) violations.push({ rule: 'code', what: error.stack ?? error.message })
  } finally {
    if (world.scheduler.tasks.size > 0) await discard(lab, world)
    world.stripe.close()
  }
  return { violations, trace: trace.lines, steps: run.steps }
}

interface Run {
  world: World
  steps: number
}

/** One user in step with its customer, an hour before all else. */
async function warmUp(run: Run, actions: Actions): Promise<void> {
  const { world } = run
  world.isQuiet = true
  await actions.actions.insertSql({ index: -1, kind: 'insertSql' })
  await world.scheduler.drain(world.choices)
  for (const { id } of await actions.users()) {
    await actions.reconcile(world.worker(), id)
    await world.scheduler.drain(world.choices)
  }
  await actions.tick(3_600_000)
  world.isQuiet = false
}

/** Lets the tasks make some steps, in an order of choice, with the failures that the config has. */
async function letTasksOn(run: Run): Promise<void> {
  const { world } = run
  const { scheduler, plan, choices, network, trace } = world
  const { config } = plan
  let last = 0
  for (let count = choices.int(config.stepsPerAction + 1); count > 0; count -= 1) {
    const requests = network.pending()
    if (requests.length > 0 && choices.chance(0.3)) network.advance(choices.pick(requests))
    const ready = scheduler.ready()
    if (ready.length === 0) return
    const same = ready.find((task) => task.id === last)
    const task = same !== undefined && choices.chance(config.stickiness) ? same : choices.pick(ready)
    last = task.id
    if (task.owner !== world.people && choices.chance(config.crash)) {
      trace.step(task, `about to: ${task.points[0]?.label.slice(0, 80) ?? ''}`)
      await world.crash(task.owner.name as 'api')
      continue
    }
    await scheduler.step(task, (point) => {
      const verdict = verdictFor(world, task.owner === world.people, point)
      noteStep(world, task, point, verdict)
      return verdict
    })
    run.steps += 1
  }
}

function verdictFor(world: World, isPeople: boolean, point: Point): Verdict {
  if (isPeople || point.kind !== 'database') return 'go'
  const { nextDatabaseFault: planned } = world
  if (planned !== null) {
    world.nextDatabaseFault = null
    return planned
  }
  if (!world.choices.chance(world.plan.config.databaseFailure)) return 'go'
  return world.choices.pick(['fail', 'fail-late'] as const)
}

function noteStep({ trace, lab }: World, task: Task, point: Point, verdict: Verdict): void {
  if (verdict !== 'go') lab.count('database', verdict === 'fail' ? 'broken before' : 'broken after')
  const isDull = point.kind === 'database' && /^\s*(select|begin|set )/i.test(point.label)
  if (!isDull || verdict !== 'go') {
    trace.step(task, `${point.label.slice(0, 110)}${verdict === 'go' ? '' : ` -> ${verdict}`}`)
  }
}

/**
 * Edits and faults have ended: everything that is under way comes to its end, deliveries and retries as their time comes,
 * catch-up as its hour comes, and, where only a sweep finds what was missed, the sweep.
 */
async function becomeQuiet(run: Run, actions: Actions): Promise<Violation[]> {
  const { world } = run
  const { scheduler, stripe, lab, plan, trace } = world
  world.isQuiet = true
  world.nextDatabaseFault = null
  world.choices = choicesFor(plan.seed, 'quiet')
  world.network.calmDown()
  stripe.controls.setDeliveryFaults()
  stripe.controls.changeSettings({ eventVisibilityLagMs: 0 })
  trace.note('--- edits and faults have ended')
  const finish = async () => {
    for (const request of world.network.pending()) while (request.answer === null) world.network.advance(request)
    await scheduler.drain(world.choices)
  }
  const worker = world.process('worker-1')
  for (let round = 1; round <= MOST_ROUNDS; round += 1) {
    await finish()
    while (await world.deliver()) await finish()
    if (round % 4 === 0) await actions.actions.stuckWork({ index: 0, kind: 'stuckWork' })
    await finish()
    await scheduler.start(worker, 'drain', async () => {
      while ((await worker.drain.drainBatch()) > 0);
    })
    await finish()
    await scheduler.start(worker, 'relay', () => worker.relay.relayBatch())
    await finish()
    for (const userId of [...world.queue]) {
      world.queue.delete(userId)
      await actions.reconcile(world.worker(), userId)
      await finish()
    }
    for (const runId of [...world.runQueue]) {
      world.runQueue.delete(runId)
      await actions.execute(world.worker(), runId)
      await finish()
    }
    const waiting = await whatWaits(world)
    if (waiting === null) {
      lab.count('rounds to quiet', round <= 5 ? 'up to 5' : round <= 15 ? 'up to 15' : `up to ${MOST_ROUNDS}`)
      return []
    }
    trace.note(`round ${round}: ${waiting}`)
    if (round === 2) await startRuns(world, 'catch_up')
    if (round === 8 && plan.config.healBy === 'sweep') await startRuns(world, 'sweep')
    await actions.tick(round < 5 ? 2_000 : round < 15 ? 40_000 : 700_000)
  }
  return [{ rule: 'a', what: `not quiet after ${MOST_ROUNDS} rounds: ${await whatWaits(world)}` }]
}

async function startRuns(world: World, kind: 'catch_up' | 'sweep'): Promise<void> {
  const worker = world.process('worker-1')
  for (const tenant of world.tenants) {
    await world.scheduler.start(worker, `start ${kind}`, () =>
      worker.runs.start({ tenantId: tenant.id, kind, dryRun: false, trigger: 'schedule', requestedBy: null }),
    )
    await world.scheduler.drain(world.choices)
  }
  world.healed.add(kind)
}

/** What is still to be done, in words; null when nothing is. */
async function whatWaits(world: World): Promise<string | null> {
  const { stripe, lab, plan, queue, runQueue } = world
  const [row] = await lab.overseer.query<{ events: number; dirty: number; failed: number; runs: number }>(
    `select (select count(*)::int from stripe_events where status in ('pending', 'failed'))
              + (select count(*)::int from delivery_batches) as events,
            (select count(*)::int from sync_state where dirty and status <> 'failed') as dirty,
            (select count(*)::int from sync_state where status = 'failed' and (last_error ->> 'retryable')::boolean) as failed,
            (select count(*)::int from reconciliations where status in ('queued', 'running')) as runs`,
  )
  const waits = {
    deliveries: stripe.controls.pendingDeliveries().length,
    events: row?.events ?? 0,
    'dirty users': row?.dirty ?? 0,
    'failed users': row?.failed ?? 0,
    runs: row?.runs ?? 0,
    jobs: queue.size + runQueue.size,
    'catch-ups': world.healed.has('catch_up') ? 0 : 1,
    sweeps: plan.config.healBy === 'sweep' && !world.healed.has('sweep') ? 1 : 0,
  }
  const left = Object.entries(waits).filter(([, count]) => count > 0)
  return left.length === 0 ? null : left.map(([name, count]) => `${count} ${name}`).join(', ')
}

/** How many became users by a sweep: with others of their page, or alone. */
async function noteImports({ lab }: World): Promise<void> {
  const rows = await lab.overseer.query<{ together: number; alone: number }>(
    `select coalesce(sum(n) filter (where n > 1), 0)::int as together, count(*) filter (where n = 1)::int as alone
     from (
       select count(*)::int as n from audit_log where action = 'sync.import' and cause like 'run:%' group by xmin::text
     ) as imports`,
  )
  for (const { together, alone } of rows) {
    lab.count('swept into users', 'with others', together)
    lab.count('swept into users', 'alone', alone)
  }
}

/** How each event was settled: mostly the first thing to look at. */
async function noteEvents({ lab, trace }: World): Promise<void> {
  const rows = await lab.overseer.query<{ line: string }>(
    `select format('%s %s of %s, made %s, by %s: %s %s, key %s', e.id, type, e.stripe_customer_id, to_char(created, 'HH24:MI:SS'),
                   source, status, outcome, coalesce(idempotency_key, 'none')) as line
     from (select * from stripe_events order by created, received_at, id) e
     union all
     select format('user %s: %s, remote as of %s, revisions %s/%s %s/%s, error %s', user_id, status,
                   to_char(remote_as_of, 'HH24:MI:SS'), local_revision, synced_revision, remote_revision,
                   remote_synced_revision, last_error ->> 'code')
     from (select * from sync_state order by user_id) s`,
  )
  for (const { line } of rows) trace.note(line)
}

/** After a run that did not come to its end: its processes die, and the lab gets new ones. */
async function discard(lab: Lab, world: World): Promise<void> {
  for (const process of world.processes.values()) world.scheduler.kill(process)
  world.scheduler.kill(world.people)
  await lab.renew()
}
