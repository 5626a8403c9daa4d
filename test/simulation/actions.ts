import type Stripe from 'stripe'
import type { Tenant } from '../../src/models/tenant.js'
import type { FaultKind } from '../../src/simulator/faults.js'
import type { Action, ActionKind } from './config.js'
import { columnsOf, type Edit, otherValue, patchOf, someBeginning, someEdit, stripeParamsOf } from './edits.js'
import { customerStates, type Ledger } from './ledger.js'
import type { Task } from './scheduler.js'
import { OLD_SECRET, type Process, SECRET, type World } from './world.js'

const TICKS = [
  [3, 1],
  [4, 300],
  [6, 1_000],
  [5, 2_500],
  [4, 6_000],
  [4, 11_000],
  [4, 35_000],
  [3, 130_000],
  [2, 620_000],
  [2, 3_700_000],
  [1, 25 * 3_600_000],
] as const

const FAULTS: readonly (readonly [number, FaultKind])[] = [
  [3, '429'],
  [1, 'lock_timeout'],
  [3, '500'],
  [3, '500_after'],
  [2, 'timeout_before'],
  [3, 'timeout_after'],
  [2, 'reset_before'],
  [3, 'reset_after'],
  [1, 'truncate'],
  [1, '401'],
  [1, '403'],
  [1, 'wrong_mode'],
]

/** Requests that are older than this, in milliseconds, are carried out before the clock moves on: a network forgets. */
const NETWORK_MEMORY_MS = 45_000

interface UserRow {
  id: string
  tenantId: string
  state: string
  stripeCustomerId: string | null
}

