import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import {
  buryLink,
  fillStripeCreated,
  findHeldCustomers,
  findLink,
  findLinks,
  findLiveLink,
  findUnseenLinks,
  findWindowStart,
  insertLink,
  unlink,
} from '../../src/repositories/stripe-links.js'
import { saveRemoteNews } from '../../src/repositories/sync-states.js'
import { at, openTables, remoteOf } from './helpers.js'

t.test('a Stripe customer is given to one user, however many ask', async (t) => {
  const { db, tenantId } = await openTables(t)
  const link = { tenantId, stripeCustomerId: 'cus_1', how: 'created' as const, stripeCreated: at(0) }
  const users = Array.from({ length: 8 }, () => newId())
  const given = await Promise.all(users.map((userId) => insertLink(db, { ...link, userId })))
  t.equal(given.filter(Boolean).length, 1)
  const winner = users[given.indexOf(true)] ?? ''
  t.match(await findLink(db, tenantId, 'cus_1'), { userId: winner, how: 'created', unlinkedAt: null, deletedAt: null })
  t.equal(await findLiveLink(db, tenantId, winner), 'cus_1')
  const second = insertLink(db, { ...link, stripeCustomerId: 'cus_2', userId: winner })
  await t.rejects(second, { sqlState: '23505' } as object as Error, 'and a user has one live customer at most')
})

t.test('what was deleted in Stripe stays deleted', async (t) => {
  const { db, tenantId } = await openTables(t)
  const userId = newId()
  const link = { tenantId, stripeCustomerId: 'cus_1', userId, how: 'email' as const, stripeCreated: null }
  await insertLink(db, link)
  t.equal(await buryLink(db, tenantId, 'cus_1', null), false, 'by nobody who takes it for nobody’s')
  t.equal(await buryLink(db, tenantId, 'cus_1', newId()), false, 'or for another user’s')
  t.match(await findLink(db, tenantId, 'cus_1'), { deletedAt: null })
  t.equal(await buryLink(db, tenantId, 'cus_1', userId), true)
  const buried = await findLink(db, tenantId, 'cus_1')
  t.match(buried, { userId, how: 'email', deletedAt: Date })
  t.equal(await buryLink(db, tenantId, 'cus_1', null), true)
  t.strictSame(await findLink(db, tenantId, 'cus_1'), buried, 'the first time counts')
  t.equal(await insertLink(db, link), false, 'it is not taken up again')
  t.equal(await findLiveLink(db, tenantId, userId), null)

  await buryLink(db, tenantId, 'cus_unknown', null)
  t.match(await findLink(db, tenantId, 'cus_unknown'), { userId: null, how: 'tombstone', deletedAt: Date })
  t.ok(await insertLink(db, { ...link, stripeCustomerId: 'cus_3', how: 'tombstone', userId: null }))
  t.match(await findLink(db, tenantId, 'cus_3'), { deletedAt: Date })
})

t.test('who parted is free for another, the customer is not', async (t) => {
  const { db, tenantId } = await openTables(t)
  const userId = newId()
  const link = { tenantId, userId, how: 'attached' as const, stripeCreated: null }
  await insertLink(db, { ...link, stripeCustomerId: 'cus_1' })
  await unlink(db, tenantId, 'cus_1')
  t.equal(await findLiveLink(db, tenantId, userId), null)
  t.match(await findLink(db, tenantId, 'cus_1'), { unlinkedAt: Date, deletedAt: null }, 'given up is not deleted')
  t.equal(await insertLink(db, { ...link, stripeCustomerId: 'cus_1' }), false)
  t.ok(await insertLink(db, { ...link, stripeCustomerId: 'cus_2' }))
  t.strictSame(
    [...(await findLinks(db, tenantId, ['cus_1', 'cus_2', 'cus_3'])).keys()].sort(),
    ['cus_1', 'cus_2'],
    'all that were ever known',
  )
})

t.test('tenants do not see each other', async (t) => {
  const { db, tenantId, newTenant } = await openTables(t)
  const other = await newTenant('other')
  const userId = newId()
  await insertLink(db, { tenantId, stripeCustomerId: 'cus_1', userId, how: 'created', stripeCreated: null })
  t.equal(await findLink(db, other, 'cus_1'), null)
  t.equal(await findLiveLink(db, other, userId), null)
  t.equal((await findLinks(db, other, ['cus_1'])).size, 0)
  await unlink(db, other, 'cus_1')
  t.match(await findLink(db, tenantId, 'cus_1'), { unlinkedAt: null })
})

