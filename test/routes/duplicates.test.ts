import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('duplicates', async (t) => {
  const api = await openApi(t)
  await api.pool.query(
    `insert into duplicate_customers (tenant_id, stripe_customer_id, reason, candidates, status)
     values ($1, 'cus_1', 'ambiguous', '["a","b"]', 'open'), ($1, 'cus_2', 'email', '[]', 'linked')`,
    [api.tenantId],
  )
  t.equal((await api.call('GET', '/duplicates')).body.data.length, 2)
  const { data } = (await api.call('GET', '/duplicates?status=open')).body
  t.match(data, [{ stripeCustomerId: 'cus_1', reason: 'ambiguous', candidates: ['a', 'b'], customerId: null }])
})

t.test('what decides nothing about a duplicate', async (t) => {
  const api = await openApi(t)
  const [id, users] = [newId(), [newId(), newId()]]
  await api.pool.query(
    `insert into duplicate_customers (id, tenant_id, stripe_customer_id, reason, candidates) values ($1, $2, 'cus_1', 'ambiguous', $3)`,
    [id, api.tenantId, JSON.stringify(users)],
  )
  const before = await api.snapshot()
  const resolve = (body: unknown, key = api.keys.admin) => api.call('POST', `/duplicates/${id}/resolve`, { body, key })
  isProblem(t, await resolve({}), 400, 'validation_failed', 'action')
  isProblem(t, await resolve({ action: 'burn' }), 400, 'validation_failed', 'action')
  isProblem(t, await resolve({ action: 'merge' }), 400, 'validation_failed', 'survivor')
  isProblem(t, await resolve({ action: 'link', deleteLoser: true }), 400, 'validation_failed', 'deleteLoser')
  isProblem(t, await resolve({ action: 'link', customerId: 'x' }), 400, 'validation_failed', 'customerId')
  const unclear = await resolve({ action: 'link' })
  isProblem(t, unclear, 400, 'validation_failed', 'customerId')
  for (const user of users) t.match(unclear.body.detail, user)
  // The customer for whom it was found is one of several, no more likely than the others.
  const found = newId()
  await api.pool.query(
    `insert into duplicate_customers (id, tenant_id, stripe_customer_id, user_id, reason, candidates) values ($1, $2, 'cus_3', $3, 'ambiguous', $4)`,
    [found, api.tenantId, users[1], JSON.stringify(users)],
  )
  const guessed = await api.call('POST', `/duplicates/${found}/resolve`, { body: { action: 'link' } })
  isProblem(t, guessed, 400, 'validation_failed', 'customerId')
  for (const user of users) t.match(guessed.body.detail, user)
  await api.pool.query('delete from duplicate_customers where id = $1', [found])
  isProblem(t, await resolve({ action: 'link', customerId: newId() }), 404, 'not_found')
  isProblem(t, await resolve({ action: 'ignore' }, api.keys.other), 404, 'not_found')
  isProblem(t, await resolve({ action: 'ignore' }, api.keys.viewer), 403, 'permission_denied')
  isProblem(
    t,
    await api.call('POST', `/duplicates/${newId()}/resolve`, { body: { action: 'ignore' } }),
    404,
    'not_found',
  )
  t.equal(await api.snapshot(), before)
  t.match((await api.call('GET', '/duplicates')).body.data, [{ id, status: 'open' }])
})
