import t, { type Test } from 'tap'
import { startService } from '../helpers/service.js'

async function open(t: Test) {
  const service = await startService(t)
  const { api, pool, simulator, newCustomer, quiet } = service
  const { controls } = simulator
  const stripeOf = (id: string) => controls.getCustomer(id) as unknown as { metadata: Record<string, string> }
  return {
    ...service,
    controls,
    stripeOf,
    get: async (id: string) => (await api('GET', `/customers/${id}`)).body,
    async settled(body: Record<string, unknown>) {
      const customer = await newCustomer(body)
      await quiet()
      return customer
    },
    duplicateOf: async (stripeId: string) =>
      (await api('GET', '/duplicates?limit=100')).body.data.find(
        (row: { stripeCustomerId: string }) => row.stripeCustomerId === stripeId,
      ),
    usersWith: async (stripeId: string) =>
      (await pool.query('select id from users where stripe_customer_id = $1', [stripeId])).rows.map(({ id }) => id),
  }
}

t.test('two customers become one', async (t) => {
  const { api, pool, controls, stripeOf, get, settled, quiet, run, usersWith } = await open(t)
  const ada = await settled({
    firstName: 'Ada',
    lastName: 'King',
    email: 'ada@example.com',
    metadata: { tier: 'gold', seat: '1' },
  })
  const other = await settled({
    firstName: 'A.',
    lastName: 'Lovelace',
    email: 'ADA@example.com',
    phone: '+14155550100',
    description: 'VIP',
    metadata: { tier: 'silver', plan: 'pro' },
  })
  const { body: order } = await api('POST', '/orders', { attendees: [{ customerId: other.id }] })
  const consent = (id: string, status: string, at: string) =>
    api('PUT', `/customers/${id}/consents/news`, { status, source: 'web', at })
  await consent(ada.id, 'granted', '2026-01-01T00:00:00Z')
  await consent(other.id, 'withdrawn', '2026-02-01T00:00:00Z')

  const merged = await api('POST', `/customers/${ada.id}/merge`, { from: other.id })
  t.match(merged, {
    status: 200,
    body: {
      status: 'done',
      fate: 'marked',
      survivor: { customerId: ada.id, stripeCustomerId: ada.stripeId },
      loser: { customerId: other.id, stripeCustomerId: other.stripeId },
      notMoved: [],
      moved: { orders: 1, consents: 1 },
      error: null,
    },
  })
  t.strictSame([...merged.body.filled].sort(), ['description', 'metadata.plan', 'phone'])
  t.strictSame(merged.body.conflicts, [
    { field: 'name', survivor: 'Ada King', loser: 'A. Lovelace' },
    { field: 'metadata.tier', survivor: 'gold', loser: 'silver' },
  ])
  await quiet()
  const values = { phone: '+14155550100', description: 'VIP', metadata: { tier: 'gold', seat: '1', plan: 'pro' } }
  t.match(await get(ada.id), { ...values, firstName: 'Ada', lastName: 'King', sync: { status: 'in_sync' } })
  t.match(stripeOf(ada.stripeId), { ...values, name: 'Ada King', email: 'ada@example.com' })
  t.match(await get(other.id), {
    state: 'archived',
    stripeCustomerId: null,
    metadata: { tier: 'silver', lockstep_merged_into: ada.id },
    sync: { settled: true },
  })
  t.match(stripeOf(other.stripeId).metadata, {
    lockstep_merged_into: ada.stripeId,
    lockstep_state: 'merged',
    tier: 'silver',
  })
  t.match((await api('GET', `/orders/${order.id}`)).body.attendees, [{ customerId: ada.id }])
  t.match((await api('GET', `/customers/${ada.id}/consents`)).body.data, [
    { status: 'withdrawn', mergedFrom: other.id },
  ])
  t.match((await api('GET', `/customers/${other.id}/states`)).body.data[0], {
    to: 'archived',
    actor: /^key:/,
    reason: `merged into ${ada.id}`,
  })

  const again = await api('POST', `/customers/${ada.id}/merge`, { from: other.id })
  t.strictSame(again.body, merged.body, 'twice is once')
  const deleting = await api('POST', `/customers/${ada.id}/merge`, { from: other.id, deleteLoser: true })
  t.match(deleting, { status: 409, body: { code: 'customer_merged', detail: /was kept, marked/ } }, 'and not otherwise')
  for (const id of [ada.id, other.id]) {
    t.match((await api('GET', `/customers/${id}/merges`)).body.data, [{ id: merged.body.id }])
  }
  t.match(await api('POST', `/customers/${other.id}/restore`), { status: 409, body: { code: 'customer_merged' } })
  const third = await settled({ email: 'third@example.com' })
  const elsewhere = await api('POST', `/customers/${third.id}/merge`, { from: other.id })
  t.match(elsewhere, { status: 409, body: { code: 'customer_merged' } })
  t.match(await api('POST', `/customers/${other.id}/merge`, { from: third.id }), { status: 409 })
  t.match(await api('POST', `/customers/${ada.id}/merge`, { from: ada.id }), {
    status: 400,
    body: { errors: [{ path: 'from' }] },
  })

  // What happens to the loser in Stripe is nobody's business any more.
  controls.updateCustomer(other.stripeId, { name: 'Someone Else', metadata: { tier: 'bronze' } })
  await quiet()
  const swept = await run('sweep')
  t.match(swept.counts, { created: 0, duplicate: 0, fixed: 0 })
  t.strictSame(await usersWith(other.stripeId), [])
  t.match(await get(ada.id), { firstName: 'Ada', metadata: { tier: 'gold' } })
  t.strictSame((await api('GET', '/duplicates?status=open')).body.data, [])
  const { rows } = await pool.query("select entity_id, changes from audit_log where action = 'customer.merge'")
  t.same(rows.map(({ entity_id }) => entity_id).sort(), [ada.id, other.id].sort())
  t.notMatch(JSON.stringify(rows), /Lovelace|4155550100/)
  const { body: story } = await api('GET', `/customers/${ada.id}/history?field=description`)
  const filled = story.data.filter(({ kind }: { kind: string }) => kind === 'edit')
  t.match(
    filled,
    [{ before: null, after: 'VIP', by: { actor: /^key:/ }, valuesKnown: true }],
    'the story says who merged',
  )
  t.notMatch(JSON.stringify(story), /sql:/, 'and names no plain SQL')

  t.test('who erases the survivor erases the person', async (t) => {
    controls.updateCustomer(other.stripeId, { balance: -500 })
    const { body: file } = await api('GET', `/customers/${ada.id}/export`)
    t.match(file.merged, [{ id: other.id, lastName: 'Lovelace' }])
    t.ok(file.events.some(({ stripeCustomerId }: { stripeCustomerId: string }) => stripeCustomerId === other.stripeId))
    t.match(await api('DELETE', `/customers/${ada.id}?erase=true`), { status: 409 }, 'not while an order is open')
    t.match(await get(other.id), { state: 'archived' })
    await api('PATCH', `/orders/${order.id}`, { status: 'completed' })
    t.match(await api('DELETE', `/customers/${ada.id}?erase=true`), { status: 200 })
    await quiet()
    t.match(await get(other.id), { state: 'erased', lastName: null })
    t.match(stripeOf(ada.stripeId), { deleted: true })
    const { rows } = await pool.query('select to_jsonb(m) as row from customer_merges m')
    t.notMatch(JSON.stringify(rows), /Lovelace/)
    t.match(rows[0].row, { status: 'pending', delete_loser: true }, 'the other one in Stripe is to follow')
  })
})

