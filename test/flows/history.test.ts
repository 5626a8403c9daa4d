import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { makeDb } from '../../src/repositories/database.js'
import { verifyAudit } from '../../src/services/audit-verification.js'
import { eventually } from '../helpers/wait.js'
import { openScene, PATIENCE } from '../scenarios/scene.js'

// biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape
type Item = any

t.test('every synced field explains itself', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, apart, settings } = scene
  const story = async (id: string, field: string): Promise<Item[]> =>
    (await api('GET', `/customers/${id}/history?field=${field}`)).body.data
  const lastEvent = (stripeId: string) => scene.eventsOf(stripeId)[0]?.id

  await t.test('an edit by the API, carried to Stripe: who made it, and that nobody else had changed it', async (t) => {
    const { id } = await newCustomer({ email: 'rest@example.com' })
    const patched = await api('PATCH', `/customers/${id}`, { description: 'ours' })
    await quiet()
    const [decision, edit] = await story(id, 'description')
    t.match(decision, {
      kind: 'decision',
      side: 'local',
      by: { origin: 'sync' },
      before: null,
      after: 'ours',
      why: 'only_change',
      sides: { base: null, local: 'ours', stripe: null },
      edit: { id: edit.id, origin: 'rest', actor: /^key:/, requestId: patched.headers.get('x-request-id') },
    })
    t.match(edit, { kind: 'edit', by: { origin: 'rest' }, before: null, after: 'ours' })
  })

  await t.test('an edit by plain SQL: the fact and who, then the values', async (t) => {
    const { id } = await newCustomer({ email: 'sql@example.com' })
    await pool.query("update users set first_name = 'Ada', last_name = 'King' where id = $1", [id])
    await quiet()
    const [decision, edit, ...rest] = await story(id, 'name')
    t.strictSame(rest, [])
    t.match(edit, { kind: 'edit', by: { origin: 'sql', actor: /^sql:/ }, valuesKnown: false })
    t.match(decision, { before: null, after: 'Ada King', why: 'only_change', edit: { id: edit.id, origin: 'sql' } })
  })

  await t.test('a link by plain SQL: who gave it, and who took it away', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'linked@example.com' })
    const other = scene.unseen(() => controls.createCustomer({ email: 'linked@example.com' })) as unknown as Item
    await pool.query('update users set stripe_customer_id = $2 where id = $1', [id, other.id])
    await quiet()
    const [theirs, ours, ...rest] = await story(id, 'stripeCustomerId')
    t.strictSame(rest, [])
    t.match(ours, { by: { origin: 'sync' }, before: null, after: stripeId })
    t.match(theirs, {
      kind: 'edit',
      side: 'local',
      by: { origin: 'sql', actor: /^sql:/ },
      before: stripeId,
      after: other.id,
      valuesKnown: true,
    })
  })

  await t.test('what someone has done again is in the log, with who and by which request', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'again@example.com' })
    await quiet()
    const event = lastEvent(stripeId) ?? ''
    const asked = [
      ['customer.sync', id, await api('POST', `/customers/${id.toUpperCase()}/sync`)],
      ['event.replay', event, await api('POST', `/events/${event}/replay`)],
      ['reconciliation.start', null, await api('POST', '/reconciliations', { kind: 'sweep', dryRun: true })],
    ] as const
    for (const [action, entityId, answer] of asked) {
      t.equal(answer.status, 202, action)
      const requestId = answer.headers.get('x-request-id')
      t.match((await api('GET', `/audit?action=${action}`)).body.data[0], {
        entityId: entityId ?? answer.body.id,
        actor: /^key:/,
        requestId,
        changes: entityId === null ? { kind: 'sweep', dryRun: true } : null,
      })
    }
    const counted = async () => (await pool.query('select from audit_log')).rowCount
    await quiet()
    const before = await counted()
    t.equal((await api('POST', '/events/evt_nobodys/replay')).status, 404)
    t.equal((await api('POST', `/customers/${newId()}/sync`)).status, 404)
    t.equal(await counted(), before, 'what was not done is not recorded')
  })

  await t.test('an edit in Stripe: the event, and that it was taken over', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'there@example.com' })
    controls.advanceClock(10_000)
    controls.updateCustomer(stripeId, { phone: '+14155550101' })
    await eventually(async () => (await scene.rowOf(id)).phone === '+14155550101', { ...PATIENCE, what: 'the phone' })
    await quiet()
    const [decision, edit, ...rest] = await story(id, 'phone')
    t.strictSame(rest, [])
    t.match(edit, {
      kind: 'edit',
      side: 'stripe',
      by: { origin: 'stripe', stripeEventId: lastEvent(stripeId) },
      before: null,
      after: '+14155550101',
      changedAt: /^20/,
    })
    t.match(decision, {
      kind: 'decision',
      side: 'stripe',
      by: { origin: 'sync', stripeEventId: lastEvent(stripeId) },
      why: 'only_change',
      sides: { base: null, local: null, stripe: '+14155550101' },
      edit: { id: edit.id, origin: 'stripe' },
    })
  })

  await t.test('a change in Stripe that only a sweep finds: the run', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'drift@example.com' })
    scene.unseen(() => controls.updateCustomer(stripeId, { description: 'drifted' }))
    const run = await scene.run('sweep')
    await quiet()
    const [decision, edit] = await story(id, 'description')
    t.match(edit, { by: { origin: 'stripe', cause: `run:${run.id}` }, before: null, after: 'drifted' })
    t.match(decision, { after: 'drifted', by: { origin: 'sync', cause: `run:${run.id}` }, edit: { id: edit.id } })
  })

  await t.test('both changed it: the later edit won, and what each held', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'both@example.com', description: 'base' })
    await apart(async () => {
      await api('PATCH', `/customers/${id}`, { description: 'earlier, here' })
      controls.advanceClock(60_000)
      controls.updateCustomer(stripeId, { description: 'later, there' })
    })
    await quiet()
    const [decision] = await story(id, 'description')
    t.match(decision, {
      kind: 'decision',
      side: 'stripe',
      why: 'later_edit',
      policy: 'latest',
      before: 'earlier, here',
      after: 'later, there',
      sides: { base: 'base', local: 'earlier, here', stripe: 'later, there', localAt: /^20/, stripeAt: /^20/ },
      edit: { origin: 'stripe', stripeEventId: lastEvent(stripeId) },
    })
  })

  await t.test('someone decided: who, and that it was carried over because of that', async (t) => {
    await settings({ policies: { description: 'manual' } })
    const { id, stripeId } = await newCustomer({ email: 'manual@example.com', description: 'base' })
    await apart(async () => {
      await api('PATCH', `/customers/${id}`, { description: 'here' })
      controls.advanceClock(60_000)
      controls.updateCustomer(stripeId, { description: 'there' })
    })
    const [conflict] = await scene.conflictsOf(id)
    await api('POST', `/conflicts/${conflict.id}/resolve`, { winner: 'local' })
    await quiet()
    const [carried, decided] = await story(id, 'description')
    t.match(decided, {
      kind: 'decision',
      side: 'local',
      why: 'manual',
      by: { origin: 'operator', actor: /^key:/, cause: `conflict:${conflict.id}` },
      sides: { base: 'base', local: 'here', stripe: 'there' },
    })
    t.match(carried, { kind: 'decision', why: 'manual', after: 'here', edit: { id: decided.id, origin: 'operator' } })
  })

  await t.test('links, and their end', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'links@example.com' })
    controls.deleteCustomer(stripeId)
    await eventually(async () => (await scene.stateOf(id)).status === 'detached', { ...PATIENCE, what: 'detached' })
    t.match(await story(id, 'stripeCustomerId'), [
      { before: stripeId, after: null, why: 'deleted_in_stripe', by: { stripeEventId: lastEvent(stripeId) } },
      { before: null, after: stripeId, why: 'linked', by: { origin: 'sync' } },
    ])
  })

  await t.test('an import', async (t) => {
    const made = controls.createCustomer({ email: 'imported@example.com', name: 'Im Ported' })
    const row = await eventually(async () => (await scene.usersWith(made.id))[0], { ...PATIENCE, what: 'the import' })
    const { body } = await api('GET', `/audit?entity=customer&entityId=${row.id}`)
    t.equal(body.data.length, 1, 'no other entry of it')
    t.match(body.data, [
      {
        action: 'sync.import',
        actor: 'sync',
        cause: /^evt_/,
        changes: { fields: { email: { to: 'imported@example.com' }, name: { to: 'Im Ported' } } },
      },
    ])
  })

  await t.test('an erasure: the values are gone everywhere, the entries stay, the chain holds', async (t) => {
    await settings({ policies: {} })
    const { id, stripeId } = await newCustomer({ email: 'erased@example.com', description: 'secret base' })
    await apart(async () => {
      await api('PATCH', `/customers/${id}`, { description: 'secret here' })
      controls.advanceClock(60_000)
      controls.updateCustomer(stripeId, { description: 'secret there' })
    })
    await quiet()
    t.match(await scene.conflictsOf(id), [{ local: 'secret here', remote: 'secret there', base: 'secret base' }])
    const stored = async (table: string, where: string) =>
      JSON.stringify((await pool.query(`select * from ${table} where ${where}`)).rows)
    t.notMatch(await stored('sync_conflicts', `user_id = '${id}'`), 'secret', 'sealed before, too')
    t.notMatch(await stored('stripe_events', `stripe_customer_id = '${stripeId}'`), 'secret')

    const count = (await story(id, 'description')).length
    await api('DELETE', `/customers/${id}?erase=true`)
    await quiet()
    t.match(await scene.conflictsOf(id), [{ local: '[erased]', remote: '[erased]', base: '[erased]' }])
    const items = await story(id, 'description')
    t.equal(items.length, count + 1)
    t.notMatch(JSON.stringify(items), 'secret')
    t.match(await story(id, 'stripeCustomerId'), [{ before: stripeId, why: 'erased' }])
    const { rows } = await pool.query('select payload from stripe_events where stripe_customer_id = $1', [stripeId])
    t.ok(rows.length > 2)
    t.ok(
      rows.every(({ payload }) => JSON.stringify(payload) === '{}'),
      'the inbox too, also what came after',
    )

    const { tenant_id: tenantId } = await scene.rowOf(id)
    const verified = await eventually(
      async () => {
        const result = await verifyAudit(makeDb(pool), tenantId)
        return result.unchained === 0 ? result : null
      },
      { ...PATIENCE, what: 'all entries chained' },
    )
    t.match(verified, { breach: null })
    t.ok((verified?.verified ?? 0) > 20)
  })

  await t.test('no write of the service is left to the trigger', async (t) => {
    const { rows } = await pool.query(
      "select * from audit_log where actor like 'sql:%' and changes ->> 'program' like 'lockstep%'",
    )
    t.strictSame(rows, [])
  })
})
