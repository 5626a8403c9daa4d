import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import type { BaseLogger } from 'pino'
import { DatabaseError, LOCK_NOT_AVAILABLE } from './errors.js'

/** Any number that nothing else in this database locks; spells `FILL`. */
const LOCK_KEY = 0x46494c4c
/** Users of one transaction, which locks them: about 0.1 s. */
const BATCH = 500
/** How often to say how far it is, in milliseconds. */
const REPORT_MS = 10_000
/** Rests before a batch whose rows another transaction held is tried again, in milliseconds. */
const RETRY_MS = 200

const FIRST_ID = '00000000-0000-0000-0000-000000000000'

/**
 * Enters users that were there before `user_list` and `user_search` into them, and returns when all are in: only then do lists and
 * searches show everyone. Goes on where it was interrupted; of several processes one works and the others wait. About two
 * minutes per million users; with nothing to do, one connection and one query.
 *
 * @throws {DatabaseError}
 */
export async function backfillUserList(databaseUrl: string, log: BaseLogger): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'lockstep backfill' })
  try {
    await client.connect()
    if ((await unfinished(client)) === null) return
    // Held by the session: it ends with it, whatever happens.
    await client.query('select pg_advisory_lock($1)', [LOCK_KEY])
    let reached = await unfinished(client)
    let users = 0
    let reported = Date.now()
    while (reached !== null) {
      const ids = await fillBatch(client, reached)
      if (ids === null) {
        await pause(RETRY_MS)
        continue
      }
      users += ids.length
      reached = ids.length < BATCH ? null : (ids.at(-1) ?? null)
      if (Date.now() - reported >= REPORT_MS) {
        log.info({ users }, 'entering users into the search; lists are complete when this is done')
        reported = Date.now()
      }
    }
    if (users > 0) log.info({ users }, 'the search has all users')
  } catch (error) {
    throw DatabaseError.from(error)
  } finally {
    await client.end()
  }
}

/** The id after which to go on; null when all are in. */
async function unfinished(client: pg.Client): Promise<string | null> {
  const { rows } = await client.query<{ reached: string | null }>(
    "select reached from lockstep_backfill where name = 'user_list' and finished_at is null",
  )
  return rows[0] === undefined ? null : (rows[0].reached ?? FIRST_ID)
}

/** Enters the next users; answers their ids, or null when another transaction holds one of them. */
async function fillBatch(client: pg.Client, after: string): Promise<string[] | null> {
  try {
    await client.query('begin')
    // Shorter than Postgres takes to find a deadlock, so that it is never the application's transaction that has to give way.
    await client.query("set local lock_timeout = '500ms'")
    // Locked, so that what is entered is not out of date already; in the order in which everyone locks.
    const { rows } = await client.query<{ id: string }>(
      'select id from users where id > $1 order by id limit $2 for share',
      [after, BATCH],
    )
    const ids = rows.map(({ id }) => id)
    await client.query('select from sync_state where user_id = any($1) order by user_id for share', [ids])
    await client.query(
      `select lockstep_list_users(missing), lockstep_search_users(missing) from (
         select array(
           select id from unnest($1::uuid[]) as id
           where not exists (select from user_list l join user_search s on s.user_id = l.user_id where l.user_id = id)
         ) as missing
       ) as entries`,
      [ids],
    )
    await client.query(
      `update lockstep_backfill set reached = coalesce($1, reached), finished_at = case when $2 then lockstep_now() end
       where name = 'user_list'`,
      [ids.at(-1) ?? null, ids.length < BATCH],
    )
    await client.query('commit')
    return ids
  } catch (error) {
    await client.query('rollback')
    if (error instanceof pg.DatabaseError && error.code === LOCK_NOT_AVAILABLE) return null
    throw error
  }
}