t.test('who was merged is known by the same e-mail and phone, as whom they live on in', async (t) => {
  const { api, settled } = await open(t)
  const one = await settled({ firstName: 'One', email: 'one@example.com', phone: '+14155550161' })
  const two = await settled({ firstName: 'Two', email: 'two@example.com', phone: '+14155550162' })
  const three = await settled({ firstName: 'Three', email: 'three@example.com' })
  await api('POST', `/customers/${two.id}/merge`, { from: one.id })
  await api('POST', `/customers/${three.id}/merge`, { from: two.id })
  for (const contact of [{ email: 'ONE@example.com' }, { email: 'two@example.com' }, { phone: '(415) 555-0161' }]) {
    const match = await api('POST', '/customers/match', contact)
    t.match(match.body, { outcome: 'matched', customers: [{ id: three.id }] }, JSON.stringify(contact))
    const order = await api('POST', '/orders', { attendees: [contact] })
    t.match(order.body.attendees, [{ customerId: three.id, matchedBy: Object.keys(contact)[0] }])
  }
  const both = await api('POST', '/customers/match', { email: 'one@example.com', phone: '+14155550162' })
  t.match(both.body, { outcome: 'matched', customers: [{ id: three.id }] }, 'both are the same one by now')
  // Somebody else has it since.
  const heir = await settled({ firstName: 'Heir', email: 'one@example.com' })
  t.match((await api('POST', '/customers/match', { email: 'one@example.com' })).body, { customers: [{ id: heir.id }] })
  const archived = await settled({ email: 'four@example.com' })
  await api('DELETE', `/customers/${archived.id}`)
  t.match((await api('POST', '/customers/match', { email: 'four@example.com' })).body, { outcome: 'none' })
})

