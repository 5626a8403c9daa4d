import t, { type Test } from 'tap'
import { CHAIN_LOCK } from '../../src/repositories/audit-chain.js'
import { type Service, startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

/** Starts a run by the API and waits for its end. */
async function retain({ api }: Service, dryRun: boolean) {
  const { status, body } = await api('POST', '/retention-runs', { dryRun })
  if (status !== 202) throw new Error(`POST /retention-runs answered ${status}: ${JSON.stringify(body)}`)
  return eventually(
    async () => {
      const { body: run } = await api('GET', `/retention-runs/${body.id}`)
      return ['succeeded', 'failed'].includes(run.status) ? run : null
    },
    { timeout: 60_000, what: 'the end of the retention run' },
  )
}

async function open(t: Test) {
  const service = await startService(t)
  const { pool, newCustomer, quiet } = service
  /** Makes the row, and what is known of it, this many days older. */
  const age = async (id: string, days: number) => {
    const client = await pool.connect()
    try {
      await client.query("set session_replication_role = 'replica'")
      await client.query(
        `update users set updated_at = updated_at - $2 * interval '1 day', created_at = created_at - $2 * interval '1 day',
           archived_at = archived_at - $2 * interval '1 day' where id = $1`,
        [id, days],
      )
      await client.query(
        `update stripe_events set created = created - $2 * interval '1 day', received_at = received_at - $2 * interval '1 day'
         where stripe_customer_id = (select stripe_customer_id from users where id = $1)`,
        [id, days],
      )
    } finally {
      await client.query("set session_replication_role = 'origin'")
      client.release()
    }
  }
  const old = async (body: Record<string, unknown>, days: number) => {
    const customer = await newCustomer(body)
    await quiet()
    await age(customer.id, days)
    return customer
  }
  return { ...service, service, age, old }
}

t.test('retention: what each policy removes, and what stays', async (t) => {
  const { service, api, pool, settings, quiet, old, age, newCustomer, simulator } = await open(t)
  const archived = await old({ email: 'archived@example.com' }, 0)
  await api('DELETE', `/customers/${archived.id}`)
  await quiet()
  await age(archived.id, 40)
  const archivedLately = await old({ email: 'lately@example.com' }, 0)
  await api('DELETE', `/customers/${archivedLately.id}`)
  await quiet()
  await age(archivedLately.id, 20)
  const anonymous = await old({ type: 'anonymous' }, 10)
  const anonymousFresh = await newCustomer({ type: 'anonymous' })
  const inactive = await old({ email: 'inactive@example.com' }, 500)
  const ordering = await old({ email: 'ordering@example.com' }, 500)
  await api('POST', '/orders', { attendees: [{ customerId: ordering.id }] })
  const visited = await old({ email: 'visited@example.com' }, 500)
  const { body: order } = await api('POST', '/orders', { attendees: [{ customerId: visited.id }] })
  await api('PATCH', `/orders/${order.id}`, { status: 'completed' })
  const consenting = await old({ email: 'consenting@example.com' }, 500)
  await api('PUT', `/customers/${consenting.id}/consents/news`, { status: 'granted', source: 'web' })
  const paying = await old({ email: 'paying@example.com' }, 0)
  await pool.query(`update users set billing = billing || '{"defaultPaymentMethod": "pm_1"}' where id = $1`, [
    paying.id,
  ])
  await quiet()
  simulator.controls.setDeliveryFaults({ drop: 1 })
  const stateOf = async (id: string) => (await api('GET', `/customers/${id}`)).body.state

  t.test('without a policy nothing happens', async (t) => {
    t.match(await retain(service, false), { status: 'succeeded', policies: [] })
    t.equal(await stateOf(inactive.id), 'active')
  })

  t.test('settings that are not understood remove nothing', async (t) => {
    await settings({ retention: { archivedAfterDays: 1, inactiveAfterDays: '30' } as never })
    const run = await retain(service, false)
    t.match(run, { status: 'failed', error: { code: 'invalid_settings' } })
    t.match(run.error.message, 'retention.inactiveAfterDays')
    t.equal(await stateOf(archived.id), 'archived')
    await settings({ retention: { eventsAfterDays: 10 } })
    t.match(await retain(service, false), { status: 'failed' }, 'events that Stripe still lists would come again')
  })

  t.test('a dry run says what would go', async (t) => {
    await settings({
      retention: { archivedAfterDays: 30, anonymousAfterDays: 7, inactiveAfterDays: 365, eventsAfterDays: 100 },
    })
    // It is what holds at Stripe, not what was just noted here.
    await pool.query(`update users set billing = billing || '{"defaultPaymentMethod": "pm_1"}' where id = $1`, [
      paying.id,
    ])
    await age(paying.id, 500)
    const run = await retain(service, true)
    t.match(run.policies, [
      { policy: 'anonymous', days: 7, found: 1, removed: 0, customerIds: [anonymous.id] },
      { policy: 'archived', days: 30, found: 1, removed: 0, customerIds: [archived.id] },
      { policy: 'inactive', days: 365, found: 1, removed: 0, customerIds: [inactive.id] },
      { policy: 'events', days: 100, removed: 0, customerIds: [] },
    ])
    t.ok(run.policies[3].found >= 4, `${run.policies[3].found} old events`)
    t.equal(await stateOf(inactive.id), 'active')
    t.equal(await stateOf(archived.id), 'archived')
  })

  t.test('the run erases, and Stripe follows', async (t) => {
    const ids = [archived, anonymous, inactive]
    const run = await retain(service, false)
    t.match(run, { status: 'succeeded', dryRun: false, error: null })
    t.match(run.policies, [
      { policy: 'anonymous', found: 1, removed: 1, kept: 0, failed: 0 },
      { policy: 'archived', found: 1, removed: 1 },
      { policy: 'inactive', found: 1, removed: 1 },
      { policy: 'events' },
    ])
    t.equal(run.policies[3].removed, run.policies[3].found)
    await quiet()
    for (const { id, stripeId } of ids) {
      t.equal(await stateOf(id), 'erased')
      t.match(simulator.controls.getCustomer(stripeId), { deleted: true })
      t.match((await api('GET', `/customers/${id}/states`)).body.data[0], {
        to: 'erased',
        reason: /^retention: \w+ for \d+ days$/,
      })
    }
    for (const { id } of [anonymousFresh, ordering, visited, consenting, paying]) t.equal(await stateOf(id), 'active')
    t.equal(await stateOf(archivedLately.id), 'archived')
    const left = await pool.query("select from stripe_events where received_at < now() - interval '100 days'")
    t.equal(left.rowCount, 0)
    const { rows } = await pool.query(
      "select changes from audit_log where action = 'retention.run' and entity_id = $1",
      [run.id],
    )
    t.match(rows, [{ changes: { dryRun: false, policies: [{ policy: 'anonymous', removed: 1 }] } }])
    t.match((await retain(service, false)).policies, [{ found: 0 }, { found: 0 }, { found: 0 }, { found: 0 }])
  })

  t.test('one with open orders stays, though its time is up', async (t) => {
    await pool.query("update users set state = 'archived', archived_at = now() - interval '90 days' where id = $1", [
      ordering.id,
    ])
    const run = await retain(service, false)
    t.match(run.policies[1], { policy: 'archived', found: 1, removed: 0, kept: 1, customerIds: [ordering.id] })
    t.equal(await stateOf(ordering.id), 'archived')
  })

  t.test('old entries of the audit log go, and what is left is still a chain', async (t) => {
    // As in a log that began long ago: what is oldest comes first in the chain, which nobody goes on with meanwhile.
    await pool.query(`do $$ begin
      perform pg_advisory_xact_lock(${CHAIN_LOCK});
      perform set_config('lockstep.audit_retention', 'on', true);
      delete from audit_log;
      delete from audit_heads;
      insert into audit_log (tenant_id, actor, action, entity, entity_id, at)
        select tenant_id, 'x', 'ancient', 'x', 'x', now() - interval '800 days' from users limit 1;
    end $$`)
    const chained = async () => (await pool.query('select from audit_log where seq is null')).rowCount === 0
    await eventually(chained)
    await settings({ retention: { auditAfterDays: 730 } })
    t.match((await retain(service, false)).policies, [{ policy: 'audit', found: 1, removed: 1 }])
    const { rows } = await pool.query('select action from audit_log order by at, id')
    t.notOk(rows.some(({ action }) => action === 'ancient'))
    t.ok(
      rows.some(({ action }) => action === 'audit.trim'),
      'that it went is in the log',
    )
  })

  t.test('imports that ended long ago go, with their reports', async (t) => {
    await pool.query(
      `insert into imports (tenant_id, source, format, on_match, status, requested_by, finished_at)
       select id, 'api', 'csv', 'skip', 'cancelled', 'x', now() - n * interval '1 day'
       from tenants cross join generate_series(1, 30) n`,
    )
    await pool.query("insert into import_errors (import_id, line, errors) select id, 1, '[]' from imports")
    await settings({ retention: { importsAfterDays: 4 } })
    t.match((await retain(service, true)).policies, [{ policy: 'imports', days: 4, found: 27, removed: 0 }])
    t.match((await retain(service, false)).policies, [{ policy: 'imports', found: 27, removed: 27 }])
    t.equal((await pool.query('select 1 from import_errors')).rowCount, 3)
  })
  simulator.controls.setDeliveryFaults()
})

t.test('retention: many, in batches; what a worker that died left is done by another', async (t) => {
  const { service, pool, settings, api } = await open(t)
  const { rows: tenants } = await pool.query('select id from tenants')
  // Without Stripe, which has its own tests: the rows alone.
  await pool.query(`update tenants set lane_paused_at = now(), lane_retry_at = now() + interval '1 hour'`)
  await pool.query(
    `insert into users (type, state, archived_at, email)
     select 'regular', case when n <= 500 then 'erased' else 'archived' end, now() - interval '60 days', 'm' || n || '@example.com'
     from generate_series(1, 1100) n`,
  )
  // Of the first page some are left, one at the least: they are past, and the next run's.
  await pool.query("update users set state = 'archived' where email = 'm7@example.com'")
  await pool.query(
    "update users set archived_at = now() where state = 'archived' and email > 'm6' and email <> 'm7@example.com'",
  )
  const [last] = (await pool.query("select id from users where state = 'erased' order by id desc limit 1")).rows
  // Ids of one millisecond are in no order of their numbers.
  const dueWhere = async (where: string) =>
    (
      await pool.query(
        `select count(*)::int as n from users
         where state = 'archived' and archived_at < now() - interval '30 days' and ${where}`,
        [last.id],
      )
    ).rows[0].n as number
  const [due, past] = [await dueWhere('id > $1'), await dueWhere('id < $1')]
  await settings({ retention: { archivedAfterDays: 30 } })
  const counts = { found: 499, removed: 499, kept: 0, failed: 0, customerIds: [] }
  const cutoff = new Date(Date.now() - 30 * 86_400_000).toISOString()
  await pool.query(
    `insert into retention_runs (tenant_id, trigger, status, progress, results, lease_token, lease_expires_at)
     values ($1, 'schedule', 'running', $2, $3, 3, now() - interval '1 second')`,
    [tenants[0].id, { after: last.id }, JSON.stringify([{ policy: 'archived', days: 30, cutoff, ...counts }])],
  )
  t.ok(due > 50 && due < 300, `${due} are due`)
  const run = await retain(service, false)
  t.match(run, { status: 'succeeded', trigger: 'schedule' }, 'that run goes on')
  t.match(run.policies, [{ found: 499 + due, removed: 499 + due }], 'from where it stood')
  t.ok(past > 0)
  t.match((await retain(service, false)).policies, [{ found: past, removed: past }])
  t.match((await api('GET', '/retention-runs?limit=1')).body, { data: [{ dryRun: false }], hasMore: true })
})
