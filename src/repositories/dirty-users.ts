import type { Db } from './database.js'
import { IS_CONNECTED } from './tenants.js'

/** What the queue does not have. */
const IS_FREE = '(enqueued_until is null or enqueued_until <= lockstep_now())'

/** Users that were claimed. */
export interface Claim {
  userIds: string[]
  /** As many as the queue is to have are dirty, so that it has all that it is to have once these are in it. */
  isFull: boolean
}

/**
 * Claims dirty users whose time has come and that neither the queue nor a worker has, longest dirty first. Others that
 * claim at the same time pass these by. Users of an account whose key Stripe refuses wait until it may be tried again, and
 * those of a tenant without an account until it has one.
 *
 * @param options.limit users that are claimed, at the most
 * @param options.mostQueued users that the queue has at a time, about: those beyond wait here, however many there are
 * @param options.enqueuedMs how long they count as queued
 */
export async function claimDirtyUsers(
  db: Db,
  { limit, mostQueued, enqueuedMs }: { limit: number; mostQueued: number; enqueuedMs: number },
): Promise<Claim> {
  const [claim] = await db.query<{ userIds: string[]; oldest: number }>(
    `with oldest as materialized (
       select s.user_id, s.enqueued_until from sync_state s join tenants t on t.id = s.tenant_id
       where s.dirty and s.status <> 'failed'
         and (s.next_attempt_at is null or s.next_attempt_at <= lockstep_now())
         and (s.lease_expires_at is null or s.lease_expires_at <= lockstep_now())
         and (t.lane_retry_at is null or t.lane_retry_at <= lockstep_now())
         and ${IS_CONNECTED}
       order by s.dirty_since limit $2
     ), claimed as (
       update sync_state s set enqueued_until = lockstep_now() + $3 * interval '1 millisecond'
       from (
         select held.user_id from oldest
         cross join lateral (
           select user_id from sync_state where user_id = oldest.user_id and dirty and ${IS_FREE} for update skip locked
         ) as held
         where ${IS_FREE} limit $1
       ) as free
       where s.user_id = free.user_id
       returning s.user_id
     )
     select array(select user_id from claimed) as "userIds", (select count(*)::int from oldest) as oldest`,
    [limit, mostQueued, enqueuedMs],
    'claim-dirty-users',
  )
  return { userIds: claim?.userIds ?? [], isFull: (claim?.oldest ?? 0) >= mostQueued }
}

/** How many users wait for a reconcile, and the longest wait, in seconds; tenants that have no Stripe account yet wait for none. */
export async function dirtyFigures(
  db: Db,
): Promise<{ dirty: number; oldestSeconds: number; unhealthy: Record<string, number> }> {
  const [waiting] = await db.query<{ dirty: number; oldest: number | null }>(
    `select count(*)::int as dirty, extract(epoch from lockstep_now() - min(dirty_since))::float8 as oldest
     from sync_state s join tenants t on t.id = s.tenant_id where s.dirty and s.status <> 'failed' and ${IS_CONNECTED}`,
  )
  const unhealthy = await db.query<{ status: string; count: number }>(
    `select status, count(*)::int as count from sync_state
     where status in ('conflict', 'failed', 'detached') group by status`,
  )
  return {
    dirty: waiting?.dirty ?? 0,
    oldestSeconds: waiting?.oldest ?? 0,
    unhealthy: Object.fromEntries(unhealthy.map((row) => [row.status, row.count])),
  }
}

/**
 * Takes up again what got stuck: users given up on for a passing reason more than `afterMs` ago. Answers how many. Leases
 * and queue marks of dead workers need no help: they run out.
 */
export async function reviveFailed(db: Db, afterMs: number, limit: number): Promise<number> {
  const rows = await db.query(
    `update sync_state set status = 'pending', attempts = 0, next_attempt_at = null, enqueued_until = null,
       remote_revision = remote_revision + 1, dirty_since = coalesce(dirty_since, lockstep_now())
     where user_id in (
       select user_id from sync_state
       where status = 'failed' and (last_error ->> 'retryable')::boolean
         and updated_at < lockstep_now() - $1 * interval '1 millisecond'
       order by user_id limit $2 for update skip locked
     )
     returning user_id`,
    [afterMs, limit],
  )
  return rows.length
}

/** Puts events given up on more than `afterMs` ago back into the inbox. Answers how many. */
export async function reviveFailedEvents(db: Db, afterMs: number, limit: number): Promise<number> {
  const rows = await db.query(
    `update stripe_events set status = 'pending', attempts = 0, next_attempt_at = null
     where (tenant_id, id) in (
       select tenant_id, id from stripe_events
       where status = 'failed' and next_attempt_at is null and received_at < lockstep_now() - $1 * interval '1 millisecond'
       order by received_at limit $2 for update skip locked
     )
     returning id`,
    [afterMs, limit],
  )
  return rows.length
}