t.test('a survivor without a Stripe customer takes the other one’s', async (t) => {
  const { api, controls, stripeOf, get, settled, quiet } = await open(t)
  const survivor = await settled({ firstName: 'Ada', email: 'ada@example.com', phone: '+14155550100' })
  controls.deleteCustomer(survivor.stripeId)
  await quiet()
  t.match(await get(survivor.id), { stripeCustomerId: null, sync: { status: 'detached' } })
  const loser = await settled({ firstName: 'Augusta', email: 'augusta@example.com', description: 'VIP' })
  const { body } = await api('POST', `/customers/${survivor.id}/merge`, { from: loser.id, deleteLoser: true })
  t.match(body, {
    status: 'done',
    fate: null,
    survivor: { stripeCustomerId: loser.stripeId },
    loser: { customerId: loser.id, stripeCustomerId: null },
    filled: ['description'],
  })
  await quiet()
  const values = { email: 'ada@example.com', phone: '+14155550100', description: 'VIP' }
  t.match(await get(survivor.id), { ...values, stripeCustomerId: loser.stripeId, sync: { status: 'in_sync' } })
  t.match(stripeOf(loser.stripeId), { ...values, name: 'Ada', metadata: { lockstep_user_id: survivor.id } })
  t.match(await get(loser.id), { state: 'archived', stripeCustomerId: null })
  controls.updateCustomer(loser.stripeId, { name: 'Ada King' })
  await quiet()
  t.match(await get(survivor.id), { firstName: 'Ada', lastName: 'King' }, 'and both go on in step')
})

t.test('the losing Stripe customer is deleted when that is asked for and nothing stands against it', async (t) => {
  const { api, controls, stripeOf, settled, quiet, run } = await open(t)
  const survivor = await settled({ email: 'survivor@example.com' })
  const plain = await settled({ email: 'plain@example.com' })
  const { body: deleted } = await api('POST', `/customers/${survivor.id}/merge`, { from: plain.id, deleteLoser: true })
  t.match(deleted, { status: 'done', fate: 'deleted', notMoved: [] })
  t.match(stripeOf(plain.stripeId), { deleted: true })

  const rich = await settled({ email: 'rich@example.com' })
  controls.updateCustomer(rich.stripeId, { balance: -500, tax_exempt: 'exempt' })
  await quiet()
  const { body: kept } = await api('POST', `/customers/${survivor.id}/merge`, { from: rich.id, deleteLoser: true })
  t.match(kept, { status: 'done', fate: 'marked' })
  t.strictSame(
    kept.notMoved.map(({ what }: { what: string }) => what),
    ['balance', 'subscriptions_and_invoices', 'tax_exempt'],
  )
  t.match(stripeOf(rich.stripeId), { balance: -500, metadata: { lockstep_merged_into: survivor.stripeId } })
  await quiet()
  t.match((await run('sweep')).counts, { created: 0, duplicate: 0, orphaned: 0 })

  const gone = await settled({ email: 'gone@example.com' })
  controls.setDeliveryFaults({ drop: 1 })
  controls.deleteCustomer(gone.stripeId)
  controls.setDeliveryFaults()
  const { body } = await api('POST', `/customers/${survivor.id}/merge`, { from: gone.id })
  t.match(body, { status: 'done', fate: 'gone' })
})

