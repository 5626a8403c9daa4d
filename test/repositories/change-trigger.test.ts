import t from 'tap'
import { openTables } from './helpers.js'

const settle = `update sync_state set synced_revision = local_revision, remote_synced_revision = remote_revision,
  needs_fetch = false, status = 'in_sync', dirty_since = null, attempts = 3, next_attempt_at = now() + interval '1 hour',
  enqueued_until = now() + interval '1 hour' where user_id = $1`

/** One change of each synced column, as SQL, and the key of `field_times` that it moves. */
const SYNCED: Record<string, string> = {
  email: "'b@example.com'",
  phone: "'+46'",
  first_name: "'Ada'",
  last_name: "'L'",
  description: "'d'",
  locale: "'sv'",
  address: `'{"line1": "1 St"}'`,
  shipping: `'{"name": "Ada"}'`,
  type: "'anonymous'",
  state: "'archived'",
}

t.test('a change of a synced column, by whatever program', async (t) => {
  const { pool, newUser, stateOf } = await openTables(t)
  const rowOf = async (id: string) => (await pool.query('select * from users where id = $1', [id])).rows[0]
  for (const [column, value] of Object.entries(SYNCED)) {
    t.test(column, async (t) => {
      const id = await newUser({ email: 'a@example.com' })
      await pool.query(settle, [id])
      t.match(await stateOf(id), { dirty: false })
      const before = await rowOf(id)

      await pool.query(`update users set ${column} = ${value} where id = $1`, [id])
      t.match(await stateOf(id), {
        dirty: true,
        status: 'pending',
        local_revision: 2,
        attempts: 0,
        next_attempt_at: null,
        enqueued_until: null,
        dirty_since: Date,
      })
      const after = await rowOf(id)
      t.equal(after.revision, 2)
      t.match(after.field_times[column], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
      t.ok(Math.abs(Date.now() - Date.parse(after.field_times[column])) < 60_000, 'in UTC')
      const { [column]: _changed, ...others } = after.field_times
      const { [column]: _before, ...othersBefore } = before.field_times
      t.strictSame(others, othersBefore, 'no other time moves')

      await pool.query(settle, [id])
      await pool.query(`update users set ${column} = ${value} where id = $1`, [id])
      t.match(await stateOf(id), { dirty: false }, 'the same value again is no change')
      t.equal((await rowOf(id)).updated_at.getTime(), after.updated_at.getTime())
    })
  }

  t.test('metadata, key by key', async (t) => {
    const id = await newUser({ metadata: { keep: '1', change: '1', drop: '1' } })
    const before = (await rowOf(id)).field_times
    t.strictSame(Object.keys(before).sort(), ['metadata.change', 'metadata.drop', 'metadata.keep', 'state', 'type'])
    await pool.query(settle, [id])
    const next = { keep: '1', change: '2', 'with.dot {and} "quote"': 'x' }
    const client = await pool.connect()
    await client.query("set lockstep.now = '2031-02-03T04:05:06.789+02'")
    await client.query('update users set metadata = $2 where id = $1', [id, next])
    await client.query('reset lockstep.now')
    client.release()
    const after = (await rowOf(id)).field_times
    t.equal(after['metadata.keep'], before['metadata.keep'])
    for (const key of ['change', 'drop', 'with.dot {and} "quote"']) {
      t.equal(after[`metadata.${key}`], '2031-02-03T02:05:06.789Z', key)
    }
    t.match(await stateOf(id), { dirty: true, local_revision: 2 }, 'one change, however many keys')
  })

  t.test('what Stripe need not know', async (t) => {
    const id = await newUser()
    await pool.query(settle, [id])
    const before = await rowOf(id)
    await pool.query(`update users set billing = '{"balance": 1}', archived_at = now() where id = $1`, [id])
    t.match(await stateOf(id), { dirty: false, local_revision: 1 })
    t.equal((await rowOf(id)).revision, 1)
    await pool.query(`update users set revision = 77, field_times = '{"email": "1970"}' where id = $1`, [id])
    t.match(await rowOf(id), { revision: 1, field_times: before.field_times }, 'bookkeeping is nobody else’s to write')
    t.notOk('email' in (await rowOf(id)).field_times)
  })
})

t.test('a status that waits for a person stays, the others become pending', async (t) => {
  const { pool, newUser, stateOf } = await openTables(t)
  const expected = {
    in_sync: 'pending',
    failed: 'pending',
    ignored: 'pending',
    conflict: 'conflict',
    detached: 'detached',
  }
  for (const [status, next] of Object.entries(expected)) {
    const id = await newUser()
    await pool.query(settle, [id])
    await pool.query('update sync_state set status = $2 where user_id = $1', [id, status])
    await pool.query("update users set description = 'x' where id = $1", [id])
    t.match(await stateOf(id), { status: next, dirty: true }, status)
  }
})

t.test('a new row, with as little as another program may give', async (t) => {
  const { pool, tenantId, newUser, stateOf } = await openTables(t)
  const id = await newUser()
  t.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/, 'a UUIDv7')
  t.ok(Math.abs(Number.parseInt(id.replace('-', '').slice(0, 12), 16) - Date.now()) < 60_000, 'of now')
  t.match(await stateOf(id), {
    tenant_id: tenantId,
    dirty: true,
    status: 'pending',
    local_revision: 1,
    dirty_since: Date,
  })
  const v4 = '8f14e45f-ceea-467f-a0e6-3b2b4c6d7e8f'
  t.equal(await newUser({ id: v4 }), v4)

  await pool.query("insert into users (description) select 'n' || n from generate_series(1, 200) as n")
  const { rows } = await pool.query('select count(*)::int as n, count(distinct id)::int as ids from users')
  t.match(rows[0], { n: 202, ids: 202 })
  t.match((await pool.query('select count(*)::int as n from sync_state where dirty')).rows[0], { n: 202 })
})

