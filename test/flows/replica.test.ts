import pg from 'pg'
import t from 'tap'
import { makeDb } from '../../src/repositories/database.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { makeReplicaReads } from '../../src/repositories/replica.js'
import { startReplicatedPostgres } from '../helpers/replicated-postgres.js'
import { startService } from '../helpers/service.js'
import { eventually } from '../helpers/wait.js'

t.test('lists are read from a replica, as long as it has what they must have', async (t) => {
  const postgres = await startReplicatedPostgres(t)
  const { pool, onReplica } = postgres

  t.test('a log that ends where a page does is carried out to its end', async (t) => {
    const replica = new pg.Pool({ connectionString: postgres.replicaUrl })
    t.teardown(() => replica.end())
    const [primaryPrisma, replicaPrisma] = [openPrisma(pool), openPrisma(replica)]
    let now = 0
    const reads = makeReplicaReads({
      primary: { db: makeDb(pool), prisma: primaryPrisma },
      replica: { db: makeDb(replica), prisma: replicaPrisma },
      mostLagMs: 1_000,
      now: () => now,
      onRead: () => {},
      onFailure: (error) => t.comment(error.message),
    })
    const behindHeader = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint % 8192 = 40 as is"
    const written = "select (pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint - 40)::text as position"
    const replayed = "select pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::text as position"
    // Again, should the server itself have written something meanwhile.
    await eventually(async () => {
      await pool.query('select pg_switch_wal()')
      // Of this page, not of one that ended before.
      const { position } = (await pool.query(written)).rows[0]
      await eventually(async () => (await onReplica(replayed)).rows[0].position === position, { timeout: 1_000 })
      now += 60_000
      await reads.look()
      return (await pool.query(behindHeader)).rows[0].is
    })
    t.equal(reads.state().lagMs, 0)
    t.equal(await reads.read('any', { isLatest: false }, async (from) => from === replicaPrisma), true)
    t.equal(await reads.read('any', { isLatest: true }, async (from) => from === primaryPrisma), true)
  })

  const service = await startService(t, {
    database: postgres,
    // No worker: only what the test does is written.
    roles: { api: true, worker: false },
    env: { DATABASE_REPLICA_URL: postgres.replicaUrl, LOCKSTEP_REPLICA_LAG: '3600' },
  })
  const { api, restart } = service

  /** How many lists were read from there. */
  const readsFrom = async (where: 'primary' | 'replica') => {
    const { body } = await api('GET', '/metrics')
    return Number(new RegExp(`^lockstep_list_reads_total\\{from="${where}"\\} (\\d+)`, 'm').exec(body)?.[1] ?? 0)
  }
  /** The e-mails that a list shows, and where it was read from. */
  const list = async (query: string, headers: Record<string, string> = {}) => {
    const before = await readsFrom('replica')
    const { status, body } = await api('GET', `/customers?${query}`, undefined, headers)
    if (status !== 200) throw new Error(`${query}: ${status}`)
    const from = (await readsFrom('replica')) > before ? 'replica' : 'primary'
    return { from, emails: body.data.map(({ email }: { email: string }) => email) }
  }
  const health = async () => (await api('GET', '/health')).body.parts.replica
  const isRead = (from: string) => eventually(async () => (await list('limit=1')).from === from, { what: from })

  t.test('lists, searches, counts and exports', async (t) => {
    await api('POST', '/customers', { email: 'ada@example.com', firstName: 'Ada', lastName: 'Lovelace' })
    await isRead('replica')
    for (const query of ['limit=5', 'q=ada&count=true', 'q=lovelase&sort=relevance', 'sort=name&count=estimate']) {
      t.same(await list(query), { from: 'replica', emails: ['ada@example.com'] }, query)
    }
    const before = await readsFrom('replica')
    t.match((await api('GET', '/customers/export')).body, 'ada@example.com')
    t.ok((await readsFrom('replica')) > before)
    t.match(await health(), { status: 'ok', lagSeconds: Number })
  })

  t.test('who wrote sees it at once, however far behind the replica is', async (t) => {
    await onReplica('select pg_wal_replay_pause()')
    await eventually(
      async () => (await onReplica('select pg_get_wal_replay_pause_state() as s')).rows[0].s === 'paused',
    )
    t.equal((await list('limit=5')).from, 'replica', 'it has all that this process wrote')
    await api('POST', '/customers', { email: 'bob@example.com', firstName: 'Bob' })
    t.same(await list('q=bob'), { from: 'primary', emails: ['bob@example.com'] })
    await onReplica('select pg_wal_replay_resume()')
    await eventually(async () => (await list('q=bob')).from === 'replica')
    t.same(await list('q=bob'), { from: 'replica', emails: ['bob@example.com'] })
  })

  t.test('what others wrote may come later, unless the latest is asked for', async (t) => {
    await onReplica('select pg_wal_replay_pause()')
    await eventually(
      async () => (await onReplica('select pg_get_wal_replay_pause_state() as s')).rows[0].s === 'paused',
    )
    await pool.query("insert into users (tenant_id, email) select id, 'eve@example.com' from tenants")
    t.same(await list('q=eve'), { from: 'replica', emails: [] })
    t.same(await list('q=eve', { 'cache-control': 'no-cache' }), { from: 'primary', emails: ['eve@example.com'] })
    await onReplica('select pg_wal_replay_resume()')
    await eventually(async () => (await list('q=eve')).emails.length === 1)
  })

  t.test('one that is too far behind is not read from', async (t) => {
    await restart({ LOCKSTEP_REPLICA_LAG: '1' })
    await isRead('replica')
    await onReplica('select pg_wal_replay_pause()')
    await pool.query("insert into users (tenant_id, email) select id, 'mia@example.com' from tenants")
    await isRead('primary')
    t.same(await list('q=mia'), { from: 'primary', emails: ['mia@example.com'] })
    t.match(await health(), { status: 'degraded', code: 'replica_behind' })
    await onReplica('select pg_wal_replay_resume()')
    await isRead('replica')
    t.match(await health(), { status: 'ok' })
  })

  t.test('one that goes down costs nobody an answer', async (t) => {
    await isRead('replica')
    await postgres.stopReplica()
    t.same(await list('q=ada'), { from: 'primary', emails: ['ada@example.com'] })
    await eventually(async () => (await health()).status === 'down')
    t.match(await health(), { code: 'replica_unreachable', critical: false })
    t.match(await api('GET', '/health/ready'), { status: 200 })
    await postgres.startReplica()
    await isRead('replica')
  })

  t.test('tenants are kept apart there too', async (t) => {
    await pool.query("insert into tenants (slug, name) values ('acme', 'Acme')")
    await restart({ LOCKSTEP_ROW_SECURITY: 'on' })
    await isRead('replica')
    t.match((await api('GET', '/health')).body.parts.database, { rowSecurity: true })
    t.same((await list('q=ada')).emails, ['ada@example.com'])
    await pool.query("create policy nobody on users as restrictive to lockstep_api using (email <> 'ada@example.com')")
    await eventually(async () => (await list('q=ada')).emails.length === 0)
    t.equal((await list('q=ada')).from, 'replica')
    await pool.query('drop policy nobody on users')
  })

  t.test('what is no replica of this server is not read from', async (t) => {
    await restart({ DATABASE_REPLICA_URL: postgres.url })
    await eventually(async () => (await health()).code === 'not_a_replica')
    t.equal((await list('limit=1')).from, 'primary')
    await restart({ DATABASE_REPLICA_URL: process.env.TEST_DATABASE_URL ?? '' })
    await eventually(async () => (await health()).code === 'another_cluster')
    t.equal((await list('limit=1')).from, 'primary')
  })
})