t.test('a duplicate that was imported goes into the customer that it looks like', async (t) => {
  const { api, controls, stripeOf, get, settled, quiet, duplicateOf } = await open(t)
  const ada = await settled({ firstName: 'Ada', email: 'ada@example.com' })
  const { id: copy } = controls.createCustomer({ email: 'ada@example.com', phone: '+14155550100', name: 'Ada Copy' })
  await quiet()
  const duplicate = await duplicateOf(copy)
  const [imported] = duplicate.candidates
  t.match(duplicate, { customerId: ada.id, reason: 'email', matchedBy: 'email', why: /same e-mail/, status: 'open' })
  t.strictSame(
    duplicate.matches.map(({ customerId, stripeCustomerId }: Record<string, string>) => [customerId, stripeCustomerId]),
    [
      [ada.id, ada.stripeId],
      [imported, copy],
    ],
  )
  const resolve = (body: object) => api('POST', `/duplicates/${duplicate.id}/resolve`, body)
  t.match(await resolve({ action: 'merge' }), { status: 400, body: { errors: [{ path: 'survivor' }] } })
  t.match(await resolve({ action: 'ignore', survivor: 'linked' }), {
    status: 400,
    body: { errors: [{ path: 'survivor' }] },
  })
  const itself = await resolve({ action: 'merge', survivor: 'linked', customerId: imported })
  t.match(itself, { status: 400, body: { errors: [{ path: 'customerId' }] } })

  const merged = await resolve({ action: 'merge', survivor: 'linked' })
  t.match(merged, {
    status: 200,
    body: {
      status: 'merged',
      merge: {
        status: 'done',
        fate: 'marked',
        survivor: { customerId: ada.id, stripeCustomerId: ada.stripeId },
        loser: { customerId: imported, stripeCustomerId: copy },
        filled: ['phone'],
        conflicts: [{ field: 'name', survivor: 'Ada', loser: 'Ada Copy' }],
      },
    },
  })
  t.strictSame((await resolve({ action: 'merge', survivor: 'linked' })).body.merge, merged.body.merge)
  const otherwise = await resolve({ action: 'merge', survivor: 'duplicate' })
  t.match(otherwise, { status: 409, body: { code: 'duplicate_already_resolved' } })
  await quiet()
  t.match(stripeOf(ada.stripeId), { name: 'Ada', phone: '+14155550100' })
  t.match(await get(imported), { state: 'archived', stripeCustomerId: null })
})

