import { createServer } from 'node:net'
import t from 'tap'
import { makeDb, openPool } from '../../src/repositories/database.js'
import { cloneDatabase } from '../helpers/database.js'

t.test('a statement that takes longer than its caller waits is given up, with its connection', async (t) => {
  const { url } = await cloneDatabase(t)
  const pool = openPool(url, { max: 1 })
  t.teardown(() => pool.end())
  const db = makeDb(pool, { timeoutMs: 200 })
  const begun = Date.now()
  await t.rejects(db.query('select pg_sleep(30)'), { code: 'database_unavailable', retryable: true })
  await t.rejects(
    db.transaction((tx) => tx.query('select pg_sleep(30)')),
    { code: 'database_unavailable' },
  )
  t.ok(Date.now() - begun < 10_000)
  t.strictSame(await db.query('select 1 as one'), [{ one: 1 }], 'the next has a connection that works')
  t.strictSame(await makeDb(pool).query('select 2 as two from pg_sleep(0.3)'), [{ two: 2 }], 'others may take longer')
})

t.test('a server that takes the connection and says nothing is no hang', async (t) => {
  const silent = createServer(() => {})
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const address = silent.address()
  const port = typeof address === 'object' ? address?.port : 0
  const pool = openPool(`postgresql://nobody@127.0.0.1:${port}/nowhere`)
  t.teardown(async () => {
    await pool.end()
    silent.close()
  })
  const begun = Date.now()
  await t.rejects(makeDb(pool).query('select 1'), { code: 'database_unavailable' })
  t.ok(Date.now() - begun < 15_000)
})