t.test('a row deleted, and one that comes back under its id', async (t) => {
  const { pool, newUser, stateOf } = await openTables(t)
  const id = await newUser({ email: 'a@example.com' })
  await pool.query(settle, [id])
  await pool.query('delete from users where id = $1', [id])
  t.match(await stateOf(id), {
    user_deleted: true,
    dirty: true,
    status: 'pending',
    local_revision: 2,
    next_attempt_at: null,
  })
  await newUser({ id, email: 'a@example.com' })
  t.match(await stateOf(id), { user_deleted: false, dirty: true, local_revision: 3 }, 'revisions never repeat')

  await pool.query('delete from sync_state where user_id = $1', [id])
  await pool.query("update users set description = 'x' where id = $1", [id])
  t.match(await stateOf(id), { local_revision: 2, dirty: true }, 'a row older than Lockstep gets its state by a change')
})

t.test('a rolled back change marks nothing', async (t) => {
  const { pool, newUser, stateOf } = await openTables(t)
  const id = await newUser()
  await pool.query(settle, [id])
  const client = await pool.connect()
  await client.query('begin')
  await client.query("update users set description = 'x' where id = $1", [id])
  await client.query('rollback')
  client.release()
  t.match(await stateOf(id), { dirty: false, local_revision: 1 })
})

t.test('a link that another program writes counts', async (t) => {
  const { pool, newUser, stateOf } = await openTables(t)
  const linksOf = async (id: string) =>
    (
      await pool.query(
        `select stripe_customer_id as id, how, unlinked_at is null and deleted_at is null as live from stripe_links
         where user_id = $1 order by 1`,
        [id],
      )
    ).rows
  const id = await newUser({ stripe_customer_id: 'cus_1' })
  t.strictSame(await linksOf(id), [{ id: 'cus_1', how: 'attached', live: true }])
  t.match(await stateOf(id), { needs_fetch: true, dirty: true })
  await pool.query(settle, [id])

  await pool.query("update users set stripe_customer_id = 'cus_2' where id = $1", [id])
  t.strictSame(await linksOf(id), [
    { id: 'cus_1', how: 'attached', live: false },
    { id: 'cus_2', how: 'attached', live: true },
  ])
  t.match(await stateOf(id), { needs_fetch: true, remote: null, base: null, status: 'pending' })
  await pool.query('update users set stripe_customer_id = null where id = $1', [id])
  t.strictSame(
    (await linksOf(id)).map(({ live }) => live),
    [false, false],
  )

  const { rows } = await pool.query(
    `select actor, changes -> 'fields' -> 'stripeCustomerId' as change, changes ->> 'program' as program, ip is not null as "hasIp"
     from audit_log where action = 'customer.link' and entity = 'customer' and entity_id = $1 order by at, id`,
    [id],
  )
  t.match(rows, [
    { actor: /^sql:/, change: { from: null, to: 'cus_1' } },
    { actor: /^sql:/, change: { from: 'cus_1', to: 'cus_2' } },
    { actor: /^sql:/, change: { from: 'cus_2', to: null } },
  ])
  t.equal(rows.length, 3)
})