t.test('a duplicate that looks like several: all are shown, and nobody guesses', async (t) => {
  const { api, controls, settled, quiet, duplicateOf, get } = await open(t)
  const one = await settled({ firstName: 'One', email: 'both@example.com' })
  const two = await settled({ firstName: 'Two', email: 'BOTH@example.com' })
  const { id: copy } = controls.createCustomer({ email: 'both@example.com', name: 'Copy' })
  await quiet()
  const duplicate = await duplicateOf(copy)
  const imported = duplicate.matches.find((match: Record<string, string>) => match.stripeCustomerId === copy)
  t.strictSame(
    duplicate.matches.map(({ customerId }: Record<string, string>) => customerId).sort(),
    [one.id, two.id, imported.customerId].sort(),
  )
  const resolve = (body: object) => api('POST', `/duplicates/${duplicate.id}/resolve`, body)
  for (const body of [{ action: 'merge', survivor: 'linked' }, { action: 'link' }]) {
    const unclear = await resolve(body)
    t.match(unclear, { status: 400, body: { errors: [{ path: 'customerId', code: 'required' }] } })
    for (const { id } of [one, two]) t.match(unclear.body.detail, id)
  }
  const linked = await resolve({ action: 'link', customerId: two.id })
  t.match(linked, { status: 409, body: { code: 'customer_has_another' } })
  t.match(linked.body.detail, `is the Stripe customer of customer ${imported.customerId}`)
  const merge = { action: 'merge', survivor: 'linked', customerId: two.id }
  t.match((await resolve(merge)).body.merge, { survivor: { customerId: two.id }, loser: { stripeCustomerId: copy } })
  t.equal((await resolve(merge)).status, 200, 'twice is once')
  for (const other of [{ customerId: one.id }, { deleteLoser: true }]) {
    const otherwise = await resolve({ ...merge, ...other })
    t.match(otherwise, { status: 409, body: { code: 'duplicate_already_resolved' } }, JSON.stringify(other))
  }
  t.match(await get(one.id), { state: 'active', firstName: 'One' })
})

t.test('while Stripe is down nothing is merged, and that is what is said', async (t) => {
  const { api, controls, settled, get } = await open(t)
  const [one, two] = [await settled({ email: 'one@example.com' }), await settled({ email: 'two@example.com' })]
  controls.faults.add({ operation: 'customers.*', kind: 'reset_before' })
  const merge = () => api('POST', `/customers/${one.id}/merge`, { from: two.id })
  const refused = await merge()
  t.match(refused, { status: 502, body: { code: 'stripe_unavailable', detail: /Nothing was changed: try again/ } })
  t.strictSame((await api('GET', `/customers/${one.id}/merges`)).body.data, [])
  t.match(await get(two.id), { state: 'active' })
  controls.faults.remove()
  t.match(await merge(), { status: 200, body: { status: 'done' } })
})

t.test('the duplicate may be the one that stays', async (t) => {
  const { api, controls, stripeOf, get, settled, quiet, duplicateOf } = await open(t)
  const ada = await settled({ firstName: 'Ada', email: 'ada@example.com', description: 'ours', phone: '+14155550100' })
  const { id: copy } = controls.createCustomer({ email: 'ada@example.com', name: 'Ada Copy', description: 'theirs' })
  await quiet()
  const { id } = await duplicateOf(copy)
  const { body } = await api('POST', `/duplicates/${id}/resolve`, { action: 'merge', survivor: 'duplicate' })
  t.match(body.merge, {
    survivor: { customerId: ada.id, stripeCustomerId: copy },
    loser: { stripeCustomerId: ada.stripeId },
    fate: 'marked',
    filled: ['phone'],
    conflicts: [
      { field: 'name', survivor: 'Ada Copy', loser: 'Ada' },
      { field: 'description', survivor: 'theirs', loser: 'ours' },
    ],
  })
  await quiet()
  const values = { email: 'ada@example.com', description: 'theirs', phone: '+14155550100' }
  t.match(await get(ada.id), {
    ...values,
    firstName: 'Ada',
    lastName: 'Copy',
    stripeCustomerId: copy,
    sync: { status: 'in_sync' },
  })
  t.match(stripeOf(copy), { ...values, name: 'Ada Copy', metadata: { lockstep_user_id: ada.id } })
  t.match(stripeOf(ada.stripeId).metadata, { lockstep_merged_into: copy, lockstep_state: 'merged' })
})

