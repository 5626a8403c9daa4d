import t from 'tap'
import { untilInboxIsEmpty } from '../helpers/inbox.js'
import { backends, startService } from '../helpers/service.js'

for (const backend of backends) {
  t.test(`who belongs to whom (queue on ${backend})`, async (t) => {
    const { api, pool, simulator, newCustomer, settings, quiet, stripeCustomers, run } = await startService(t, {
      backend,
      isSwept: false,
    })
    const { controls } = simulator
    const stripeOf = async (id: string) => (await api('GET', `/customers/${id}`)).body.stripeCustomerId
    const unlinked = async (values: Record<string, string>) => {
      // As it is before Lockstep comes: users are there, and nothing has been told to Stripe.
      const columns = Object.keys(values)
      const { rows } = await pool.query(
        `with added as (insert into users (${columns.join(', ')}) values (${columns.map((_, i) => `$${i + 1}`).join(', ')}) returning id)
         select id from added`,
        Object.values(values),
      )
      return rows[0].id as string
    }

    t.test('before the first sweep, a new user finds the customer that Stripe has', async (t) => {
      await quiet()
      await pool.query('update tenants set swept_at = null')
      controls.setDeliveryFaults({ drop: 1 })
      const { id: stripeId } = controls.createCustomer({ email: 'known@example.com', name: 'Known Person' })
      const user = await newCustomer({ email: 'known@example.com', phone: '+14155550123' })
      t.equal(user.stripeId, stripeId)
      t.match(controls.getCustomer(stripeId), { name: 'Known Person', phone: '+14155550123' })
      t.match((await api('GET', `/customers/${user.id}`)).body, { firstName: 'Known', lastName: 'Person' })
      controls.setDeliveryFaults()
      t.equal(stripeCustomers().filter(({ email }) => email === 'known@example.com').length, 1)
    })

    t.test('where several would fit nobody guesses: it is reported', async (t) => {
      await pool.query('update tenants set swept_at = null')
      controls.setDeliveryFaults({ drop: 1 })
      controls.createCustomer({ email: 'two@example.com' })
      controls.createCustomer({ email: 'two@example.com' })
      const { body } = await api('POST', '/customers', { email: 'two@example.com' })
      await quiet()
      controls.setDeliveryFaults()
      t.match((await api('GET', `/customers/${body.id}/sync`)).body, {
        status: 'conflict',
        stripeCustomerId: null,
        lastError: { code: 'ambiguous_match' },
      })
      const { data } = (await api('GET', '/duplicates')).body
      t.equal(data.filter((row: { reason: string }) => row.reason === 'ambiguous').length, 2)
      t.equal(stripeCustomers().filter(({ email }) => email === 'two@example.com').length, 2, 'and none is made')
    })

    t.test('someone decides: one is linked, the other is nobody’s', async (t) => {
      const open = async () => (await api('GET', '/duplicates?status=open')).body.data
      const [first, second] = await open()
      const userId = first.customerId as string
      controls.updateCustomer(first.stripeCustomerId, { name: 'From Stripe', phone: '+14155550177' })
      const linked = await api('POST', `/duplicates/${first.id}/resolve`, { action: 'link' })
      t.match(linked, { status: 200, body: { status: 'linked', customerId: userId } })
      await quiet()
      t.match((await api('GET', `/customers/${userId}`)).body, {
        stripeCustomerId: first.stripeCustomerId,
        firstName: 'From',
        phone: '+14155550177',
        sync: { status: 'in_sync' },
      })
      const taken = await api('POST', `/duplicates/${second.id}/resolve`, { action: 'link', customerId: userId })
      t.match(taken, { status: 409, body: { code: 'customer_has_another' } })
      const ignored = await api('POST', `/duplicates/${second.id}/resolve`, { action: 'ignore' })
      t.match(ignored, { status: 200, body: { status: 'ignored' } })
      t.strictSame(await open(), [])
      const again = await api('POST', `/duplicates/${second.id}/resolve`, { action: 'ignore' })
      t.match(again, { status: 409, body: { code: 'duplicate_already_resolved' } })

      await run('sweep')
      controls.updateCustomer(second.stripeCustomerId, { name: 'Edited Later' })
      await quiet()
      t.strictSame(await open(), [], 'it is not asked about again')
      const { rows } = await pool.query('select from users where stripe_customer_id = $1', [second.stripeCustomerId])
      t.equal(rows.length, 0, 'nor imported')
    })

    t.test('when all that look like someone are ignored, the user gets a customer of its own', async (t) => {
      await pool.query('update tenants set swept_at = null')
      controls.setDeliveryFaults({ drop: 1 })
      controls.createCustomer({ email: 'three@example.com' })
      controls.createCustomer({ email: 'three@example.com' })
      const { body } = await api('POST', '/customers', { email: 'three@example.com' })
      await quiet()
      controls.setDeliveryFaults()
      for (const { id } of (await api('GET', '/duplicates?status=open')).body.data) {
        t.equal((await api('POST', `/duplicates/${id}/resolve`, { action: 'ignore' })).status, 200)
        // With one left nobody guesses either.
        await quiet()
      }
      t.match((await api('GET', `/customers/${body.id}`)).body, { sync: { status: 'in_sync' } })
      t.equal(stripeCustomers().filter(({ email }) => email === 'three@example.com').length, 3)
    })

    t.test('a customer of the dashboard is linked by our id, then e-mail, then phone', async (t) => {
      await run('sweep')
      // Users whose customer is not made yet: their account's lane rests.
      await pool.query(`update tenants set lane_paused_at = now(), lane_retry_at = now() + interval '1 hour'`)
      const byId = await unlinked({ email: 'by-id@example.com' })
      const byEmail = await unlinked({ email: 'By-Email@example.com' })
      const byPhone = await unlinked({ phone: '+14155550177' })
      const { rows } = await pool.query(`select id from tenants`)
      const made = {
        [byId]: controls.createCustomer({
          email: 'other@example.com',
          metadata: { lockstep_user_id: byId, lockstep_tenant_id: rows[0].id },
        }).id,
        [byEmail]: controls.createCustomer({ email: 'by-email@example.com' }).id,
        [byPhone]: controls.createCustomer({ phone: '+14155550177', email: 'phone@example.com' }).id,
      }
      await controls.flush()
      await untilInboxIsEmpty(pool)
      await pool.query('update tenants set lane_paused_at = null, lane_retry_at = null')
      await quiet()
      for (const [userId, stripeId] of Object.entries(made)) t.equal(await stripeOf(userId), stripeId)
      t.equal(stripeCustomers().filter(({ metadata }) => metadata.lockstep_user_id === byEmail).length, 1)
    })

    t.test('a second customer that looks like someone is imported and reported', async (t) => {
      const user = await newCustomer({ email: 'lookalike@example.com' })
      const { id: stripeId } = controls.createCustomer({ email: 'lookalike@example.com' })
      await quiet()
      const { data } = (await api('GET', '/duplicates')).body
      t.match(
        data.find((row: { stripeCustomerId: string }) => row.stripeCustomerId === stripeId),
        {
          customerId: user.id,
          reason: 'email',
          status: 'open',
        },
      )
      t.equal(await stripeOf(user.id), user.stripeId, 'the first stays as it is')
    })

    t.test('a copy that names a user who has a customer is never linked', async (t) => {
      const user = await newCustomer({ email: 'copied@example.com' })
      const { metadata } = controls.getCustomer(user.stripeId) as { metadata: Record<string, string> }
      const { id: copy } = controls.createCustomer({ email: 'copy@example.com', metadata })
      await quiet()
      t.equal(await stripeOf(user.id), user.stripeId)
      const { data } = (await api('GET', '/duplicates')).body
      t.match(
        data.find((row: { stripeCustomerId: string }) => row.stripeCustomerId === copy),
        { reason: 'lockstep_id' },
      )
    })

    t.test("strangers under 'link-only' and 'ignore' stay in Stripe", async (t) => {
      for (const onRemoteCreate of ['link-only', 'ignore'] as const) {
        await settings({ onRemoteCreate })
        const { id: stripeId } = controls.createCustomer({ email: `${onRemoteCreate}@example.com` })
        await quiet()
        t.equal((await pool.query('select from users where stripe_customer_id = $1', [stripeId])).rowCount, 0)
        const user = await newCustomer({ email: `${onRemoteCreate}@example.com` })
        t.equal(user.stripeId, stripeId, 'but whoever registers with that e-mail gets it')
      }
      await settings({ onRemoteCreate: 'import' })
    })
  })
}
