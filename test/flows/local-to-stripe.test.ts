import { randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { backends, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

for (const backend of backends) {
  t.test(`a change here reaches Stripe (queue on ${backend})`, async (t) => {
    const { api, pool, simulator, newCustomer, stripeCustomers, quiet } = await startService(t, { backend })
    const { controls } = simulator

    async function nothingIsLeftOf(t: Test, pattern: string) {
      const { rows: tables } = await pool.query<{ name: string }>(
        `select table_name as name from information_schema.tables
         where table_schema = 'public' and table_type = 'BASE TABLE'`,
      )
      for (const { name } of tables) {
        const { rows: found } = await pool.query(`select x::text from ${name} x where x::text ~* $1`, [pattern])
        t.strictSame(found, [], `nothing is left in ${name}`)
      }
    }

    t.test('a new user becomes exactly one Stripe customer, with the facts of the user', async (t) => {
      const answer = await api('POST', '/customers', {
        email: 'ada@example.com',
        firstName: 'Ada',
        lastName: 'Lovelace',
      })
      t.equal(answer.status, 201)
      const { id } = answer.body
      const sync = await eventually(async () => {
        const { body } = await api('GET', `/customers/${id}/sync`)
        return body.status === 'in_sync' ? body : null
      })
      t.strictSame(sync.local, sync.remote)
      t.strictSame(sync.base, sync.remote)
      t.match(
        stripeCustomers().filter((customer) => customer.email === 'ada@example.com'),
        [
          {
            id: sync.stripeCustomerId,
            name: 'Ada Lovelace',
            metadata: { lockstep_user_id: id, lockstep_type: 'regular', lockstep_state: 'active' },
          },
        ],
      )
      const [write] = controls.events().filter((event) => event.type === 'customer.created')
      t.match(write?.request?.idempotency_key, `lockstep-create-${id}`, 'Stripe can name the user that it was made for')
    })

    t.test('PATCH and PUT reach it; what is cleared here is cleared there', async (t) => {
      const { id, stripeId } = await newCustomer({
        email: 'patch@example.com',
        phone: '+14155552671',
        address: { line1: '1 Main St', city: 'Springfield', country: 'US' },
        metadata: { tier: 'gold', seat: '7' },
      })
      const patched = await api(
        'PATCH',
        `/customers/${id}`,
        { phone: null, address: { line1: '2 Main St' }, metadata: { tier: null, color: 'red' } },
        { prefer: 'wait=10' },
      )
      t.match(patched, { status: 200, body: { sync: { status: 'in_sync' } } })
      t.match(controls.getCustomer(stripeId), {
        email: 'patch@example.com',
        phone: null,
        address: { line1: '2 Main St', city: 'Springfield', country: 'US' },
        metadata: { seat: '7', color: 'red', lockstep_user_id: id },
      })
      await api('PUT', `/customers/${id}`, { email: 'put@example.com' }, { prefer: 'wait=10' })
      const customer = controls.getCustomer(stripeId)
      t.match(customer, { email: 'put@example.com', address: null })
      t.notHas((customer as { metadata: object }).metadata, 'color')
    })

    t.test('a plain SQL update, insert and delete reach it too', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'sql@example.com', firstName: 'Sql' })
      await pool.query(`update users set email = 'sql2@example.com', last_name = 'Writer' where id = $1`, [id])
      await eventually(() => (controls.getCustomer(stripeId) as { email: string }).email === 'sql2@example.com')
      t.match(controls.getCustomer(stripeId), { name: 'Sql Writer' })

      await pool.query(`insert into users (email) values ('inserted@example.com')`)
      await eventually(() => stripeCustomers().some((customer) => customer.email === 'inserted@example.com'))

      await pool.query('delete from users where id = $1', [id])
      await eventually(async () => (await pool.query('select from sync_state where user_id = $1', [id])).rowCount === 0)
      t.match(controls.getCustomer(stripeId), { metadata: { lockstep_state: 'deleted' } }, 'it stays in Stripe, marked')
      controls.updateCustomer(stripeId, { name: 'Ghost' })
      await quiet()
      t.equal((await pool.query('select from users where stripe_customer_id = $1', [stripeId])).rowCount, 0)
    })

    t.test('deleting archives: the Stripe customer stays, marked; restoring takes the mark off', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'archive@example.com' })
      t.match(await api('DELETE', `/customers/${id}`, undefined, { prefer: 'wait=10' }), {
        status: 200,
        body: { state: 'archived' },
      })
      t.match(controls.getCustomer(stripeId), {
        email: 'archive@example.com',
        metadata: { lockstep_state: 'archived' },
      })
      await api('POST', `/customers/${id}/restore`, undefined, { prefer: 'wait=10' })
      t.match(controls.getCustomer(stripeId), { metadata: { lockstep_state: 'active' } })
    })

    t.test('erasing deletes the Stripe customer and leaves nothing personal in any table', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'erase@example.com', firstName: 'Gonebye' })
      await api('PATCH', `/customers/${id}`, { description: 'gonebye@example.com' }, { prefer: 'wait=10' })
      controls.updateCustomer(stripeId, { name: 'Gonebye Again' })
      await quiet()
      await api('POST', '/orders', { attendees: [{ customerId: id }] }).then(({ body }) =>
        api('PATCH', `/orders/${body.id}`, { status: 'completed' }),
      )
      await api('DELETE', `/customers/${id}?erase=true`, undefined, { prefer: 'wait=10' })
      t.match(controls.getCustomer(stripeId), { deleted: true })
      // Its own events come after it: the stub, and the echo.
      await quiet()
      await nothingIsLeftOf(t, 'erase@example|gonebye')
      const { rows } = await pool.query(
        'select u.state, s.status, u.stripe_customer_id from users u join sync_state s on s.user_id = u.id where u.id = $1',
        [id],
      )
      t.match(rows[0], { state: 'erased', status: 'ignored', stripe_customer_id: null })
    })

    t.test('a row that plain SQL deleted: what is left of the person can still be exported, and erased', async (t) => {
      const made = await api(
        'POST',
        '/customers',
        { email: 'leftover@example.com', firstName: 'Leftover' },
        { 'idempotency-key': 'leftover-key', prefer: 'wait=10' },
      )
      const { id, stripeCustomerId: stripeId } = made.body
      const given = { status: 'granted', source: 'web', evidence: { by: 'leftover@example.com' } }
      await api('PUT', `/customers/${id}/consents/news`, given)
      controls.updateCustomer(stripeId, { name: 'Leftover Again' })
      await quiet()
      await pool.query('delete from users where id = $1', [id])
      await quiet()
      t.match(controls.getCustomer(stripeId), { metadata: { lockstep_state: 'deleted' } })

      const { status, body: file } = await api('GET', `/customers/${id}/export`)
      t.equal(status, 200)
      t.match(file, {
        customer: null,
        sync: null,
        stripeLinks: [{ stripeCustomerId: stripeId, unlinkedAt: String }],
        consents: [{ evidence: { by: 'leftover@example.com' } }],
        answers: [{ body: { id, email: 'leftover@example.com' } }],
        states: [{ to: 'active' }, { from: 'active', to: 'deleted' }],
      })
      t.match(JSON.stringify(file.events), 'Leftover Again')

      const conditional = await api('DELETE', `/customers/${id}?erase=true`, undefined, { 'if-match': '"1"' })
      t.match(conditional, { status: 404 }, 'no row is at that revision')
      const erasures = [1, 2].map(() => api('DELETE', `/customers/${id.toUpperCase()}?erase=true&reason=asked`))
      for (const erasure of await Promise.all(erasures)) {
        t.match(erasure, { status: 200, body: { id, state: 'erased', email: null } })
      }
      await quiet()
      t.match(controls.getCustomer(stripeId), { deleted: true })
      await nothingIsLeftOf(t, 'leftover@example|leftover again')
      const { body: states } = await api('GET', `/customers/${id}/states`)
      t.match(states.data, [{ to: 'erased', reason: 'asked' }, { to: 'deleted', actor: 'sql' }, { to: 'active' }])
      t.match(await api('DELETE', `/customers/${randomUUID()}?erase=true`), { status: 404 })
      t.match(await api('GET', `/customers/${randomUUID()}/export`), { status: 404 })
    })

    t.test('a row that is deleted as soon as it was erased: the Stripe customer is deleted all the same', async (t) => {
      const { id, stripeId } = await newCustomer({ email: 'hasty@example.com' })
      await pool.query(`update users set state = 'erased', email = null where id = $1`, [id])
      await pool.query('delete from users where id = $1', [id])
      await quiet()
      t.match(controls.getCustomer(stripeId), { deleted: true })
      t.equal((await pool.query('select from sync_state where user_id = $1', [id])).rowCount, 0)
    })

    t.test('a link that another program wrote counts: no second customer is made', async (t) => {
      const { id: stripeId } = controls.createCustomer({ email: 'own-link@example.com' })
      await quiet()
      await pool.query('delete from stripe_links where stripe_customer_id = $1', [stripeId])
      await pool.query('delete from users where stripe_customer_id = $1', [stripeId])
      await quiet()
      const { rows } = await pool.query(
        `insert into users (email, first_name, stripe_customer_id) values ('own-link@example.com', 'Own', $1) returning id`,
        [stripeId],
      )
      await quiet()
      t.match(controls.getCustomer(stripeId), { name: 'Own', metadata: { lockstep_user_id: rows[0]?.id } })
      t.equal(stripeCustomers().filter((customer) => customer.email === 'own-link@example.com').length, 1)
    })

    t.test('no user has two customers, and one settled change costs one call', async (t) => {
      await quiet()
      const owners = stripeCustomers().map((customer) => customer.metadata.lockstep_user_id)
      t.equal(new Set(owners).size, owners.length)
      controls.resetCalls()
      const { id } = await newCustomer({ email: 'cheap@example.com' })
      await api('PATCH', `/customers/${id}`, { firstName: 'Cheap' }, { prefer: 'wait=10' })
      await quiet()
      const { calls } = controls.summary()
      t.match(calls, { 'customers.create': { total: 1 }, 'customers.update': { total: 1 } })
      t.notOk(calls['customers.retrieve'], 'neither the write nor its echo costs a read')
    })
  })
}
