import t from 'tap'
import type { SyncError, SyncStatus } from '../../src/models/sync-state.js'
import { LeaseLostError, MovedOnError } from '../../src/repositories/errors.js'
import {
  acquireLease,
  clearIntent,
  deleteState,
  findState,
  type Lease,
  markDirty,
  markForFetch,
  reattachDetached,
  releaseLease,
  renewLease,
  saveBase,
  saveFailure,
  saveIntent,
  saveMeeting,
  saveObserved,
  saveParting,
  savePushed,
  saveRejected,
  saveRemoteNews,
  saveSettled,
  saveSettledBase,
  touchRemoteAsOf,
} from '../../src/repositories/sync-states.js'
import { at, expireLease, fieldsOf, openTables, remoteOf } from './helpers.js'

const MINUTE = 60_000
const error: SyncError = { code: 'c', message: 'm', field: null, retryable: true, at: at(0).toISOString() }
const settled = (status: SyncStatus = 'in_sync') => ({
  status,
  base: fieldsOf('agreed'),
  error: null,
  rejected: {},
  hasNothingToFetch: false,
})

t.test('one lease at a time, each with a higher token', async (t) => {
  const { db, pool, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const taken = (await Promise.all(Array.from({ length: 8 }, () => acquireLease(db, userId, MINUTE)))).filter(Boolean)
  t.equal(taken.length, 1)
  const lease = taken[0] as Lease
  t.equal(lease.token, 1)
  await pool.query(expireLease, [userId])
  t.match(await acquireLease(db, userId, MINUTE), { token: 2 })
  await t.rejects(releaseLease(db, lease), LeaseLostError, 'who lost it cannot give it back')
  t.equal(await acquireLease(db, userId, MINUTE), null, 'and did not free it')
  await releaseLease(db, { ...lease, token: 2 })
  t.match(await acquireLease(db, userId, MINUTE), { token: 3 })
  t.equal(await acquireLease(db, '01a00000-0000-7000-8000-000000000000', MINUTE), null)

  await renewLease(db, { ...lease, token: 3 }, 10 * MINUTE)
  const expires = (await stateOf(userId))?.lease_expires_at as Date
  t.ok(expires.getTime() - Date.now() > 9 * MINUTE)
})

t.test('a stale token writes nothing, whatever it tries', async (t) => {
  const { db, pool, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const stale = (await acquireLease(db, userId, MINUTE)) as Lease
  await pool.query(expireLease, [userId])
  await acquireLease(db, userId, MINUTE)
  const before = await stateOf(userId)
  const seen = { localRevision: 1, remoteRevision: 0, base: null }
  const observed = { remote: remoteOf('late'), asOf: at(0), times: {} }
  const attempts: Record<string, () => Promise<unknown>> = {
    renewLease: () => renewLease(db, stale, MINUTE),
    releaseLease: () => releaseLease(db, stale),
    saveObserved: () => saveObserved(db, stale, 0, observed),
    saveBase: () => saveBase(db, stale, seen, fieldsOf('late')),
    savePushed: () => savePushed(db, stale, { base: fieldsOf('late'), remote: null, asOf: null, needsFetch: true }),
    saveIntent: () => saveIntent(db, stale, { key: 'lockstep-late', params: {} }),
    clearIntent: () => clearIntent(db, stale),
    saveRejected: () => saveRejected(db, stale, { email: { value: 'x', code: 'c', message: 'm' } }),
    saveSettled: () => saveSettled(db, stale, seen, settled()),
    saveFailure: () => saveFailure(db, stale, seen, { error, retryAfterMs: null, countAttempt: true }),
    deleteState: () => deleteState(db, stale),
  }
  for (const [name, attempt] of Object.entries(attempts)) await t.rejects(attempt(), LeaseLostError, name)
  t.strictSame(await stateOf(userId), before)
  const elsewhere = { ...stale, token: 2, tenantId: '01a00000-0000-7000-8000-000000000000' }
  await t.rejects(saveBase(db, elsewhere, seen, fieldsOf('late')), LeaseLostError, 'the right token for another tenant')
})

t.test('settling', async (t) => {
  const { db, pool, tenantId, newUser, stateOf } = await openTables(t)

  async function underWay() {
    const userId = await newUser({ email: 'a@example.com' })
    await pool.query("update sync_state set dirty_since = now() - interval '5 seconds' where user_id = $1", [userId])
    const lease = (await acquireLease(db, userId, MINUTE)) as Lease
    const state = await findState(db, tenantId, userId)
    if (state === null) throw new Error('no state')
    return { userId, lease, state }
  }

  t.test('with nothing new: clean, free, and it is known how long it took', async (t) => {
    const { userId, lease, state } = await underWay()
    const waited = await saveSettled(db, lease, state, settled())
    t.ok(waited !== null && waited >= 5 && waited < 60, `${waited} s`)
    t.match(await stateOf(userId), {
      status: 'in_sync',
      dirty: false,
      dirty_since: null,
      lease_expires_at: null,
      attempts: 0,
      base: fieldsOf('agreed'),
    })
  })

  const news: Record<string, (userId: string) => Promise<unknown>> = {
    'an edit here': (userId) => pool.query("update users set email = 'b@example.com' where id = $1", [userId]),
    'a hint': (userId) => markForFetch(db, tenantId, userId),
    'news of Stripe': (userId) =>
      saveRemoteNews(
        db,
        { tenantId, userId },
        { remote: remoteOf('n'), asOf: at(1), times: {}, base: null, isNews: true },
      ),
    "an operator's click": (userId) => markDirty(db, tenantId, userId),
    'the row deleted': (userId) => pool.query('delete from users where id = $1', [userId]),
  }
  for (const [name, happens] of Object.entries(news)) {
    t.test(`with ${name} meanwhile: still dirty, free to be taken up at once`, async (t) => {
      const { userId, lease, state } = await underWay()
      await happens(userId)
      t.equal(await saveSettled(db, lease, state, settled()), null)
      t.match(await stateOf(userId), { status: 'pending', dirty: true, dirty_since: Date, lease_expires_at: null })
      t.not(await acquireLease(db, userId, MINUTE), null)
    })
  }

  t.test('a wish to read Stripe stays, but for a user that has nothing there', async (t) => {
    const wish = await underWay()
    await pool.query('update sync_state set needs_fetch = true where user_id = $1', [wish.userId])
    await saveSettled(db, wish.lease, wish.state, settled())
    t.match(await stateOf(wish.userId), { dirty: true, needs_fetch: true, status: 'pending' })

    const none = await underWay()
    await pool.query('update sync_state set needs_fetch = true where user_id = $1', [none.userId])
    await saveSettled(db, none.lease, none.state, { ...settled('ignored'), hasNothingToFetch: true })
    t.match(await stateOf(none.userId), { dirty: false, needs_fetch: false, status: 'ignored' })

    const hinted = await underWay()
    await markForFetch(db, tenantId, hinted.userId)
    await saveSettled(db, hinted.lease, hinted.state, { ...settled('detached'), hasNothingToFetch: true })
    t.match(await stateOf(hinted.userId), { dirty: true, needs_fetch: true, status: 'detached' })
  })
})

t.test('failing', async (t) => {
  const { db, pool, tenantId, newUser, stateOf } = await openTables(t)
  const start = async () => {
    const userId = await newUser({ email: 'a@example.com' })
    const lease = (await acquireLease(db, userId, MINUTE)) as Lease
    const state = await findState(db, tenantId, userId)
    if (state === null) throw new Error('no state')
    return { userId, lease, state }
  }

  const later = await start()
  await saveFailure(db, later.lease, later.state, { error, retryAfterMs: MINUTE, countAttempt: true })
  const waiting = await stateOf(later.userId)
  t.match(waiting, { status: 'pending', attempts: 1, dirty: true, lease_expires_at: null, last_error: error })
  t.ok(Number(waiting?.next_attempt_at) > Date.now() + MINUTE / 2)
  await pool.query("update users set email = 'b@example.com' where id = $1", [later.userId])
  t.match(await stateOf(later.userId), { attempts: 0, next_attempt_at: null }, 'an edit does not wait for that')

  const uncounted = await start()
  await saveFailure(db, uncounted.lease, uncounted.state, { error, retryAfterMs: MINUTE, countAttempt: false })
  t.match(await stateOf(uncounted.userId), { attempts: 0 })

  const given = await start()
  await saveFailure(db, given.lease, given.state, { error, retryAfterMs: null, countAttempt: true })
  t.match(await stateOf(given.userId), { status: 'failed', next_attempt_at: null, dirty: true, lease_expires_at: null })
  await pool.query("update users set email = 'b@example.com' where id = $1", [given.userId])
  t.match(await stateOf(given.userId), { status: 'pending' }, 'an edit takes a failed user up again')

  const moved = await start()
  await pool.query("update users set email = 'b@example.com' where id = $1", [moved.userId])
  await saveFailure(db, moved.lease, moved.state, { error, retryAfterMs: null, countAttempt: true })
  t.match(
    await stateOf(moved.userId),
    { status: 'pending', next_attempt_at: null },
    'what came in since gets its own try',
  )
})

t.test('a read that other news overtook is not taken in', async (t) => {
  const { db, tenantId, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const lease = (await acquireLease(db, userId, MINUTE)) as Lease
  const observed = { remote: remoteOf('read'), asOf: at(5), times: { description: at(5).toISOString() } }
  await markForFetch(db, tenantId, userId)
  t.equal(await saveObserved(db, lease, 0, observed), false)
  t.match(await stateOf(userId), { remote: null, needs_fetch: true })
  t.equal(await saveObserved(db, lease, 1, observed), true)
  t.match(await stateOf(userId), {
    remote: { fields: { description: 'read' } },
    remote_as_of: at(5),
    needs_fetch: false,
  })
})

t.test('what Stripe is seen to hold', async (t) => {
  const { db, tenantId, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const lease = (await acquireLease(db, userId, MINUTE)) as Lease
  const state = { tenantId, userId }
  const what = { remote: remoteOf('one'), asOf: at(10), times: {}, base: fieldsOf('moved') }
  await saveRemoteNews(db, state, { ...what, isNews: false })
  t.match(await stateOf(userId), { remote_revision: 0, base: fieldsOf('moved') })
  await saveRemoteNews(db, state, { ...what, base: null, isNews: true })
  t.match(
    await stateOf(userId),
    { remote_revision: 1, base: fieldsOf('moved'), remote_as_of: at(10) },
    'no base: it stays',
  )

  await touchRemoteAsOf(db, tenantId, userId, at(5))
  t.match(await stateOf(userId), { remote_as_of: at(10) }, 'never backwards')
  await touchRemoteAsOf(db, tenantId, userId, at(20))
  t.match(await stateOf(userId), { remote_as_of: at(20), remote_revision: 1 })

  await savePushed(db, lease, { base: fieldsOf('pushed'), remote: null, asOf: null, needsFetch: true })
  t.match(await stateOf(userId), {
    base: fieldsOf('pushed'),
    remote: { fields: { description: 'one' } },
    needs_fetch: true,
  })
  await savePushed(db, lease, { base: fieldsOf('two'), remote: remoteOf('two'), asOf: at(30), needsFetch: false })
  t.match(await stateOf(userId), { remote_as_of: at(30), needs_fetch: true }, 'a push does not answer a hint')

  await markForFetch(db, tenantId, userId, { email: at(1).toISOString() })
  await markForFetch(db, tenantId, userId, { phone: at(2).toISOString() })
  t.match(await stateOf(userId), { remote_times: { email: at(1).toISOString(), phone: at(2).toISOString() } })
  t.equal(await markForFetch(db, '01a00000-0000-7000-8000-000000000000', userId), false, 'another tenant’s user')
})

t.test('a base that an event has moved is not set back', async (t) => {
  const { db, tenantId, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const lease = (await acquireLease(db, userId, MINUTE)) as Lease
  const state = await findState(db, tenantId, userId)
  if (state === null) throw new Error('no state')
  await saveBase(db, lease, state, fieldsOf('one'))
  await t.rejects(saveBase(db, lease, state, fieldsOf('two')), MovedOnError)
  await t.rejects(saveSettled(db, lease, state, settled()), MovedOnError)
  t.match(await stateOf(userId), { base: fieldsOf('one') })
  await saveBase(db, lease, { base: fieldsOf('one') }, fieldsOf('two'))
  await saveSettledBase(db, state, fieldsOf('three'))
  await saveSettled(db, lease, { ...state, base: fieldsOf('three') }, settled())
  t.match(await stateOf(userId), { base: fieldsOf('agreed') })
})

t.test('the create under way, meeting and parting', async (t) => {
  const { db, tenantId, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const lease = (await acquireLease(db, userId, MINUTE)) as Lease
  await saveIntent(db, lease, { key: 'lockstep-create-1', params: { email: 'a' } })
  t.match(await findState(db, tenantId, userId), {
    createIntent: { key: 'lockstep-create-1', params: { email: 'a' }, startedAt: Date },
    createGeneration: 1,
  })
  await clearIntent(db, lease)
  t.match(await findState(db, tenantId, userId), { createIntent: null, createGeneration: 1 }, 'a key is used once')
  await saveIntent(db, lease, { key: 'lockstep-create-2', params: {} })

  const meeting = { remote: remoteOf('met'), asOf: at(1), base: fieldsOf('sent'), needsFetch: false }
  await saveMeeting(db, tenantId, userId, meeting)
  t.match(await stateOf(userId), { status: 'pending', create_key: null, create_generation: 2, base: fieldsOf('sent') })
  t.match(await stateOf(userId), { remote_revision: 1, dirty: true })

  await saveParting(db, tenantId, userId, 'detached')
  t.match(await stateOf(userId), { status: 'detached', remote: null, base: null, remote_as_of: null })
  t.equal(await reattachDetached(db, tenantId, userId), true)
  t.match(await stateOf(userId), { status: 'pending', dirty: true })
  t.equal(await reattachDetached(db, tenantId, userId), false, 'only who is detached')
})

t.test('the state goes only with the row', async (t) => {
  const { db, pool, newUser, stateOf } = await openTables(t)
  const userId = await newUser()
  const lease = (await acquireLease(db, userId, MINUTE)) as Lease
  await t.rejects(deleteState(db, lease), LeaseLostError, 'the row is there (again)')
  await pool.query('delete from users where id = $1', [userId])
  await deleteState(db, lease)
  t.equal(await stateOf(userId), undefined)
})