t.test('a Stripe customer that no one here has: either may stay', async (t) => {
  const { api, controls, stripeOf, get, settled, quiet, run, duplicateOf, usersWith, settings } = await open(t)
  await settings({ foreignMetadataPrefixes: ['crm_'] })
  for (const survivor of ['linked', 'duplicate'] as const) {
    const ada = await settled({ firstName: 'Ada', email: `${survivor}@example.com` })
    const { metadata } = stripeOf(ada.stripeId)
    const { id: copy } = controls.createCustomer({
      email: `copy-${survivor}@example.com`,
      phone: '+14155550100',
      metadata: { ...metadata, plan: 'pro', crm_id: '7' },
    })
    await quiet()
    t.match(await duplicateOf(copy), {
      reason: 'lockstep_id',
      matchedBy: 'lockstep_id',
      why: /metadata names/,
      matches: [{ customerId: ada.id, stripeCustomerId: ada.stripeId }],
    })
    const { id } = await duplicateOf(copy)
    const merged = await api('POST', `/duplicates/${id}/resolve`, { action: 'merge', survivor })
    const isLinked = survivor === 'linked'
    const [kept, lost] = isLinked ? [ada.stripeId, copy] : [copy, ada.stripeId]
    t.match(merged.body.merge, {
      status: 'done',
      fate: 'marked',
      survivor: { customerId: ada.id, stripeCustomerId: kept },
      loser: { customerId: null, stripeCustomerId: lost },
      filled: isLinked ? ['phone', 'metadata.plan'] : ['name'],
      conflicts: [{ field: 'email' }],
      notMoved: isLinked ? [{ what: 'metadata.crm_id' }] : [],
    })
    await quiet()
    t.match(await get(ada.id), {
      firstName: 'Ada',
      email: isLinked ? 'linked@example.com' : 'copy-duplicate@example.com',
      phone: '+14155550100',
      metadata: { plan: 'pro' },
      stripeCustomerId: kept,
      sync: { status: 'in_sync' },
    })
    t.match(stripeOf(kept), { name: 'Ada', phone: '+14155550100', metadata: { plan: 'pro', lockstep_user_id: ada.id } })
    t.equal(stripeOf(lost).metadata.lockstep_merged_into, kept)
    controls.updateCustomer(lost, { name: 'Ghost' })
    await quiet()
    t.match((await run('sweep')).counts, { created: 0, duplicate: 0 })
    t.strictSame(await usersWith(lost), [])
    t.match(await duplicateOf(copy), { status: 'merged' })
    t.match(await get(ada.id), { firstName: 'Ada', lastName: null })
  }
})

t.test('what is asked for by many at once is done once', async (t) => {
  const { api, pool, settled, quiet, get } = await open(t)
  const a = await settled({ email: 'a@example.com' })
  const b = await settled({ email: 'b@example.com', phone: '+14155550100' })
  const answers = await Promise.all(
    Array.from({ length: 6 }, (_, n) =>
      n < 4
        ? api('POST', `/customers/${a.id}/merge`, { from: b.id })
        : api('PATCH', `/customers/${a.id}`, { metadata: { [`k${n}`]: 'v' } }),
    ),
  )
  t.ok(
    answers.every(({ status }) => status === 200),
    JSON.stringify(answers.map(({ body }) => body.code)),
  )
  t.equal(new Set(answers.slice(0, 4).map(({ body }) => body.id)).size, 1)
  t.equal((await pool.query('select from customer_merges')).rowCount, 1)
  await quiet()
  t.match(await get(a.id), { phone: '+14155550100', metadata: { k4: 'v', k5: 'v' }, sync: { status: 'in_sync' } })
})

t.test('who may', async (t) => {
  const { api, settled } = await open(t)
  const a = await settled({ email: 'a@example.com' })
  const b = await settled({ email: 'b@example.com' })
  const { body: key } = await api('POST', '/api-keys', { name: 'm', role: 'manager' })
  const as = { authorization: `Bearer ${key.key}` }
  const refused = await api('POST', `/customers/${a.id}/merge`, { from: b.id, deleteLoser: true }, as)
  t.match(refused, { status: 403, body: { detail: /customers:erase/ } })
  t.match(await api('POST', `/customers/${a.id}/merge`, { from: b.id }, as), { status: 200 })
})