t.test('what is held of the customers that a list shows', async (t) => {
  const { db, pool, tenantId, newUser, newTenant } = await openTables(t)
  const users = { live: await newUser(), parted: await newUser(), dead: await newUser(), stateless: await newUser() }
  for (const [name, userId] of Object.entries(users)) {
    const stripeCreated = name === 'live' ? at(0) : null
    await insertLink(db, { tenantId, stripeCustomerId: `cus_${name}`, userId, how: 'created', stripeCreated })
  }
  await unlink(db, tenantId, 'cus_parted')
  await buryLink(db, tenantId, 'cus_dead', users.dead)
  await buryLink(db, tenantId, 'cus_strange', null)
  await pool.query('delete from sync_state where user_id = $1', [users.stateless])
  const remote = remoteOf('new')
  const news = { remote, asOf: at(0), times: {}, base: null, isNews: true }
  await saveRemoteNews(db, { tenantId, userId: users.live }, news)

  const ids = ['live', 'parted', 'dead', 'stateless', 'strange', 'unknown'].map((name) => `cus_${name}`)
  const held = await findHeldCustomers(db, tenantId, ids)
  const of = (name: string) => held.get(`cus_${name}`)
  t.strictSame(of('live'), {
    stripeCustomerId: 'cus_live',
    userId: users.live,
    isLive: true,
    isDated: true,
    status: 'pending',
    remote,
  })
  t.match(of('parted'), { userId: users.parted, isLive: false, isDated: false, status: 'pending' })
  t.match(of('dead'), { userId: users.dead, isLive: false, status: 'pending', remote: null })
  t.match(of('stateless'), { isLive: true, status: null, remote: null })
  t.match(of('strange'), { userId: null, isLive: false, status: null })
  t.equal(held.size, 5, 'and of whom nothing is known, nothing')
  t.equal((await findHeldCustomers(db, await newTenant('other'), ids)).size, 0, "nor of another tenant's")
})

t.test('links that a sweep should have seen', async (t) => {
  const { db, tenantId } = await openTables(t)
  for (const [n, seconds] of [5, 10, 20, 30].entries()) {
    const stripeCustomerId = `cus_${n}`
    await insertLink(db, { tenantId, stripeCustomerId, userId: newId(), how: 'created', stripeCreated: at(seconds) })
  }
  await insertLink(db, { tenantId, stripeCustomerId: 'cus_old', userId: newId(), how: 'attached', stripeCreated: null })
  const unseen = async (range: Partial<Parameters<typeof findUnseenLinks>[2]>) =>
    (
      await findUnseenLinks(db, tenantId, {
        after: at(0),
        until: at(30),
        seen: [],
        skipThrough: null,
        limit: 10,
        ...range,
      })
    ).map(({ stripeCustomerId }) => stripeCustomerId)
  t.strictSame(await unseen({}), ['cus_0', 'cus_1', 'cus_2', 'cus_3'], 'whose time is unknown is not missing')
  t.strictSame(await unseen({ after: at(5), until: at(20) }), ['cus_1', 'cus_2'], 'after is exclusive, until inclusive')
  t.strictSame(await unseen({ seen: ['cus_1'] }), ['cus_0', 'cus_2', 'cus_3'])
  t.strictSame(await unseen({ limit: 2 }), ['cus_0', 'cus_1'])
  t.strictSame(await unseen({ skipThrough: 'cus_1' }), ['cus_2', 'cus_3'])
  await buryLink(db, tenantId, 'cus_0', (await findLink(db, tenantId, 'cus_0'))?.userId ?? null)
  await unlink(db, tenantId, 'cus_1')
  t.strictSame(await unseen({}), ['cus_2', 'cus_3'], 'the dead and the parted are not missed')

  await fillStripeCreated(db, tenantId, [
    { id: 'cus_old', created: at(1) },
    { id: 'cus_2', created: at(1) },
  ])
  t.strictSame(await unseen({ until: at(1) }), ['cus_old'], 'a time that is known stays')
})

t.test('where a window begins that holds so many', async (t) => {
  const { db, tenantId } = await openTables(t)
  const seconds = (second: number) => at(second).getTime() / 1000
  const startOf = (until: number, count: number) => findWindowStart(db, tenantId, seconds(until), count)
  t.equal(await startOf(30, 2), 0, 'nothing is known')
  await insertLink(db, { tenantId, stripeCustomerId: 'cus_?', userId: newId(), how: 'attached', stripeCreated: null })
  t.equal(await startOf(30, 2), 0, 'nor when any of them was made')
  for (const [n, second] of [5, 10, 20, 20, 20, 30].entries()) {
    const stripeCustomerId = `cus_${n}`
    await insertLink(db, {
      tenantId,
      stripeCustomerId,
      userId: newId(),
      how: 'created',
      stripeCreated: at(second),
    })
  }
  t.equal(await startOf(30, 1), seconds(21), 'behind the second in which the next one was made')
  t.equal(await startOf(30, 2), seconds(21), 'which is not begun where it would not fit')
  t.equal(await startOf(30, 4), seconds(11))
  t.equal(await startOf(20, 2), seconds(20), 'a second cannot be divided')
  t.equal(await startOf(30, 6), 0, 'there are no more')
})
