import type Stripe from 'stripe'
import type { Tenant } from '../../src/models/tenant.js'
import type { Action } from './config.js'
import { columnsOf, type Edit, stripeParamsOf } from './edits.js'
import { customerStates, type Ledger } from './ledger.js'
import type { Task } from './scheduler.js'
import type { Process, World } from './world.js'

/** Requests that are older than this, in milliseconds, are carried out before the clock moves on: a network forgets. */
const NETWORK_MEMORY_MS = 45_000

export interface UserRow {
  id: string
  tenantId: string
  state: string
  stripeCustomerId: string | null
}

/** What actions are made of: picking someone, writing here and in Stripe, and letting the work on. */
export function makeMoves(world: World, ledger: Ledger) {
  const { lab, scheduler, stripe, trace, clock } = world
  const { overseer } = lab

  const users = (): Promise<UserRow[]> =>
    overseer.query<UserRow>(
      `select id, tenant_id as "tenantId", state, stripe_customer_id as "stripeCustomerId" from users order by created_at, id`,
    )
  const someUser = async (): Promise<UserRow | null> => {
    const all = await users()
    return all.length === 0 ? null : world.choices.pick(all)
  }
  const someTenant = (): Tenant => world.choices.pick(world.tenants)
  const customers = (tenant: Tenant): Stripe.Customer[] =>
    stripe.controls.dump({ limit: 1_000, ...accountOf(tenant) }).data
  const someCustomer = (tenant: Tenant): Stripe.Customer | null => {
    const all = customers(tenant)
    return all.length === 0 ? null : world.choices.pick(all)
  }
  const people = (name: string, what: string, work: () => Promise<unknown>) => {
    trace.note(`someone: ${name} ${what}`)
    return scheduler.start(world.people, name, work)
  }
  const by = (tenantId: string) => ({ tenantId, actor: 'simulation', requestId: null, ip: null })
  const { mostUsers } = world.plan.config
  const isFull = async (): Promise<boolean> => (await users()).length >= mostUsers
  const tagOf = ({ index }: Action) => `v${index}`
  const asText = (edit: Edit) => [...edit].map(([path, value]) => `${path}=${short(value)}`).join(' ')

  async function dashboard(tenant: Tenant, change: () => { id: string }): Promise<void> {
    const states = () =>
      customerStates(stripe.controls.events(accountOf(tenant).account), tenant.settings.foreignMetadataPrefixes)
    const before = states()
    const { id } = change()
    const after = states().get(id) ?? []
    // An edit that changes nothing is none.
    if (after.length > (before.get(id)?.length ?? 0)) await ledger.stripeEdit(id, after)
  }

  async function setAtStripe(tenant: Tenant, id: string, edit: Edit): Promise<void> {
    if (!customers(tenant).some((customer) => customer.id === id)) return
    trace.note(`the dashboard sets ${id} ${asText(edit)}`)
    await dashboard(tenant, () => stripe.controls.updateCustomer(id, stripeParamsOf(edit), accountOf(tenant).account))
  }

  function update(user: UserRow, edit: Edit): Promise<Task> {
    const { columns, metadata } = columnsOf(edit)
    const gone = Object.keys(metadata).filter((key) => metadata[key] === null)
    const set = Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== null))
    const sets = Object.keys(columns).map((name, i) => `${name} = $${i + 4}`)
    const sql = `update users set ${['metadata = (metadata || $2::jsonb) - $3::text[]', ...sets]} where id = $1`
    const params = [user.id, JSON.stringify(set), gone, ...Object.values(columns)]
    return people('update', `${user.id} ${asText(edit)}`, () => lab.pool('people').query(sql, params))
  }

  /** A reconcile that has decided what to write, and has not sent it yet. */
  async function onTheWayToStripe(user: UserRow): Promise<void> {
    const task = await reconcile(world.worker(), user.id)
    for (let count = 0; count < 80 && !task.isDone && !task.isBlocked; count += 1) {
      if (task.points[0]?.kind === 'stripe' && task.points[0].label.startsWith('POST')) return
      await scheduler.step(task, () => 'go')
    }
  }

  /** Lets a task on to its end, as far as no other holds it up. */
  async function finish(task: Task): Promise<void> {
    while (!task.isDone && (await scheduler.step(task, () => 'go')) !== null);
  }

  /** A few steps of whatever is under way. */
  async function letOthersOn(): Promise<void> {
    for (let count = world.choices.int(12); count > 0; count -= 1) {
      const ready = scheduler.ready()
      if (ready.length === 0) return
      await scheduler.step(world.choices.pick(ready), () => 'go')
    }
  }

  function reconcile(process: Process, userId: string): Promise<Task> {
    return scheduler.start(process, `reconcile ${trace.alias(userId, 'id')}`, async () => {
      const result = await process.reconcile(userId)
      const detail = 'error' in result ? result.error.code : 'status' in result ? result.status : ''
      trace.note(`reconcile of ${userId} ended: ${result.outcome} ${detail}`)
    })
  }

  async function execute(process: Process, runId: string): Promise<void> {
    const { signal } = new AbortController()
    await scheduler.start(process, `run ${trace.alias(runId, 'run')}`, () => process.runs.execute(runId, signal))
  }

  function startRun(kind: 'catch_up' | 'sweep', tenant: Tenant = someTenant()): Promise<Task> {
    const process = world.worker()
    return scheduler.start(process, `start ${kind}`, () =>
      process.runs.start({
        tenantId: tenant.id,
        kind,
        dryRun: false,
        trigger: 'schedule',
        requestedBy: null,
      }),
    )
  }

  /** A worker begins with a sweep of the tenant at once. */
  async function sweepOf(tenant: Tenant): Promise<void> {
    await finish(await startRun('sweep', tenant))
    const [runId] = [...world.runQueue].slice(-1)
    if (runId === undefined) return
    world.runQueue.delete(runId)
    await execute(world.worker(), runId)
  }

  /** Time passes; requests that would be too old by then are carried out before. */
  async function tick(milliseconds: number): Promise<void> {
    for (const request of world.network.pending()) {
      if (clock.now() + milliseconds - request.sentAt <= NETWORK_MEMORY_MS) continue
      while (request.answer === null) world.network.advance(request)
    }
    clock.advance(milliseconds)
    trace.note(`${milliseconds} ms pass`)
  }

  return {
    users,
    someUser,
    someTenant,
    customers,
    someCustomer,
    people,
    by,
    isFull,
    tagOf,
    asText,
    dashboard,
    setAtStripe,
    update,
    onTheWayToStripe,
    finish,
    letOthersOn,
    reconcile,
    execute,
    startRun,
    sweepOf,
    tick,
  }
}

export type Moves = ReturnType<typeof makeMoves>

/** The account of a tenant as the simulator's switches take it. */
export function accountOf(tenant: Tenant): { account?: string } {
  return tenant.stripeAccount === null ? {} : { account: tenant.stripeAccount }
}

function short(value: unknown): string {
  if (typeof value === 'object' && value !== null) {
    const { line1, name } = value as { line1?: string; name?: string }
    return `{${line1 ?? name ?? ''}}`
  }
  return JSON.stringify(value)
}
