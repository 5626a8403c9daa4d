import type pg from 'pg'
import { eventually } from './wait.js'

/** Whether nothing waits in the inbox, on file or not, as SQL. */
export const INBOX_IS_EMPTY = `not exists (select from delivery_batches)
  and not exists (select from stripe_events where status = 'pending')`

/** Waits until all that was acknowledged is on file, as events. */
export async function untilFiled(pool: pg.Pool): Promise<void> {
  await eventually(async () => (await pool.query('select from delivery_batches limit 1')).rowCount === 0, {
    what: 'an empty doorstep',
  })
}

/** Waits until nothing is left in the inbox that is to be settled. */
export async function untilInboxIsEmpty(pool: pg.Pool, options: { timeout?: number } = {}): Promise<void> {
  await eventually(async () => (await pool.query(`select where ${INBOX_IS_EMPTY}`)).rowCount === 1, {
    ...options,
    what: 'an empty inbox',
  })
}

/** How many events the inbox has on file, once all are. */
export async function countEvents(pool: pg.Pool): Promise<number> {
  await untilFiled(pool)
  return (await pool.query('select count(*)::int as n from stripe_events')).rows[0].n
}
