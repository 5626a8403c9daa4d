import type { SyncState } from '../models/sync-state.js'
import type { RemoteState, SyncedFields } from '../models/synced-fields.js'
import type { User } from '../models/user.js'
import type { Db } from './database.js'
import { findStates } from './sync-states.js'
import { USER_COLUMNS, type UserUpdate, updateUsers } from './users.js'

/**
 * Has the rest of the transaction look up each row by its key. A planner that knows nothing yet of a table that has just grown would
 * rather read all of it, for every batch.
 */
export async function lookUpByKeys(tx: Db): Promise<void> {
  await tx.query(
    `select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)`,
  )
}

/** A user with its Stripe customer, both held. */
export interface LinkedState {
  stripeCustomerId: string
  user: User
  state: SyncState
  /** Someone is at it, a write of ours has no answer yet, or a conflict is open. */
  isBusy: boolean
  /** Milliseconds since the Unix epoch. */
  now: number
}

/**
 * Holds the users of these Stripe customers, and their states, but for those that someone else holds: it waits for none. The link
 * that counts is the row's own, which changes together with `stripe_links`.
 */
export async function lockLinkedStates(
  db: Db,
  tenantId: string,
  stripeCustomerIds: readonly string[],
): Promise<LinkedState[]> {
  const users = await db.query<User>(
    `select ${USER_COLUMNS} from users u where u.tenant_id = $1 and u.stripe_customer_id = any($2)
     order by u.id for no key update skip locked`,
    [tenantId, stripeCustomerIds],
  )
  const userIds = users.map(({ id }) => id)
  if (userIds.length === 0) return []
  const held = await db.query<{ id: string; isBusy: boolean; now: number }>(
    `select s.user_id as id, (extract(epoch from lockstep_now()) * 1000)::float8 as now,
       coalesce(s.lease_expires_at > lockstep_now(), false)
         or exists (select from stripe_writes w where w.user_id = s.user_id and w.settled_at is null)
         or exists (select from sync_conflicts c where c.user_id = s.user_id and c.status = 'open') as "isBusy"
     from sync_state s where s.tenant_id = $1 and s.user_id = any($2) order by s.user_id for no key update of s skip locked`,
    [tenantId, userIds],
  )
  const states = await findStates(
    db,
    tenantId,
    held.map(({ id }) => id),
  )
  const userOf = new Map(users.map((user) => [user.id, user]))
  return held.flatMap(({ id, isBusy, now }): LinkedState[] => {
    const user = userOf.get(id)
    const state = states.get(id)
    if (user === undefined || state === undefined || user.stripeCustomerId === null) return []
    return [{ stripeCustomerId: user.stripeCustomerId, user, state, isBusy, now }]
  })
}

/**
 * Writes rows whose states {@link saveAgreedStates} saves next, in the same transaction: until then they are not marked dirty. Answers
 * the revisions that they have now.
 */
export async function updateAgreedUsers(
  db: Db,
  tenantId: string,
  updates: readonly UserUpdate[],
): Promise<Map<string, number>> {
  if (updates.length === 0) return new Map()
  await db.query(`select set_config('lockstep.agreed', 'on', true)`)
  const revisions = await updateUsers(db, tenantId, updates)
  await db.query(`select set_config('lockstep.agreed', '', true)`)
  return revisions
}

/** Both sides agree, on `base`: the news of Stripe and what the row took over of it are settled. */
export async function saveAgreedStates(
  db: Db,
  tenantId: string,
  states: readonly {
    userId: string
    remote: RemoteState
    asOf: Date
    times: Record<string, string>
    base: SyncedFields
    /** The row's revision, if it was written for this; null: it had it all. */
    revision: number | null
  }[],
): Promise<void> {
  await db.query(
    // Whoever had the lease and let it run out must not write over this.
    `update sync_state s set remote = r.remote, remote_as_of = r.as_of, remote_times = r.times, base = r.base,
       remote_revision = s.remote_revision + 1, remote_synced_revision = s.remote_revision + 1,
       local_revision = greatest(s.local_revision + r.writes, r.revision),
       synced_revision = greatest(s.local_revision + r.writes, r.revision), status = 'in_sync', needs_fetch = false, last_error = null, rejected = '{}',
       attempts = 0, next_attempt_at = null, synced_at = lockstep_now(), lease_token = s.lease_token + 1,
       lease_expires_at = null, enqueued_until = null, dirty_since = null, updated_at = lockstep_now()
     from jsonb_to_recordset($2::jsonb) as r (user_id uuid, remote jsonb, as_of timestamptz, times jsonb, base jsonb,
                                          revision integer, writes integer)
     where s.tenant_id = $1 and s.user_id = r.user_id`,
    [
      tenantId,
      JSON.stringify(
        states.map(({ userId, asOf, revision, ...state }) => ({
          ...state,
          user_id: userId,
          as_of: asOf,
          revision,
          writes: revision === null ? 0 : 1,
        })),
      ),
    ],
  )
}

/** Ends events that took effect. Their people cannot have been erased: the transaction holds them. */
export async function saveEventsApplied(db: Db, tenantId: string, ids: readonly string[]): Promise<void> {
  await db.query(
    `update stripe_events e set status = 'processed', outcome = 'applied', error = null, next_attempt_at = null,
       processed_at = lockstep_now()
     from unnest($2::text[]) as given (id) cross join lateral (
       select ctid from stripe_events where tenant_id = $1 and id = given.id offset 0
     ) as held
     where e.ctid = held.ctid`,
    [tenantId, ids],
  )
}
