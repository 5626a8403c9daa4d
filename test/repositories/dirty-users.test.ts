import t from 'tap'
import type { Db } from '../../src/repositories/database.js'
import { claimDirtyUsers, dirtyFigures, reviveFailed } from '../../src/repositories/dirty-users.js'
import { acquireLease, findState, type Lease, saveFailure } from '../../src/repositories/sync-states.js'
import { pauseLane, resumeLane, takeLaneProbe } from '../../src/repositories/tenants.js'
import { at, openTables } from './helpers.js'

const MINUTE = 60_000

const claim = async (db: Db, limit: number, enqueuedMs = MINUTE, mostQueued = 1_000) =>
  (await claimDirtyUsers(db, { limit, mostQueued, enqueuedMs })).userIds

t.test('who is claimed, and who is passed by', async (t) => {
  const { db, pool, newUser } = await openTables(t)
  const set = (id: string, sql: string) => pool.query(`update sync_state set ${sql} where user_id = $1`, [id])
  const passed: Record<string, string> = {
    'in step': 'synced_revision = local_revision',
    'given up': "status = 'failed'",
    'to be tried later': "next_attempt_at = now() + interval '1 minute'",
    queued: "enqueued_until = now() + interval '1 minute'",
    'at a worker': "lease_expires_at = now() + interval '1 minute'",
  }
  for (const sql of Object.values(passed)) await set(await newUser(), sql)
  t.strictSame(await claim(db, 10), [])

  const claimed: Record<string, string> = {
    dirty: "dirty_since = now() - interval '10 seconds'",
    'changed at Stripe': 'synced_revision = local_revision, remote_revision = 1',
    'to be read': 'synced_revision = local_revision, needs_fetch = true',
    'its time has come': "next_attempt_at = now() - interval '1 second'",
    'lost by the queue': "enqueued_until = now() - interval '1 second'",
    'its worker died': "lease_expires_at = now() - interval '1 second'",
    'detached, yet changed': "status = 'detached'",
  }
  const ids: string[] = []
  for (const sql of Object.values(claimed)) {
    const id = await newUser()
    await set(id, sql)
    ids.push(id)
  }
  const first = await claim(db, 1)
  t.strictSame(first, [ids[0]], 'the longest dirty first')
  t.strictSame([...first, ...(await claim(db, 10))].sort(), ids.sort())
  t.strictSame(await claim(db, 10), [], 'until the mark runs out')
  await pool.query('update sync_state set enqueued_until = now() where user_id = $1', [ids[0]])
  t.strictSame(await claim(db, 10), [ids[0]])
})

t.test('two that claim never get the same user, and together get all', async (t) => {
  const { db, pool } = await openTables(t)
  await pool.query('insert into users (description) select n::text from generate_series(1, 300) as n')
  const claims = await Promise.all(Array.from({ length: 8 }, () => claim(db, 50)))
  const rest = await claim(db, 300)
  const all = [...claims.flat(), ...rest]
  t.ok(claims.every((claim) => claim.length <= 50))
  t.equal(all.length, 300)
  t.equal(new Set(all).size, 300)
})

t.test('however many are dirty, the queue has no more than so many at a time', async (t) => {
  const { db, pool } = await openTables(t)
  await pool.query('insert into users (description) select n::text from generate_series(1, 30) as n')
  const longest = await pool.query('select user_id as id from sync_state order by dirty_since limit 10')
  const first = [...(await claim(db, 6, MINUTE, 10)), ...(await claim(db, 6, MINUTE, 10))]
  t.strictSame(first.sort(), longest.rows.map(({ id }) => id).sort(), 'those that have been dirty for longest')
  t.strictSame(await claim(db, 6, MINUTE, 10), [], 'the others wait')
  await pool.query('update sync_state set synced_revision = local_revision where user_id = any($1)', [
    first.slice(0, 4),
  ])
  t.equal((await claim(db, 6, MINUTE, 10)).length, 4, 'until some of these are done')
  const claimAll = { limit: 6, mostQueued: 10, enqueuedMs: MINUTE }
  t.strictSame(await claimDirtyUsers(db, claimAll), { userIds: [], isFull: true })
  await pool.query('update sync_state set synced_revision = local_revision where enqueued_until is not null')
  await pool.query('delete from users where id in (select user_id from sync_state where dirty limit 7)')
  await pool.query("update sync_state set status = 'failed' where user_deleted")
  t.match(await claimDirtyUsers(db, claimAll), { userIds: { length: 6 }, isFull: false }, 'nine are left')
})

t.test('who is being written is passed by, not waited for', async (t) => {
  const { db, newUser } = await openTables(t)
  const held = await newUser()
  const free = await newUser()
  await db.transaction(async (tx) => {
    await tx.query('select from sync_state where user_id = $1 for update', [held])
    const claimed = db.transaction(async (other) => {
      await other.query("set local lock_timeout = '2s'")
      return claim(other, 10)
    })
    t.strictSame(await claimed, [free])
  })
  t.strictSame(await claim(db, 10), [held])
})

t.test('the users of a refused key wait, those of other tenants do not', async (t) => {
  const { db, pool, tenantId, newUser, newTenant } = await openTables(t)
  const mine = await newUser()
  const theirs = await newUser({ tenant_id: await newTenant('other') })
  await newUser({ tenant_id: await newTenant('without an account', null) })
  await pauseLane(db, tenantId, 'refused', MINUTE)
  t.strictSame(await claim(db, 10, 0), [theirs])
  t.equal(await takeLaneProbe(db, tenantId, MINUTE), false, 'too early')
  await pool.query("update tenants set lane_retry_at = now() - interval '1 second' where id = $1", [tenantId])
  t.strictSame((await claim(db, 10, 0)).sort(), [mine, theirs].sort())
  const probes = await Promise.all(Array.from({ length: 5 }, () => takeLaneProbe(db, tenantId, MINUTE)))
  t.equal(probes.filter(Boolean).length, 1, 'one at a time may try')
  await resumeLane(db, tenantId)
  t.equal(await takeLaneProbe(db, tenantId, MINUTE), false, 'nothing is paused')
})

t.test('figures, and those given up for a passing reason', async (t) => {
  const { db, pool, tenantId, newUser, stateOf } = await openTables(t)
  const error = { code: 'c', message: 'm', field: null, at: at(0).toISOString() }
  const fail = async (retryable: boolean) => {
    const id = await newUser()
    const lease = (await acquireLease(db, id, MINUTE)) as Lease
    const seen = await findState(db, tenantId, id)
    if (seen === null) throw new Error('no state')
    await saveFailure(db, lease, seen, { error: { ...error, retryable }, retryAfterMs: null, countAttempt: true })
    return id
  }
  const passing = await fail(true)
  const lasting = await fail(false)
  const waiting = await newUser()
  await pool.query("update sync_state set dirty_since = now() - interval '90 seconds' where user_id = $1", [waiting])
  const figures = await dirtyFigures(db)
  t.match(figures, { dirty: 1, unhealthy: { failed: 2 } })
  t.ok(figures.oldestSeconds >= 90 && figures.oldestSeconds < 150)

  t.equal(await reviveFailed(db, MINUTE, 10), 0, 'not at once')
  await pool.query("update sync_state set updated_at = now() - interval '2 minutes'")
  t.equal(await reviveFailed(db, MINUTE, 10), 1)
  t.match(await stateOf(passing), { status: 'pending', attempts: 0, dirty: true })
  t.match(await stateOf(lasting), { status: 'failed' }, 'for good: someone has to change something')
})
