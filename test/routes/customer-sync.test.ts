import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { openApi } from '../helpers/api.js'

t.test('what each side holds, and bringing them together', async (t) => {
  const api = await openApi(t)
  const { body: customer } = await api.call('POST', '/customers', {
    body: { firstName: 'Ada', lastName: 'King', email: 'ada@example.com', metadata: { tier: 'gold' } },
  })
  const { id } = customer
  const fresh = await api.call('GET', `/customers/${id}/sync`)
  t.match(fresh, {
    status: 200,
    body: {
      customerId: id,
      stripeCustomerId: null,
      status: 'pending',
      settled: false,
      differs: [],
      local: { name: 'Ada King', email: 'ada@example.com', metadata: { tier: 'gold' }, address: null },
      remote: null,
      base: null,
      revisions: { customer: 1, local: 1, localSynced: 0, remote: 0, remoteSynced: 0 },
      attempts: 0,
      lastError: null,
      conflicts: [],
    },
  })
  const fields = { ...fresh.body.local, email: 'other@example.com', metadata: { plan: 'x' } }
  const billing = {
    balance: 0,
    currency: null,
    delinquent: false,
    taxExempt: 'none',
    defaultPaymentMethod: null,
    invoicePrefix: null,
  }
  await api.pool.query(
    `update sync_state set remote = $2, remote_as_of = now(), status = 'conflict', attempts = 3, rejected = $3, last_error = $4
     where user_id = $1`,
    [
      id,
      JSON.stringify({ fields, facts: {}, locales: [], metadataKeys: 1, billing }),
      JSON.stringify({ phone: { value: '+1', code: 'phone_invalid', message: 'is too short' } }),
      JSON.stringify({
        code: 'stripe_unavailable',
        message: 'm',
        field: null,
        retryable: true,
        at: '2026-11-20T00:00:00Z',
      }),
    ],
  )
  await api.pool.query(
    `insert into sync_conflicts (tenant_id, user_id, field, reason, policy, local, remote, status)
     values ($1, $2, 'address', 'both_changed', 'manual', '{"city":"A"}', null, 'open')`,
    [api.tenantId, id],
  )
  t.match((await api.call('GET', `/customers/${id}/sync`)).body, {
    status: 'conflict',
    differs: ['email', 'metadata.plan', 'metadata.tier'],
    remote: { email: 'other@example.com', metadata: { plan: 'x' } },
    attempts: 3,
    lastError: { code: 'stripe_unavailable' },
    rejected: [{ field: 'phone', code: 'phone_invalid', message: 'is too short' }],
    conflicts: [{ field: 'address', local: { city: 'A' }, remote: null, winner: null, status: 'open' }],
  })
  t.match((await api.call('GET', `/customers/${id}`)).body.sync, {
    status: 'conflict',
    errorCode: 'stripe_unavailable',
  })

  const asked = await api.call('POST', `/customers/${id}/sync`)
  t.match(asked, { status: 202, body: { needsFetch: true } })
  t.equal(asked.headers.get('location'), `/customers/${id}/sync`)
  t.ok(api.asked.includes(`mark ${id}`))
  t.equal((await api.call('POST', `/customers/${id}/sync`, { headers: { prefer: 'wait=0' } })).status, 202)
  const waiting = api.call('POST', `/customers/${id}/sync`, { headers: { prefer: 'wait=10' } })
  while (!api.asked.includes('wait 10000')) await new Promise((resolve) => setTimeout(resolve, 5))
  await api.settle(id)
  t.match(await waiting, { status: 200, body: { settled: true, status: 'in_sync' } })

  t.equal((await api.call('POST', `/customers/${newId()}/sync`)).status, 404)
})

t.test('waitForRevision', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const late = await api.call('GET', `/customers/${id}/sync?waitForRevision=1&timeout=0`)
  t.match(late, { status: 200, body: { settled: false } })
  const waiting = api.call('GET', `/customers/${id}/sync?waitForRevision=1&timeout=9`)
  while (!api.asked.includes('wait 9000')) await new Promise((resolve) => setTimeout(resolve, 5))
  await api.settle(id)
  t.match((await waiting).body, { settled: true, revisions: { customer: 1 } })
  const asked = api.asked.length
  t.match((await api.call('GET', `/customers/${id}/sync?waitForRevision=1`)).body, { settled: true })
  t.equal(api.asked.length, asked, 'what is there needs no wait')
})
