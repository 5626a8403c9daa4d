import t from 'tap'
import { sweepUsersPage } from '../../src/repositories/users-sweep.js'
import { openTables } from './helpers.js'

t.test('a page of users counts what is missing, and gives who has no state a dirty one', async (t) => {
  const { db, pool, tenantId, newUser, stateOf } = await openTables(t)
  const ids = [await newUser(), await newUser(), await newUser()].sort()
  const [first = '', second = '', third = ''] = ids
  await pool.query('delete from sync_state where user_id = $1', [first])
  await pool.query(`update sync_state set status = 'failed' where user_id = $1`, [second])
  await pool.query(`update sync_state set status = 'detached' where user_id = $1`, [third])

  const dry = await sweepUsersPage(db, tenantId, null, 10, { addsStates: false })
  t.strictSame(dry, { users: 3, withoutCustomer: 2, failed: 1, added: 0, last: third })
  t.equal(await stateOf(first), undefined, 'a dry run adds nothing')

  const page = await sweepUsersPage(db, tenantId, null, 2, { addsStates: true })
  t.strictSame(page, { users: 2, withoutCustomer: 2, failed: 1, added: 1, last: second })
  t.match(await stateOf(first), { dirty: true, local_revision: 1 })
  const again = await sweepUsersPage(db, tenantId, null, 2, { addsStates: true })
  t.match(again, { users: 2, added: 0 }, 'once')

  t.match(await sweepUsersPage(db, tenantId, second, 2, { addsStates: true }), { users: 1, last: third })
  t.strictSame(await sweepUsersPage(db, tenantId, third, 2, { addsStates: true }), {
    users: 0,
    withoutCustomer: 0,
    failed: 0,
    added: 0,
    last: null,
  })
})
