import t from 'tap'
import { startService } from '../helpers/service.js'

t.test(
  'requests work under row-level security where there is more than one tenant, unless it is turned off',
  async (t) => {
    const { api, pool, newCustomer, restart } = await startService(t)
    await pool.query("insert into tenants (slug, name) values ('acme', 'Acme')")
    await restart({})
    const { id } = await newCustomer({ email: 'ada@example.com', firstName: 'Ada' })
    const isBound = async () => {
      const { body } = await api('GET', '/health')
      return body.parts.database.rowSecurity
    }

    t.test('what searches, streams and takes transactions works under it', async (t) => {
      t.equal(await isBound(), true)
      t.match(await api('GET', '/customers?q=ada'), { status: 200, body: { data: [{ id }] } })
      t.match(await api('POST', '/customers/match', { email: 'ADA@example.com' }), { body: { outcome: 'matched' } })
      // Matches within its transaction, which is bound again for what it writes.
      const attendees = [{ email: 'ada@example.com' }, { email: 'new@example.com' }]
      t.match(await api('POST', '/orders', { attendees }), {
        status: 201,
        body: { attendees: [{ customerId: id, matchedBy: 'email' }, { matchedBy: 'created' }] },
      })
      for (const path of ['/customers/export', `/customers/${id}/export`]) {
        const { status, body } = await api('GET', path)
        t.equal(status, 200)
        t.match(typeof body === 'string' ? body : JSON.stringify(body), 'ada@example.com', path)
      }
      const { rows } = await pool.query("select action from audit_log where action like '%export%' order by seq")
      t.match(
        rows.map(({ action }) => action),
        ['export.start', 'export.finish', 'customer.export'],
      )
    })

    t.test('a policy decides, not only the code', async (t) => {
      await pool.query(
        "create policy nobody on users as restrictive to lockstep_api using (email <> 'ada@example.com')",
      )
      t.equal((await api('GET', `/customers/${id}`)).status, 404)
      t.match(await api('GET', '/customers?q=ada'), { status: 200, body: { data: [] } }, 'nor does a search show it')
      await pool.query('drop policy nobody on users')
      t.equal((await api('GET', `/customers/${id}`)).status, 200)
    })

    t.test('it can be turned off, and on again', async (t) => {
      await restart({ LOCKSTEP_ROW_SECURITY: 'off' })
      t.equal(await isBound(), false)
      t.equal((await api('GET', `/customers/${id}`)).status, 200)
      await restart({})
      t.equal(await isBound(), true)
      t.equal((await api('GET', `/customers/${id}`)).status, 200)
    })

    t.test('of one tenant there is nothing to keep apart', async (t) => {
      await pool.query("delete from tenants where slug = 'acme'")
      await restart({})
      t.equal(await isBound(), false)
      await restart({ LOCKSTEP_ROW_SECURITY: 'on' })
      t.equal(await isBound(), true)
    })
  },
)
