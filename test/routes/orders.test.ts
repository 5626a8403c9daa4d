import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('attendees become customers', async (t) => {
  const api = await openApi(t)
  const { body: ada } = await api.call('POST', '/customers', {
    body: { firstName: 'Ada', email: 'ada@example.com', phone: '+14155550100' },
  })
  const { body: bob } = await api.call('POST', '/customers', {
    body: { phone: '+14155550101', email: 'b@example.com' },
  })
  const made = await api.call('POST', '/orders', {
    body: {
      reference: 'T-1',
      currency: 'USD',
      total: 4200,
      orderedAt: '2026-11-20T09:30:00Z',
      attendees: [
        { email: 'ADA@example.com', firstName: 'Someone else wrote this' },
        { phone: '(415) 555-0101' },
        { customerId: ada.id },
        { firstName: 'Cleo', email: 'cleo@example.com', metadata: { source: 'till' } },
        { email: 'CLEO@example.com' },
        {},
      ],
    },
  })
  t.equal(made.status, 201)
  t.equal(made.headers.get('location'), `/orders/${made.body.id}`)
  t.match(made.body, {
    reference: 'T-1',
    status: 'open',
    currency: 'usd',
    total: 4200,
    orderedAt: '2026-11-20T09:30:00.000Z',
  })
  const [one, two, three, four, five, six] = made.body.attendees
  t.match(one, { customerId: ada.id, matchedBy: 'email', isFirstVisit: true, snapshot: { firstName: 'Ada' } })
  t.match(two, { customerId: bob.id, matchedBy: 'phone', isFirstVisit: true })
  t.match(three, { customerId: ada.id, matchedBy: 'id' })
  t.match(four, { matchedBy: 'created', isFirstVisit: true, snapshot: { type: 'unregistered', firstName: 'Cleo' } })
  t.match(five, { customerId: four.customerId, matchedBy: 'email' }, 'who comes twice is one')
  t.match(six, { matchedBy: 'created', snapshot: { type: 'anonymous', email: null } })

  const cleo = await api.call('GET', `/customers/${four.customerId}`)
  t.match(cleo.body, { type: 'unregistered', email: 'cleo@example.com', metadata: { source: 'till' } })
  t.match(
    (await api.call('GET', `/customers/${ada.id}`)).body,
    { firstName: 'Ada' },
    'who was known stays as they were',
  )
  t.ok(api.asked.includes('wake'), 'the new ones go to Stripe')

  const again = await api.call('POST', '/orders', { body: { attendees: [{ email: 'cleo@example.com' }] } })
  t.match(again.body.attendees, [{ customerId: four.customerId, isFirstVisit: false }])
  const cleos = await api.call('GET', `/customers/${four.customerId}/orders`)
  t.match(cleos.body, { data: [{ id: again.body.id }, { id: made.body.id }], hasMore: false })
  const { rows } = await api.pool.query("select action from audit_log where entity = 'order' order by at, id")
  t.match(rows, [{ action: 'order.create' }, { action: 'order.create' }])
})

t.test('a new person in many orders at once is one customer', async (t) => {
  const api = await openApi(t)
  const answers = await Promise.all(
    Array.from({ length: 12 }, (_, index) =>
      api.call('POST', '/orders', {
        body: {
          attendees: [
            // In both orders of the two contacts, so that two could wait for each other.
            ...(index % 2 === 0 ? [{ email: 'new@example.com' }, { phone: '+14155550123' }] : []),
            ...(index % 2 === 1 ? [{ phone: '+14155550123' }, { email: 'New@Example.com' }] : []),
          ],
        },
      }),
    ),
  )
  t.strictSame([...new Set(answers.map(({ status }) => status))], [201])
  t.equal((await api.pool.query('select from users')).rowCount, 2)
  const first = answers.flatMap(({ body }) => body.attendees).filter(({ isFirstVisit }) => isFirstVisit)
  t.equal(first.length, 2, 'each visits for the first time once')
})

t.test('what an attendee gives and the customer lacks is kept in the snapshot, and changes nobody', async (t) => {
  const api = await openApi(t)
  const make = async (body: object) => (await api.call('POST', '/customers', { body })).body
  const [gap, ada] = [await make({ phone: '+14155550150' }), await make({ firstName: 'Ada', email: 'ada@example.com' })]
  const before = await api.snapshot()
  const { body } = await api.call('POST', '/orders', {
    body: {
      attendees: [
        { phone: '(415) 555-0150', email: 'gap@example.com', firstName: 'Gap', lastName: 'Filler' },
        { customerId: ada.id, lastName: 'Other', email: 'else@example.com', phone: '+14155550151' },
      ],
    },
  })
  const given = { phone: '+14155550150', email: 'gap@example.com', firstName: 'Gap', lastName: 'Filler' }
  t.match(body.attendees, [
    { customerId: gap.id, matchedBy: 'phone', snapshot: given },
    {
      customerId: ada.id,
      snapshot: { firstName: 'Ada', lastName: null, email: 'ada@example.com', phone: '+14155550151' },
    },
  ])
  for (const one of [gap, ada]) t.strictSame((await api.call('GET', `/customers/${one.id}`)).body, one)
  t.not(await api.snapshot(), before)
  const wrong = { attendees: [{ customerId: ada.id, email: 'nope' }] }
  isProblem(t, await api.call('POST', '/orders', { body: wrong }), 400, 'validation_failed', 'attendees.0.email')
})