/** Does the actions of a plan. */
export function makeActions(world: World, ledger: Ledger) {
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
  const { fields, mostUsers } = world.plan.config
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

  const actions: Record<ActionKind, (action: Action) => Promise<void>> = {
    async insertSql(action) {
      if (await isFull()) return
      const tenant = someTenant()
      const edit = someBeginning(world.choices, tagOf(action), fields)
      const { columns, metadata } = columnsOf(edit)
      const names = ['tenant_id', 'metadata', ...Object.keys(columns)]
      const present = Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== null))
      const values = [tenant.id, JSON.stringify({ ...present, other_local: 'kept' }), ...Object.values(columns)]
      await people('insert', asText(edit), () =>
        lab
          .pool('people')
          .query(`insert into users (${names}) values (${values.map((_, i) => `$${i + 1}`).join(', ')})`, values),
      )
    },

    async insertService(action) {
      if (await isFull()) return
      const tenant = someTenant()
      const edit = someBeginning(world.choices, tagOf(action), fields)
      const body = patchOf(edit)
      const metadata = Object.entries((body.metadata ?? {}) as Record<string, string | null>)
      const present = Object.fromEntries(metadata.filter(([, value]) => value !== null))
      await people('POST', asText(edit), () =>
        ledger.service.create(by(tenant.id), { ...body, metadata: present } as never, null),
      )
    },

    async editSql(action) {
      const user = await someUser()
      if (user !== null) await update(user, someEdit(world.choices, tagOf(action), fields))
    },

    /** A value that Stripe does not take. */
    async editBadly(action) {
      const user = await someUser()
      if (user === null) return
      await update(user, new Map([['phone', `+1 555 ${tagOf(action)} is too long`]]))
    },

    /** The same field on both sides, at about the same time. */
    async collide(action) {
      const pairs = (await users()).filter((user) => user.stripeCustomerId !== null)
      if (pairs.length === 0) return
      const user = world.choices.pick(pairs)
      const tenant = world.tenants.find(({ id }) => id === user.tenantId) ?? someTenant()
      const id = user.stripeCustomerId ?? ''
      const here = someEdit(world.choices, tagOf(action), fields)
      const there: Edit = new Map(
        [...here.keys()].map((path) => [path, otherValue(path, world.choices, `${tagOf(action)}s`)]),
      )
      if (world.choices.chance(0.5)) await setAtStripe(tenant, id, there)
      await update(user, here)
      if (world.choices.chance(0.3)) {
        await letOthersOn()
        await setAtStripe(tenant, id, there)
      } else if (world.choices.chance(0.6)) {
        await onTheWayToStripe(user)
        await setAtStripe(tenant, id, there)
      }
    },

    /** The dashboard changes a customer between Stripe's answer to us and our taking it, and its event is settled before. */
    async overtake(action) {
      const pairs = (await users()).filter((user) => user.stripeCustomerId !== null)
      if (pairs.length === 0) return
      const user = world.choices.pick(pairs)
      const tenant = world.tenants.find(({ id }) => id === user.tenantId) ?? someTenant()
      const here = someEdit(world.choices, tagOf(action), fields)
      // Of other fields: an event of the same would show that something was missed.
      const there = someEdit(world.choices, `${tagOf(action)}s`, ['description', 'locale', 'metadata'])
      for (const path of here.keys()) there.delete(path)
      if (there.size === 0) return
      await finish(await update(user, here))
      world.isSlow = true
      const task = await reconcile(world.worker(), user.id)
      const isAnswered = () => task.points[0]?.label.startsWith('answer to POST') === true
      for (let count = 0; count < 80 && !task.isDone && !task.isBlocked && !isAnswered(); count += 1) {
        if ((await scheduler.step(task, () => 'go')) === null) break
      }
      world.isSlow = false
      if (!isAnswered()) return
      for (const request of world.network.pending()) while (request.answer === null) world.network.advance(request)
      await tick(3_000)
      await setAtStripe(tenant, user.stripeCustomerId ?? '', there)
      await tick(5_000)
      while (await world.deliver()) await letOthersOn()
      const process = world.worker()
      await finish(await scheduler.start(process, 'drain', () => process.drain.drainBatch()))
    },

    /** The dashboard changes a customer that nobody else is at, or somebody only just begins with. */
    async calmEdit(action) {
      const pairs = (await users()).filter((user) => user.stripeCustomerId !== null)
      if (pairs.length === 0) return
      const user = world.choices.pick(pairs)
      const tenant = world.tenants.find(({ id }) => id === user.tenantId) ?? someTenant()
      await tick(6_000)
      await setAtStripe(tenant, user.stripeCustomerId ?? '', someEdit(world.choices, tagOf(action), fields))
      await tick(6_000)
      while (await world.deliver()) await letOthersOn()
      if (world.choices.chance(0.3)) await update(user, someEdit(world.choices, `${tagOf(action)}s`, fields))
      if (world.choices.chance(0.3)) await reconcile(world.worker(), user.id)
      for (let count = world.choices.int(3); count > 0; count -= 1) await letOthersOn()
      const process = world.worker()
      const drain = await scheduler.start(process, 'drain', () => process.drain.drainBatch())
      if (world.choices.chance(0.5)) await finish(drain)
    },

    async erase() {
      const user = await someUser()
      if (user === null) return
      await people('erase', user.id, () => ledger.service.erase(by(user.tenantId), user.id))
    },

    async editService(action) {
      const user = await someUser()
      if (user === null) return
      const edit = someEdit(world.choices, tagOf(action), fields)
      await people('PATCH', `${user.id} ${asText(edit)}`, () =>
        ledger.service.patch(by(user.tenantId), user.id, patchOf(edit) as never),
      )
    },

    async archive() {
      const user = await someUser()
      if (user === null) return
      await people('archive', user.id, () => ledger.service.archive(by(user.tenantId), user.id))
    },

    async restore() {
      const user = await someUser()
      if (user === null) return
      await people('restore', user.id, () => ledger.service.restore(by(user.tenantId), user.id))
    },

    async deleteRow() {
      const user = await someUser()
      if (user === null) return
      await people('delete row', user.id, () => lab.pool('people').query('delete from users where id = $1', [user.id]))
    },

    async dashboardCreate(action) {
      const tenant = someTenant()
      if (customers(tenant).length > mostUsers) return
      const edit = someBeginning(world.choices, tagOf(action), fields)
      // Now and then someone whom we know.
      if (world.choices.chance(0.3)) {
        const [known] = await overseer.query<{ email: string | null }>(
          `select email from users where tenant_id = $1 and email is not null order by created_at desc, id desc limit 1`,
          [tenant.id],
        )
        if (known?.email != null) edit.set('email', known.email)
      }
      const params = stripeParamsOf(edit)
      const metadata = { ...((params.metadata ?? {}) as Record<string, string>), other_system: `o${action.index}` }
      const present = Object.fromEntries(Object.entries(metadata).filter(([, value]) => value !== ''))
      await dashboard(tenant, () =>
        stripe.controls.createCustomer({ ...params, metadata: present }, accountOf(tenant).account),
      )
      trace.note(`the dashboard creates a customer ${asText(edit)}`)
    },

    async dashboardEdit(action) {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer !== null) await setAtStripe(tenant, customer.id, someEdit(world.choices, tagOf(action), fields))
    },

    /** Someone makes a customer with the metadata of another one. */
    async dashboardCopy() {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer === null) return
      trace.note(`the dashboard copies ${customer.id}`)
      const { metadata, email } = customer
      await dashboard(tenant, () =>
        stripe.controls.createCustomer({ metadata, ...(email === null ? {} : { email }) }, accountOf(tenant).account),
      )
    },

    async dashboardForeign(action) {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer === null) return
      const value = `o${action.index}`
      const fields = { balance: action.index, metadata: { other_system: value } }
      await dashboard(tenant, () => stripe.controls.updateCustomer(customer.id, fields, accountOf(tenant).account))
      ledger.foreignEdit(customer.id, { balance: action.index, other_system: value })
      trace.note(`the dashboard sets ${customer.id} balance and metadata of another system`)
    },

    async dashboardDelete() {
      const tenant = someTenant()
      const customer = someCustomer(tenant)
      if (customer === null) return
      stripe.controls.deleteCustomer(customer.id, accountOf(tenant).account)
      ledger.deleted.add(customer.id)
      trace.note(`the dashboard deletes ${customer.id}`)
    },

    async deliver() {
      if (world.choices.chance(0.06)) {
        const tenant = someTenant()
        const events = stripe.controls.events(accountOf(tenant).account)
        if (events.length > 0) {
          const event = world.choices.pick(events)
          stripe.controls.resendEvent(event.id, accountOf(tenant).account)
          trace.note(`Stripe sends ${event.id} again`)
        }
      }
      for (let count = 1 + world.choices.int(4); count > 0; count -= 1) if (!(await world.deliver())) return
    },

    async drain() {
      const process = world.worker()
      await scheduler.start(process, 'drain', () => process.drain.drainBatch())
    },

    async relay() {
      const process = world.worker()
      await scheduler.start(process, 'relay', () => process.relay.relayBatch())
    },

    async work() {
      const queued = [...world.queue]
      // Now and then without a job: the API reconciles while its caller waits, or the queue gives a job twice.
      const userId =
        queued.length > 0 && !world.choices.chance(0.05) ? world.choices.pick(queued) : (await someUser())?.id
      if (userId !== undefined) {
        if (!world.choices.chance(0.1)) world.queue.delete(userId)
        await reconcile(world.worker(), userId)
      }
      const [runId] = world.runQueue
      if (runId !== undefined) {
        world.runQueue.delete(runId)
        await execute(world.worker(), runId)
      }
    },

    async tick() {
      await tick(world.choices.weighted(TICKS))
    },

    async stripeFault() {
      for (let count = world.choices.weighted([[4, 1] as const, [1, 4] as const]); count > 0; count -= 1) {
        const kind = world.choices.weighted(FAULTS)
        world.network.nextFault(kind)
        lab.count('Stripe fault', kind)
        trace.note(`the next call to Stripe meets ${kind}`)
      }
    },

    async databaseFault() {
      world.nextDatabaseFault = world.choices.pick(['fail', 'fail-late'] as const)
      trace.note(`the next statement meets a broken connection (${world.nextDatabaseFault})`)
    },

    async crash() {
      await world.crash(world.choices.pick(['worker-1', 'worker-2', 'api'] as const))
    },

    async flushQueue() {
      trace.note(`the queue forgets ${world.queue.size + world.runQueue.size} jobs`)
      lab.count('queue', 'flushed')
      world.queue.clear()
      world.runQueue.clear()
    },

    catchUp: () => startRun('catch_up'),
    sweep: () => startRun('sweep'),

    async stuckWork() {
      const process = world.worker()
      await scheduler.start(process, 'stuck-work', () => process.tasks_['stuck-work'](new AbortController().signal))
    },

    async syncRequest() {
      const user = await someUser()
      if (user === null) return
      const { control } = world.process('api')
      await scheduler.start(world.process('api'), `POST sync ${user.id}`, () =>
        control.markForSync(user.tenantId, user.id),
      )
    },

    async resolveConflict() {
      const open = await overseer.query<{ id: string; tenantId: string; userId: string; field: string }>(
        `select id, tenant_id as "tenantId", user_id as "userId", field from sync_conflicts where status = 'open' order by id`,
      )
      if (open.length === 0) return
      const conflict = world.choices.pick(open)
      const winner = world.choices.pick(['local', 'stripe'] as const)
      const { control } = world.process('api')
      await scheduler.start(world.process('api'), `resolve ${conflict.field} for ${winner}`, () =>
        control.resolveConflict(conflict.tenantId, conflict.id, winner, by(conflict.tenantId)),
      )
    },

    async replayEvent() {
      const events = await overseer.query<{ id: string; tenantId: string }>(
        `select id, tenant_id as "tenantId" from stripe_events where status = 'processed' order by received_at, created, id`,
      )
      if (events.length === 0) return
      const event = world.choices.pick(events)
      const { control } = world.process('api')
      await scheduler.start(world.process('api'), `replay ${event.id}`, () =>
        control.replayEvent(event.tenantId, event.id),
      )
    },

    async rotateSecret() {
      const webhookSecret = world.choices.pick([SECRET, OLD_SECRET, `${SECRET},${OLD_SECRET}`])
      stripe.controls.changeSettings({ webhookSecret })
      trace.note(`Stripe signs with ${webhookSecret}`)
    },
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

  async function startRun(kind: 'catch_up' | 'sweep'): Promise<void> {
    const process = world.worker()
    await scheduler.start(process, `start ${kind}`, () =>
      process.runs.start({
        tenantId: someTenant().id,
        kind,
        dryRun: false,
        trigger: 'schedule',
        requestedBy: null,
      }),
    )
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

  return { actions, tick, reconcile, execute, users }
}

export type Actions = ReturnType<typeof makeActions>

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
