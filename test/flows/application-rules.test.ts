import t from 'tap'
import { startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

// An application has rules of its own on its `users`: unique e-mails, checks, columns that must have a value, triggers.
t.test('rules that the application has put on users', async (t) => {
  const { api, pool, simulator, newCustomer, quiet, stripeCustomers } = await startService(t, { backend: 'postgres' })
  const { controls } = simulator
  const ada = await newCustomer({ email: 'ada@example.com' })
  const bob = await newCustomer({ email: 'bob@example.com' })
  await pool.query('create unique index one_email on users (tenant_id, lower(email))')
  await pool.query(`alter table users add constraint no_mallory check (first_name is distinct from 'Mallory')`)
  await pool.query(`
    create function no_eve() returns trigger language plpgsql as $$
    begin
      if new.first_name = 'Eve' then raise exception 'not % either', new.email; end if;
      return new;
    end $$;
    create trigger no_eve before insert or update on users for each row execute function no_eve()`)
  const usersWith = async (email: string) =>
    (await pool.query('select from users where lower(email) = $1', [email])).rowCount
  const refused = { status: 409, body: { code: 'users_constraint' } }

  t.test('the API answers 409, names the rule, and changes nothing', async (t) => {
    const before = (await pool.query('select * from users order by id')).rows
    const cases: [method: string, path: string, body: object, rule: string][] = [
      ['POST', '/customers', { email: 'ADA@example.com' }, 'constraint one_email'],
      ['POST', '/customers', { email: 'm@example.com', firstName: 'Mallory' }, 'constraint no_mallory'],
      ['POST', '/customers', { email: 'e@example.com', firstName: 'Eve' }, 'a trigger raised an exception'],
      ['PATCH', `/customers/${bob.id}`, { email: 'ada@example.com' }, 'constraint one_email'],
      ['PATCH', `/customers/${bob.id}`, { firstName: 'Mallory' }, 'constraint no_mallory'],
      ['PUT', `/customers/${bob.id}`, { email: 'bob@example.com', firstName: 'Eve' }, 'a trigger raised an exception'],
      ['POST', '/orders', { reference: 'T-1', attendees: [{ firstName: 'Mallory' }] }, 'constraint no_mallory'],
    ]
    for (const [method, path, body, rule] of cases) {
      const answer = await api(method, path, body)
      t.match(answer, refused, `${method} ${JSON.stringify(body)}`)
      t.equal(answer.body.detail, `A rule of the application's on the table users stands against it: ${rule}.`)
    }
    t.strictSame((await pool.query('select * from users order by id')).rows, before)
    const order = { reference: 'T-1', attendees: [{ customerId: ada.id }] }
    t.equal((await api('POST', '/orders', order)).status, 201)
    t.match(await api('POST', '/orders', order), { status: 409, body: { code: 'order_exists' } })

    await pool.query(`alter table users add column region text not null default 'eu'`)
    await pool.query('alter table users alter column region drop default')
    const without = await api('POST', '/customers', { email: 'c@example.com' })
    t.match(without, refused)
    t.match(without.body.detail, 'column region must have a value')
    await pool.query('alter table users drop column region')
  })

  t.test('an edit in Stripe that a rule stands against shows as failed, and goes through once it may', async (t) => {
    controls.updateCustomer(bob.stripeId, { email: 'ada@example.com', name: 'Robert' })
    const failed = await eventually(async () => {
      const { body } = await api('GET', `/customers/${bob.id}/sync`)
      return body.status === 'failed' ? body : null
    })
    t.match(failed.lastError, {
      code: 'users_constraint',
      retryable: true,
      message: /one_email.* It rests for an hour now/,
    })
    t.match((await api('GET', '/customers?syncStatus=failed')).body.data, [{ id: bob.id }])
    await api('PATCH', `/customers/${ada.id}`, { email: 'lovelace@example.com' }, { prefer: 'wait=10' })
    const now = await api('POST', `/customers/${bob.id}/sync`, undefined, { prefer: 'wait=10' })
    t.match(now, { status: 200, body: { status: 'in_sync', local: { email: 'ada@example.com', name: 'Robert' } } })
  })

  t.test(
    'a customer made in Stripe that looks like somebody, and cannot be a user of its own, is for review',
    async (t) => {
      const twin = controls.createCustomer({ email: 'lovelace@example.com', name: 'Twin' })
      await quiet()
      t.match((await api('GET', '/duplicates')).body.data, [
        { stripeCustomerId: twin.id, customerId: ada.id, reason: 'email', status: 'open' },
      ])
      t.match((await api('GET', `/events?stripeCustomerId=${twin.id}`)).body.data, [
        { status: 'processed', outcome: 'duplicate', error: null },
      ])
      t.equal(await usersWith('lovelace@example.com'), 1)
    },
  )

  t.test('one that looks like nobody fails by itself: neither other events nor a sweep stop at it', async (t) => {
    const mallory = controls.createCustomer({ email: 'mallory@example.com', name: 'Mallory' })
    const event = await eventually(async () => {
      const [found] = (await api('GET', `/events?stripeCustomerId=${mallory.id}`)).body.data
      return found?.status === 'failed' ? found : null
    })
    t.match(event, { attempts: 1, error: /constraint no_mallory/ })
    controls.setDeliveryFaults({ drop: 1 })
    for (const name of ['one', 'two', 'three']) controls.createCustomer({ email: `${name}@example.com` })
    controls.setDeliveryFaults()
    const { body: run } = await api('POST', '/reconciliations', { kind: 'sweep' })
    const done = await eventually(async () => {
      const { body } = await api('GET', `/reconciliations/${run.id}`)
      return body.finishedAt === null ? null : body
    })
    t.match(done, { status: 'failed', counts: { created: 3, failed: 1 }, error: { code: 'users_constraint' } })
    t.match(done.error.message, 'constraint no_mallory', 'all the others got through')
    t.equal(await usersWith('two@example.com'), 1)

    await pool.query('alter table users drop constraint no_mallory')
    await api('POST', `/events/${event.id}/replay`)
    await quiet()
    t.equal(await usersWith('mallory@example.com'), 1)
    t.equal(stripeCustomers().filter(({ email }) => email === 'mallory@example.com').length, 1)
  })
})