t.test('an order for somebody who is archived in that moment is theirs, or a new customer’s', async (t) => {
  const api = await openApi(t)
  for (let n = 0; n < 12; n += 1) {
    const email = `gone${n}@example.com`
    const { body: customer } = await api.call('POST', '/customers', { body: { email } })
    const [order, deletion] = await Promise.all([
      api.call('POST', '/orders', { body: { attendees: [{ email }] } }),
      api.call('DELETE', `/customers/${customer.id}`),
    ])
    t.equal(order.status, 201, JSON.stringify(order.body))
    const isTheirs = order.body.attendees[0].customerId === customer.id
    t.equal(deletion.status, isTheirs ? 409 : 200)
  }
})

t.test('what makes no order', async (t) => {
  const api = await openApi(t)
  const { body: one } = await api.call('POST', '/customers', { body: { email: 'same@example.com' } })
  const { body: two } = await api.call('POST', '/customers', { body: { email: 'same@example.com' } })
  const { body: other } = await api.call('POST', '/customers', {
    body: { phone: '+14155550100', email: 'o@example.com' },
  })
  await api.call('POST', '/orders', { body: { reference: 'T-1', attendees: [{ customerId: one.id }] } })
  const before = await api.snapshot()
  const post = (body: unknown) => api.call('POST', '/orders', { body })
  isProblem(t, await post({}), 400, 'validation_failed', 'attendees')
  isProblem(t, await post({ attendees: [] }), 400, 'validation_failed', 'attendees')
  const wrong = [{ email: 'no' }, { phone: 'x' }, { email: 'fine@example.com' }]
  isProblem(t, await post({ attendees: wrong }), 400, 'validation_failed', 'attendees.0.email', 'attendees.1.phone')
  isProblem(t, await post({ total: 1, attendees: [{}] }), 400, 'validation_failed', 'currency')
  isProblem(t, await post({ currency: 'usd', attendees: [{}] }), 400, 'validation_failed', 'total')
  isProblem(t, await post({ reference: 'a\0b', attendees: [{}] }), 400, 'validation_failed', 'reference')
  isProblem(t, await post({ attendees: [{ customerId: newId() }] }), 400, 'validation_failed', 'attendees.0.customerId')
  const strangers = await api.call('POST', '/orders', {
    key: api.keys.other,
    body: { attendees: [{ customerId: one.id }] },
  })
  isProblem(t, strangers, 400, 'validation_failed', 'attendees.0.customerId')
  isProblem(t, await post({ reference: 'T-1', attendees: [{ email: 'new@example.com' }] }), 409, 'order_exists')

  const ambiguous = await post({ attendees: [{ email: 'new@example.com' }, { email: 'same@example.com' }] })
  isProblem(t, ambiguous, 409, 'ambiguous_attendee')
  for (const { id } of [one, two]) t.match(ambiguous.body.detail, id)
  t.match(ambiguous.body.detail, 'attendees.1')
  isProblem(
    t,
    await post({ attendees: [{ email: 'SAME@example.com', phone: '+14155550100' }] }),
    409,
    'ambiguous_attendee',
  )
  t.equal(await api.snapshot(), before, 'nobody was made on the way')
  t.ok(other.id)
})

t.test('an order is taken once', async (t) => {
  const api = await openApi(t)
  const body = { attendees: [{ email: 'a@example.com' }] }
  const headers = { 'idempotency-key': 'till-1' }
  const [one, two] = await Promise.all([1, 2].map(() => api.call('POST', '/orders', { body, headers })))
  t.equal(one?.body.id, two?.body.id)
  t.strictSame([one, two].map((answer) => answer?.headers.get('idempotency-replayed')).sort(), ['true', null].sort())
  isProblem(t, await api.call('POST', '/orders', { body: { attendees: [{}] }, headers }), 422, 'idempotency_key_reused')
  const { body: another } = await api.call('POST', '/customers', { body: { email: 'c@example.com' }, headers: {} })
  t.ok(another.id)
  t.equal((await api.pool.query('select from orders')).rowCount, 1)
})

