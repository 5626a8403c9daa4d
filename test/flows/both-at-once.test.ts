import t from 'tap'
import { untilInboxIsEmpty } from '../helpers/inbox.js'
import { backends, type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

/** Changes a customer on both sides before either hears of the other. */
async function collide(
  service: Service,
  user: { id: string; stripeId: string },
  local: object,
  remote: object,
): Promise<void> {
  const { api, simulator, quiet } = service
  simulator.controls.setDeliveryFaults({ paused: true })
  simulator.controls.faults.add({ operation: '*', kind: '500' })
  simulator.controls.updateCustomer(user.stripeId, remote as Record<string, unknown>)
  await api('PATCH', `/customers/${user.id}`, local)
  await meet(service)
  await api('POST', `/customers/${user.id}/sync`)
  await quiet()
}

/**
 * Stripe's events come in first, and only then does Stripe take calls again: not while a worker still holds what it read
 * before they came, or its write would win by being later.
 */
async function meet({ pool, simulator }: Service): Promise<void> {
  simulator.controls.setDeliveryFaults()
  await simulator.controls.flush()
  await untilInboxIsEmpty(pool)
  await eventually(
    async () => (await pool.query('select from sync_state where lease_expires_at > lockstep_now()')).rowCount === 0,
    { what: 'no user in the hands of a worker' },
  )
  simulator.controls.faults.remove()
}

for (const backend of backends) {
  t.test(`both sides at once (queue on ${backend})`, async (t) => {
    const service = await startService(t, { backend })
    const { api, newCustomer, settings, simulator, quiet } = service
    const { controls } = simulator
    const syncOf = async (id: string) => (await api('GET', `/customers/${id}/sync`)).body
    const conflictsOf = async (id: string) => (await api('GET', `/conflicts?userId=${id}`)).body.data

    t.test('different fields and metadata keys: both survive, without a conflict', async (t) => {
      const user = await newCustomer({ email: 'both@example.com', metadata: { kept: '1', gone: '2' } })
      await collide(
        service,
        user,
        { description: 'from here', metadata: { ours: 'here', gone: null } },
        { phone: '+14155550100', metadata: { theirs: 'there' } },
      )
      const sync = await syncOf(user.id)
      t.match(sync, { status: 'in_sync', conflicts: [] })
      t.strictSame(sync.local, sync.remote)
      t.match(sync.local, { description: 'from here', phone: '+14155550100' })
      t.strictSame(sync.local.metadata, { kept: '1', ours: 'here', theirs: 'there' })
      t.match(controls.getCustomer(user.stripeId), {
        description: 'from here',
        metadata: { ours: 'here', theirs: 'there' },
      })
    })

    t.test('the same change on both sides is no conflict', async (t) => {
      const user = await newCustomer({ email: 'same@example.com' })
      await collide(service, user, { description: 'alike' }, { description: 'alike' })
      t.match(await syncOf(user.id), { status: 'in_sync', local: { description: 'alike' }, conflicts: [] })
    })

    for (const [policy, winner] of [
      ['local', 'here'],
      ['stripe', 'there'],
    ] as const) {
      t.test(`the same field under the policy '${policy}': one wins, the other is kept in view`, async (t) => {
        await settings({ policies: { description: policy } })
        const user = await newCustomer({ email: `${policy}@example.com`, description: 'before' })
        await collide(service, user, { description: 'here' }, { description: 'there' })
        const sync = await syncOf(user.id)
        t.match(sync, { status: 'in_sync', local: { description: winner }, remote: { description: winner } })
        t.match(await conflictsOf(user.id), [
          {
            field: 'description',
            reason: 'both_changed',
            policy,
            base: 'before',
            local: 'here',
            remote: 'there',
            winner: policy,
            status: 'resolved',
          },
        ])
      })
    }

    t.test("under 'latest' the later edit wins, by the time of the edit, not of its arrival", async (t) => {
      await settings({ policies: {} })
      const user = await newCustomer({ email: 'latest@example.com', description: 'before' })
      controls.setDeliveryFaults({ paused: true })
      controls.faults.add({ operation: '*', kind: '500' })
      await api('PATCH', `/customers/${user.id}`, { description: 'earlier, here' })
      controls.advanceClock(5_000)
      controls.updateCustomer(user.stripeId, { description: 'later, there' })
      await meet(service)
      await api('POST', `/customers/${user.id}/sync`)
      await quiet()
      t.match(await syncOf(user.id), {
        local: { description: 'later, there' },
        remote: { description: 'later, there' },
      })
      t.match(await conflictsOf(user.id), [{ policy: 'latest', winner: 'stripe', local: 'earlier, here' }])
    })

    for (const winner of ['local', 'stripe'] as const) {
      t.test(`'manual' freezes the field until someone decides for '${winner}'`, async (t) => {
        await settings({ policies: { description: 'manual' } })
        const user = await newCustomer({ email: `manual-${winner}@example.com`, description: 'before' })
        await collide(service, user, { description: 'here', phone: '+14155550111' }, { description: 'there' })
        t.match(
          await syncOf(user.id),
          {
            status: 'conflict',
            local: { description: 'here', phone: '+14155550111' },
            remote: { description: 'there', phone: '+14155550111' },
          },
          'both keep their value, other fields go on',
        )
        t.match((await api('GET', `/customers?syncStatus=conflict&email=manual-${winner}@example.com`)).body.data, [
          { id: user.id },
        ])

        const [conflict] = await conflictsOf(user.id)
        t.match(conflict, { field: 'description', winner: null, status: 'open' })
        t.match(await api('POST', `/conflicts/${conflict.id}/resolve`, { winner }), {
          status: 200,
          body: { status: 'resolved', winner },
        })
        await quiet()
        const value = winner === 'local' ? 'here' : 'there'
        t.match(await syncOf(user.id), {
          status: 'in_sync',
          local: { description: value },
          remote: { description: value },
        })
        t.match(await api('POST', `/conflicts/${conflict.id}/resolve`, { winner }), { status: 409 }, 'once')
      })
    }

    t.test('an address is one value: it is replaced whole, never mixed', async (t) => {
      await settings({ policies: { address: 'local' } })
      const user = await newCustomer({
        email: 'address@example.com',
        address: { line1: '1 Old St', city: 'Oldtown', country: 'US' },
      })
      await collide(
        service,
        user,
        { address: { line1: '2 New St' } },
        { address: { line1: '9 Other St', city: 'Elsewhere', country: 'CA' } },
      )
      const { address } = controls.getCustomer(user.stripeId) as { address: object }
      t.match(address, { line1: '2 New St', city: 'Oldtown', country: 'US' })
    })

    t.test('what Stripe cannot forget comes back here, and is reported', async (t) => {
      const user = await newCustomer({ email: 'locale@example.com', locale: 'de' })
      await api('PATCH', `/customers/${user.id}`, { locale: null }, { prefer: 'wait=10' })
      await quiet()
      t.match(await syncOf(user.id), { status: 'in_sync', local: { locale: 'de' } })
      t.match(await conflictsOf(user.id), [{ field: 'locale', reason: 'cannot_clear', winner: 'stripe' }])
    })

    for (const [policy, winner, value] of [
      ['local', 'local', 'ours, blind'],
      ['stripe', 'stripe', 'theirs, unseen'],
    ] as const) {
      t.test(`an edit of theirs that our write overwrote unseen is settled by policy too: '${policy}'`, async (t) => {
        await settings({ policies: { default: policy } })
        const user = await newCustomer({ email: `overwritten-${policy}@example.com`, description: 'before' })
        await quiet()
        controls.setDeliveryFaults({ paused: true })
        controls.updateCustomer(user.stripeId, { description: 'theirs, unseen' })
        await api('PATCH', `/customers/${user.id}`, { description: 'ours, blind' }, { prefer: 'wait=10' })
        controls.setDeliveryFaults()
        await controls.flush()
        await quiet()
        t.match(await syncOf(user.id), {
          status: 'in_sync',
          local: { description: value },
          remote: { description: value },
        })
        t.match(await conflictsOf(user.id), [
          { reason: 'overwritten', remote: 'theirs, unseen', local: 'ours, blind', winner, policy },
        ])
      })
    }
  })
}
