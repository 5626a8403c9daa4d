import t from 'tap'
import { must, openScene } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: two sides, one customer', async (t) => {
  const scene = await openScene(t)
  const { api, pool, controls, newCustomer, quiet, unseen, apart, eventsOf, rowOf, syncOf, conflictsOf, stripeOf } =
    scene
  const { calls, settings, metric } = scene
  await settings({ foreignMetadataPrefixes: ['crm_', 'other'] })
  const patch = (id: string, body: object) => api('PATCH', `/customers/${id}`, body, { prefer: 'wait=20' })
  /** Nothing more goes either way, whatever echoes come, and a sweep finds nothing. */
  const isAtRest = async () => {
    await quiet()
    controls.resetCalls()
    const { counts } = await scene.run('sweep')
    await quiet()
    return counts.fixed === 0 && calls('customers.update') === 0 && calls('customers.retrieve') === 0
  }

  t.test(
    '14. one value that Stripe refuses: shown on that field, the others go on; mended under a new key',
    async (t) => {
      const phone = '+1234567890123456789012345'
      const { rows } = await pool.query(
        `insert into users (email, phone, description) values ('refused@example.com', $1, 'made all the same') returning id`,
        [phone],
      )
      const id = rows[0].id as string
      await quiet()
      const [customer, ...more] = scene.customersBy('refused@example.com')
      t.strictSame(more, [])
      t.match(customer, { description: 'made all the same', phone: null })
      t.match(await syncOf(id), { status: 'failed', lastError: { field: 'phone' }, rejected: [{ field: 'phone' }] })
      t.notMatch(JSON.stringify((await syncOf(id)).lastError), phone, 'the message has no personal data')
      t.match((await api('GET', '/customers?syncStatus=failed')).body.data, [{ id }])
      t.equal(await metric('lockstep_users{status="failed"}'), 1)
      await pool.query(`update users set first_name = 'Goes', locale = 'sv' where id = $1`, [id])
      await quiet()
      const { id: stripeId } = must(customer)
      t.match(stripeOf(stripeId), { name: 'Goes', preferred_locales: ['sv'], phone: null })
      t.match(await syncOf(id), { status: 'failed', rejected: [{ field: 'phone' }] })
      const refusals = calls('customers.update')
      await api('POST', `/customers/${id}/sync`)
      await quiet()
      t.equal(calls('customers.update'), refusals, 'the refused value is not sent again and again')
      const keys = eventsOf(stripeId).map(({ request }) => request?.idempotency_key)

      await patch(id, { phone: '+14155550114' })
      t.match(stripeOf(stripeId), { phone: '+14155550114' })
      t.match(await syncOf(id), { status: 'in_sync', rejected: [], lastError: null })
      t.notOk(keys.includes(eventsOf(stripeId)[0]?.request?.idempotency_key), 'a key of its own')
    },
  )

  t.test('21. the same field on both sides: the policy decides, the loser is kept, and it comes to rest', async (t) => {
    for (const [policy, winner] of [
      ['local', 'here@example.com'],
      ['stripe', 'there@example.com'],
      ['latest', 'there@example.com'],
    ] as const) {
      await settings({ policies: { default: policy } })
      const { id, stripeId } = await newCustomer({ email: 'before@example.com' })
      await apart(async () => {
        await api('PATCH', `/customers/${id}`, { email: 'here@example.com' })
        controls.advanceClock(10_000)
        controls.updateCustomer(stripeId, { email: 'there@example.com' })
      })
      t.match(await rowOf(id), { email: winner }, policy)
      t.match(stripeOf(stripeId), { email: winner }, policy)
      t.match(await conflictsOf(id), [
        {
          field: 'email',
          reason: 'both_changed',
          policy,
          base: 'before@example.com',
          local: 'here@example.com',
          remote: 'there@example.com',
          winner: policy === 'latest' ? 'stripe' : policy,
          status: 'resolved',
        },
      ])
      t.ok(await isAtRest(), `no ping-pong under '${policy}'`)
      t.equal((await conflictsOf(id)).length, 1)
    }
  })

  t.test('22. different fields on both sides: both survive, since only what changed is sent', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'fields@example.com', firstName: 'Ada', lastName: 'King' })
    await quiet()
    unseen(() => controls.updateCustomer(stripeId, { phone: '+14155550122', description: 'theirs', balance: -500 }))
    await patch(id, { lastName: 'Lovelace' })
    await quiet()
    const both = { phone: '+14155550122', description: 'theirs' }
    t.match(stripeOf(stripeId), { ...both, name: 'Ada Lovelace', balance: -500 })
    t.match(await rowOf(id), { ...both, first_name: 'Ada', last_name: 'Lovelace', billing: { balance: -500 } })
    t.strictSame(eventsOf(stripeId)[0]?.data.previous_attributes, { name: 'Ada King' })
    t.match(await conflictsOf(id), [])
    t.ok(await isAtRest())
  })

  t.test('23. parts of an address on both sides: sent whole, no part lost unseen, none mixed', async (t) => {
    const address = { line1: '1 Old St', city: 'Oldtown', postalCode: '12345', country: 'US' }
    const { id, stripeId } = await newCustomer({ email: 'address@example.com', address })
    await patch(id, { address: { line2: 'Flat 2' } })
    const whole = { line1: '1 Old St', line2: 'Flat 2', city: 'Oldtown', postal_code: '12345', country: 'US' }
    t.match(stripeOf(stripeId).address, whole, 'a part is merged here and sent with all the others')

    for (const policy of ['local', 'stripe'] as const) {
      await settings({ policies: { address: policy } })
      const pair = await newCustomer({ email: `address-${policy}@example.com`, address })
      const theirs = { line1: '1 Old St', city: 'Newtown', postal_code: '99999', country: 'US' }
      await apart(async () => {
        await api('PATCH', `/customers/${pair.id}`, { address: { line2: 'Flat 2' } })
        controls.updateCustomer(pair.stripeId, { address: theirs })
      })
      t.match(stripeOf(pair.stripeId).address, policy === 'local' ? whole : { ...theirs, line2: null })
      t.match(await conflictsOf(pair.id), [
        {
          field: 'address',
          winner: policy,
          local: { line2: 'Flat 2', city: 'Oldtown', postalCode: '12345' },
          remote: { line2: null, city: 'Newtown', postalCode: '99999' },
        },
      ])
      const sync = await syncOf(pair.id)
      t.strictSame(sync.local, sync.remote)
      t.ok(await isAtRest())
    }
  })

  t.test('24. metadata goes key by key: only ours is sent, and another system’s keys are left alone', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'keys@example.com', metadata: { k2: 'old', k3: 'gone' } })
    await quiet()
    unseen(() => controls.updateCustomer(stripeId, { metadata: { k1: 'theirs', crm_id: '7' } }))
    await patch(id, { metadata: { k2: 'new', k3: null } })
    await quiet()
    const { metadata } = stripeOf(stripeId)
    const { lockstep_user_id, lockstep_tenant_id, lockstep_type, lockstep_state, ...others } = metadata
    t.strictSame(others, { k1: 'theirs', k2: 'new', crm_id: '7' })
    t.equal(lockstep_user_id, id)
    t.strictSame(eventsOf(stripeId)[0]?.data.previous_attributes, { metadata: { k2: 'old', k3: 'gone' } })
    t.strictSame((await rowOf(id)).metadata, { k1: 'theirs', k2: 'new' })
    // All of them: each is removed by name, and what is not ours stays.
    await patch(id, { metadata: null })
    await quiet()
    t.match(stripeOf(stripeId).metadata, { crm_id: '7', lockstep_user_id: id })
    t.equal(Object.keys(stripeOf(stripeId).metadata).length, 5)
    t.ok(await isAtRest())
  })

  t.test('25. one key or character too many: refused at the door; keys of others count', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'limits@example.com' })
    await quiet()
    controls.resetCalls()
    const { revision } = await rowOf(id)
    const tooMany = Object.fromEntries(Array.from({ length: 51 }, (_, n) => [`k${n}`, 'v']))
    for (const metadata of [tooMany, { long: 'x'.repeat(501) }, { ['k'.repeat(41)]: 'v' }, { 'k[0]': 'v' }]) {
      t.match(await api('PATCH', `/customers/${id}`, { metadata }), {
        status: 400,
        body: { code: 'validation_failed' },
      })
    }
    await quiet()
    t.match(await rowOf(id), { revision, metadata: {} })
    t.equal(calls('customers.update'), 0)

    const others = Object.fromEntries(Array.from({ length: 44 }, (_, n) => [`other${n}`, 'v']))
    unseen(() => controls.updateCustomer(stripeId, { metadata: others }))
    await api('POST', `/customers/${id}/sync`, undefined, { prefer: 'wait=20' })
    await patch(id, { description: 'goes on', metadata: { a: '1', b: '2', c: '3' } })
    await quiet()
    t.equal(Object.keys(stripeOf(stripeId).metadata).length, 50)
    t.match(stripeOf(stripeId), { description: 'goes on', metadata: { other43: 'v', lockstep_user_id: id } })
    t.match(await syncOf(id), {
      status: 'failed',
      lastError: { code: 'metadata_key_limit', field: /^metadata\.[abc]$/ },
      rejected: [{ code: 'metadata_key_limit' }],
    })
    t.equal(calls('customers.update'), 1, 'Stripe never had to refuse it')
    unseen(() => controls.updateCustomer(stripeId, { metadata: { other0: '' } }))
    await api('POST', `/customers/${id}/sync`, undefined, { prefer: 'wait=20' })
    await quiet()
    t.match(await syncOf(id), { status: 'in_sync', rejected: [] }, 'it goes once there is room')
  })

  t.test('26. cleared is not the same as not said; what Stripe cannot clear is reported, once', async (t) => {
    const given = {
      email: 'clear@example.com',
      firstName: 'Ada',
      lastName: 'King',
      phone: '+14155550126',
      locale: 'sv',
    }
    const { id, stripeId } = await newCustomer(given)
    await patch(id, { description: 'not a word about the rest' })
    t.match(stripeOf(stripeId), { name: 'Ada King', phone: '+14155550126', preferred_locales: ['sv'] })
    await patch(id, { firstName: null, lastName: '' })
    await quiet()
    t.match(stripeOf(stripeId), { name: null, phone: '+14155550126' })
    t.match(await rowOf(id), { first_name: null, last_name: null })
    const sync = await syncOf(id)
    t.match(sync, { status: 'in_sync', local: { name: null }, remote: { name: null }, base: { name: null } })

    controls.resetCalls()
    await patch(id, { locale: null })
    await quiet()
    t.match(await syncOf(id), { status: 'in_sync', local: { locale: 'sv' } })
    t.match(await conflictsOf(id), [{ field: 'locale', reason: 'cannot_clear', winner: 'stripe', local: null }])
    t.equal(calls('customers.update'), 0)
    t.ok(await isAtRest())
    t.equal((await conflictsOf(id)).length, 1)
  })

  t.test('27. what Stripe writes in its own way is no change: nothing follows', async (t) => {
    controls.changeSettings({ keepBlankAddressParts: true })
    const { rows } = await pool.query(
      `insert into users (email, phone, first_name, last_name, description, address) values
         ('drift@example.com', '  +14155550127 ', ' Ada ', 'King  ', '', $1) returning id`,
      [JSON.stringify({ line1: ' 1 Main St ', line2: '', city: 'Umeå', country: 'se' })],
    )
    const id = rows[0].id as string
    await quiet()
    const [customer] = scene.customersBy('drift@example.com')
    const { id: stripeId } = must(customer)
    t.match(stripeOf(stripeId), { phone: '+14155550127', name: 'Ada King', address: { country: 'SE' } })
    t.ok(await isAtRest(), 'after the create')
    t.match(await rowOf(id), { revision: 1, address: { country: 'se' } }, 'nor is the row written anew')
    controls.resetCalls()
    await pool.query(`update users set phone = '+14155550127', address = $2 where id = $1`, [
      id,
      JSON.stringify({ line1: '1 Main St', city: 'Umeå', country: 'SE' }),
    ])
    await quiet()
    t.equal(calls('customers.update'), 0, 'the same, written otherwise')
    await pool.query(`update users set address = address || '{"country": "no", "line2": " "}' where id = $1`, [id])
    await quiet()
    t.equal(calls('customers.update'), 1)
    t.match(stripeOf(stripeId), { address: { country: 'NO', line1: '1 Main St' } })
    controls.advanceClock(10_000)
    controls.updateCustomer(stripeId, { name: ' Ada King ', metadata: { blank: '' } })
    await quiet()
    t.ok(await isAtRest(), 'after the update')
    t.match(await syncOf(id), { status: 'in_sync', conflicts: [] })
    controls.changeSettings({ keepBlankAddressParts: false })
  })
})