t.test('an open order keeps its customers; then they may go, and leave no trace of themselves', async (t) => {
  const api = await openApi(t)
  const { body: order } = await api.call('POST', '/orders', {
    body: { reference: 'T-9', attendees: [{ firstName: 'Ada', email: 'ada@example.com' }] },
  })
  const { customerId } = order.attendees[0]
  for (const query of ['', '?erase=true']) {
    const refused = await api.call('DELETE', `/customers/${customerId}${query}`)
    isProblem(t, refused, 409, 'customer_in_use')
    t.strictSame(refused.body.blockers, [{ kind: 'order', id: order.id, reference: 'T-9' }])
  }
  t.match((await api.call('GET', `/customers/${customerId}`)).body, { state: 'active', revision: 1 })

  const done = await api.call('PATCH', `/orders/${order.id}`, { body: { status: 'completed' } })
  t.match(done.body, { id: order.id, status: 'completed' })
  t.match((await api.call('PATCH', `/orders/${order.id}`, { body: { status: 'completed' } })).body, {
    status: 'completed',
  })
  const back = await api.call('PATCH', `/orders/${order.id}`, { body: { status: 'cancelled' } })
  isProblem(t, back, 409, 'order_closed')
  isProblem(
    t,
    await api.call('PATCH', `/orders/${order.id}`, { body: { status: 'open' } }),
    400,
    'validation_failed',
    'status',
  )

  t.equal((await api.call('DELETE', `/customers/${customerId}?erase=true`)).status, 200)
  const kept = await api.call('GET', `/orders/${order.id}`)
  t.strictSame(kept.body.attendees, [
    {
      customerId,
      matchedBy: 'created',
      isFirstVisit: true,
      snapshot: { type: 'unregistered', firstName: null, lastName: null, email: null, phone: null },
    },
  ])
  const gone = await api.call('POST', '/orders', { body: { attendees: [{ customerId }] } })
  isProblem(t, gone, 400, 'validation_failed', 'attendees.0.customerId')
  const { body: next } = await api.call('POST', '/orders', { body: { attendees: [{ email: 'ada@example.com' }] } })
  t.not(next.attendees[0].customerId, customerId, 'who was erased is nobody we know')
})

t.test('orders are found', async (t) => {
  const api = await openApi(t)
  const take = async (reference: string) =>
    (await api.call('POST', '/orders', { body: { reference, attendees: [{ email: `${reference}@example.com` }] } }))
      .body
  const [a, b, c] = [await take('a'), await take('b'), await take('c')]
  await api.call('PATCH', `/orders/${b.id}`, { body: { status: 'cancelled' } })
  const ids = async (query: string) =>
    (await api.call('GET', `/orders?${query}`)).body.data.map(({ id }: { id: string }) => id)
  t.strictSame(await ids(''), [c.id, b.id, a.id])
  t.strictSame(await ids('status=open'), [c.id, a.id])
  t.strictSame(await ids('reference=b'), [b.id])
  t.strictSame(await ids(`customerId=${a.attendees[0].customerId}`), [a.id])
  const page = await api.call('GET', '/orders?limit=2')
  t.match(page.body, { hasMore: true })
  t.strictSame(await ids(`cursor=${page.body.nextCursor}`), [a.id])
  isProblem(t, await api.call('GET', '/orders?cursor=x'), 400, 'invalid_cursor', 'cursor')
  isProblem(t, await api.call('GET', `/orders/${newId()}`), 404, 'not_found')
  isProblem(t, await api.call('GET', `/customers/${newId()}/orders`), 404, 'not_found')
})

t.test('matching by contact', async (t) => {
  const api = await openApi(t)
  const add = async (body: object) => (await api.call('POST', '/customers', { body })).body.id as string
  const ada = await add({ email: 'ada@example.com', phone: '+14155550100' })
  const bob = await add({ email: 'bob@example.com', phone: '+14155550101' })
  const match = (body: object) => api.call('POST', '/customers/match', { body })
  t.match((await match({ email: 'ADA@example.com' })).body, {
    outcome: 'matched',
    matchedBy: 'email',
    customers: [{ id: ada, email: 'ada@example.com' }],
  })
  t.match((await match({ phone: '(415) 555-0101' })).body, {
    outcome: 'matched',
    matchedBy: 'phone',
    customers: [{ id: bob }],
  })
  t.match((await match({ email: 'ada@example.com', phone: '415-555-0100' })).body, {
    outcome: 'matched',
    matchedBy: 'email',
  })
  const both = await match({ email: 'ada@example.com', phone: '+14155550101' })
  t.match(both.body, { outcome: 'ambiguous', matchedBy: null, customers: [{ id: ada }, { id: bob }] })
  t.strictSame((await match({ email: 'no@example.com' })).body, { outcome: 'none', matchedBy: null, customers: [] })
  await api.call('DELETE', `/customers/${bob}`)
  t.match((await match({ phone: '+14155550101' })).body, { outcome: 'none' }, 'who is archived is not meant')
  const empty = await match({})
  isProblem(t, empty, 400, 'validation_failed', 'body')
  t.match(empty.body.detail, 'must not be empty')
  isProblem(t, await match({ email: ' ' }), 400, 'validation_failed', 'email')
  const guess = await api.call('POST', '/customers/match', {
    key: api.keys.viewer,
    body: { email: 'ada@example.com' },
  })
  isProblem(t, guess, 403, 'permission_denied')
})
