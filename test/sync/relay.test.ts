import t from 'tap'
import { ManualClock } from '../../src/lib/clock.js'
import type { Db } from '../../src/repositories/database.js'
import { makeRelay } from '../../src/sync/relay.js'
import { openTables } from '../repositories/helpers.js'

const BATCH = 200
const MOST_QUEUED = 1_000

t.test(
  'a queue that has all it is to have is left alone for a moment, however often somebody wakes the relay',
  async (t) => {
    const { db, pool } = await openTables(t)
    const clock = new ManualClock(0)
    const queued: string[] = []
    let statements = 0
    const counting: Db = {
      ...db,
      query: (...args) => {
        statements += 1
        return db.query(...args)
      },
    }
    const relay = makeRelay({ db: counting, enqueue: async (userIds) => void queued.push(...userIds), clock })
    await pool.query('insert into users (description) select n::text from generate_series(1, 1500) as n')
    for (let left = MOST_QUEUED; left > 0; left -= BATCH) t.equal(await relay.relayBatch(), BATCH)
    t.equal(await relay.relayBatch(), 0)
    const looks = statements

    await pool.query('update sync_state set synced_revision = local_revision where user_id = any($1)', [
      queued.slice(0, 100),
    ])
    const wakes: number[] = []
    for (let jobs = 0; jobs < 50; jobs += 1) wakes.push(await relay.relayBatch())
    t.strictSame([Math.max(...wakes), statements], [0, looks], 'no look after each job')
    clock.advance(500)
    t.equal(await relay.relayBatch(), 100, 'then it is filled up again')
    t.equal(new Set(queued).size, MOST_QUEUED + 100, 'each once')

    await pool.query('update sync_state set synced_revision = local_revision where user_id = any($1)', [queued])
    clock.set(0)
    t.equal(await relay.relayBatch(), BATCH, 'a clock that was set back keeps nobody waiting')
    t.equal(await relay.relayBatch(), BATCH)
    t.equal(await relay.relayBatch(), 0)
    await pool.query('insert into users (description) values ($1)', ['late'])
    t.equal(await relay.relayBatch(), 1, 'where there is room, nobody waits')
  },
)
