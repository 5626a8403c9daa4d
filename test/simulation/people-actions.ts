import type { Action, ActionKind } from './config.js'
import { columnsOf, type Edit, otherValue, patchOf, someBeginning, someEdit } from './edits.js'
import type { Ledger } from './ledger.js'
import { accountOf, type Moves } from './moves.js'
import type { World } from './world.js'

/** What people do here, by SQL and through the service; and what they do here and in Stripe at about the same time. */
export function peopleActions(world: World, ledger: Ledger, moves: Moves) {
  const { lab, scheduler } = world
  const { fields } = world.plan.config
  const {
    users,
    someUser,
    someTenant,
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
    tick,
  } = moves

  return {
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

    async erase() {
      const user = await someUser()
      if (user === null) return
      await people('erase', user.id, () => ledger.service.erase(by(user.tenantId), user.id))
    },

    async deleteRow() {
      const user = await someUser()
      if (user === null) return
      await people('delete row', user.id, () => lab.pool('people').query('delete from users where id = $1', [user.id]))
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

    /** Two register with the e-mail of a customer that is made in Stripe, whose event comes before anybody has looked at them. */
    async namesakes(action) {
      if (await isFull()) return
      const tenant = someTenant()
      const email = `${tagOf(action)}@example.com`
      const sql = 'insert into users (tenant_id, email) values ($1, $2)'
      for (const one of ['one', 'two']) {
        await finish(await people(`insert ${one}`, email, () => lab.pool('people').query(sql, [tenant.id, email])))
      }
      await dashboard(tenant, () => world.stripe.controls.createCustomer({ email }, accountOf(tenant).account))
      await tick(6_000)
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
  } satisfies Partial<Record<ActionKind, (action: Action) => Promise<void>>>
}
