import type { SharedState } from '../lib/shared-state.js'
import type { Statements } from './database.js'

/**
 * The pace of each Stripe account in Postgres, for processes without a Redis. Its table is unlogged: a write costs no write to the
 * disk, and after a crash of the server each pace begins anew.
 */
export function makePaceState(db: Statements): SharedState {
  return {
    async read(account) {
      const [row] = await db.query<{ text: string | null; now: number }>(
        `select (select state from stripe_pace where account = $1) as text,
           extract(epoch from clock_timestamp())::float8 * 1000 as now`,
        [account],
      )
      return row ?? { text: null, now: Date.now() }
    },
    async swap(account, expected, next) {
      // Who lost may be answered what stood there before: it then loses once more, and sees the new state.
      const [row] = await db.query<{ text: string | null; now: number; isSwapped: boolean }>(
        `with swapped as (
           insert into stripe_pace (account, state) values ($1, $3)
           on conflict (account) do update set state = excluded.state, updated_at = lockstep_now()
           where stripe_pace.state is not distinct from $2
           returning state
         )
         select coalesce((select state from swapped), (select state from stripe_pace where account = $1)) as text,
           extract(epoch from clock_timestamp())::float8 * 1000 as now, exists (select from swapped) as "isSwapped"`,
        [account, expected, next],
        'swap-pace',
      )
      return row ?? { text: null, now: Date.now(), isSwapped: false }
    },
  }
}
