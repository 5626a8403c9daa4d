import type { CreateIntent, Rejection, SyncError, SyncState, SyncStatus } from '../models/sync-state.js'
import type { RemoteState, SyncedFields } from '../models/synced-fields.js'
import type { Db } from './database.js'
import { LeaseLostError, MovedOnError } from './errors.js'

/** The columns of a {@link SyncState}, under its names; the intent's three columns become one object in `stateOf`. */
export const STATE_COLUMNS = `
  s.user_id as "userId", s.tenant_id as "tenantId", s.status, s.base, s.remote, s.remote_as_of as "remoteAsOf",
  s.remote_times as "remoteTimes", s.local_revision as "localRevision", s.synced_revision as "syncedRevision",
  s.remote_revision as "remoteRevision", s.remote_synced_revision as "remoteSyncedRevision",
  s.needs_fetch as "needsFetch", s.dirty, s.user_deleted as "userDeleted",
  s.user_erased as "userErased", s.attempts,
  s.next_attempt_at as "nextAttemptAt", s.last_error as "lastError", s.rejected, s.lease_token as "leaseToken",
  s.create_key as "createKey", s.create_params as "createParams", s.create_started_at as "createStartedAt",
  s.create_generation as "createGeneration", s.synced_at as "syncedAt"`

/** A state as {@link STATE_COLUMNS} read it. */
export type StateRow = Omit<SyncState, 'createIntent'> & {
  createKey: string | null
  createParams: Record<string, unknown> | null
  createStartedAt: Date | null
}

/** The state in a row. */
export function stateOf({ createKey, createParams, createStartedAt, ...state }: StateRow): SyncState {
  const hasIntent = createKey !== null && createParams !== null && createStartedAt !== null
  return {
    ...state,
    createIntent: hasIntent ? { key: createKey, params: createParams, startedAt: createStartedAt } : null,
  }
}

export async function findState(db: Db, tenantId: string, userId: string): Promise<SyncState | null> {
  const rows = await db.query<StateRow>(
    `select ${STATE_COLUMNS} from sync_state s where s.tenant_id = $1 and s.user_id = $2`,
    [tenantId, userId],
  )
  return rows[0] === undefined ? null : stateOf(rows[0])
}

/** Holds the row until the transaction ends. */
export async function lockState(db: Db, tenantId: string, userId: string): Promise<SyncState | null> {
  const rows = await db.query<StateRow>(
    `select ${STATE_COLUMNS} from sync_state s where s.tenant_id = $1 and s.user_id = $2 for no key update`,
    [tenantId, userId],
    'lock-state',
  )
  return rows[0] === undefined ? null : stateOf(rows[0])
}

/** News from Stripe that the data in hand decided: `remote` as of `asOf`. Marks dirty if `isNews`. */
export async function saveRemoteNews(
  db: Db,
  state: Pick<SyncState, 'tenantId' | 'userId'>,
  news: {
    remote: RemoteState
    asOf: Date
    times: Record<string, string>
    /** Own writes found in the news: the base moves along, since it was us who set those values. */
    base: SyncedFields | null
    isNews: boolean
  },
): Promise<void> {
  await db.query(
    `update sync_state set remote = $3, remote_as_of = $4, remote_times = $5, base = coalesce($6, base),
       remote_revision = remote_revision + $7::integer,
       status = case when $7 = 1 and status in ('in_sync', 'failed', 'ignored') then 'pending' else status end,
       attempts = case when $7 = 1 then 0 else attempts end,
       next_attempt_at = case when $7 = 1 then null else next_attempt_at end,
       enqueued_until = case when $7 = 1 then null else enqueued_until end,
       dirty_since = case when $7 = 1 then coalesce(dirty_since, lockstep_now()) else dirty_since end,
       updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2`,
    [
      state.tenantId,
      state.userId,
      JSON.stringify(news.remote),
      news.asOf,
      JSON.stringify(news.times),
      news.base === null ? null : JSON.stringify(news.base),
      news.isNews ? 1 : 0,
    ],
  )
}

/** Nothing new, but seen to be so later than before. */
export async function touchRemoteAsOf(db: Db, tenantId: string, userId: string, asOf: Date): Promise<void> {
  await db.query(
    `update sync_state set remote_as_of = greatest(remote_as_of, $3) where tenant_id = $1 and user_id = $2`,
    [tenantId, userId, asOf],
  )
}

/** An event settled an unanswered write of ours that `remote` still shows: the base moves along, as if it had been answered. */
export async function saveSettledBase(
  db: Db,
  state: Pick<SyncState, 'tenantId' | 'userId'>,
  base: SyncedFields,
): Promise<void> {
  await db.query(`update sync_state set base = $3, updated_at = lockstep_now() where tenant_id = $1 and user_id = $2`, [
    state.tenantId,
    state.userId,
    JSON.stringify(base),
  ])
}

/** Something that the data in hand cannot judge: the next reconcile reads the Stripe customer. Clears a failure. */
export async function markForFetch(
  db: Db,
  tenantId: string,
  userId: string,
  times: Record<string, string> = {},
): Promise<boolean> {
  const rows = await db.query(
    `update sync_state set needs_fetch = true, remote_revision = remote_revision + 1,
       remote_times = remote_times || $3::jsonb,
       status = case when status in ('in_sync', 'failed', 'ignored') then 'pending' else status end,
       attempts = 0, next_attempt_at = null, enqueued_until = null,
       dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2 returning user_id`,
    [tenantId, userId, JSON.stringify(times)],
  )
  return rows.length === 1
}

/** Marks the user dirty without a reason of its own: an operator's click, the stuck-work sweep. */
export async function markDirty(db: Db, tenantId: string, userId: string): Promise<void> {
  await db.query(
    `update sync_state set remote_revision = remote_revision + 1,
       status = case when status in ('in_sync', 'failed', 'ignored') then 'pending' else status end,
       attempts = 0, next_attempt_at = null, enqueued_until = null,
       dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2`,
    [tenantId, userId],
  )
}

/** The two sides have just met: what Stripe holds is known, nothing has been agreed upon yet. */
export async function saveMeeting(
  db: Db,
  tenantId: string,
  userId: string,
  meeting: { remote: RemoteState | null; asOf: Date | null; base: SyncedFields; needsFetch: boolean },
): Promise<void> {
  await db.query(
    `update sync_state set remote = $3, remote_as_of = $4, remote_times = '{}', base = $5, needs_fetch = $6,
       remote_revision = remote_revision + 1, status = 'pending', attempts = 0, next_attempt_at = null, last_error = null,
       create_key = null, create_params = null, create_started_at = null, enqueued_until = null,
       dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2`,
    [
      tenantId,
      userId,
      meeting.remote === null ? null : JSON.stringify(meeting.remote),
      meeting.asOf,
      JSON.stringify(meeting.base),
      meeting.needsFetch,
    ],
    'save-meeting',
  )
}

/** The states of users that were added with their Stripe customers, by `insertImportedUsers`, in the same transaction. */
export async function insertMetStates(
  db: Db,
  tenantId: string,
  meetings: readonly { userId: string; remote: RemoteState; asOf: Date; base: SyncedFields; needsFetch: boolean }[],
): Promise<void> {
  const rows = meetings.map(({ userId, asOf, needsFetch, ...rest }) => ({
    ...rest,
    user_id: userId,
    as_of: asOf,
    needs_fetch: needsFetch,
  }))
  await db.query(
    `insert into sync_state (user_id, tenant_id, remote, remote_as_of, base, needs_fetch, remote_revision)
     select r.user_id, $1, r.remote, r.as_of, r.base, r.needs_fetch, 1
     from jsonb_to_recordset($2::jsonb) as r (user_id uuid, remote jsonb, as_of timestamptz, base jsonb, needs_fetch boolean)`,
    [tenantId, JSON.stringify(rows)],
  )
}

/** The Stripe customer is gone. `status` is `detached`, or `pending` when a new one is wanted. */
export async function saveParting(
  db: Db,
  tenantId: string,
  userId: string,
  status: 'detached' | 'pending',
): Promise<void> {
  await db.query(
    `update sync_state set remote = null, remote_as_of = null, remote_times = '{}', base = null, needs_fetch = false,
       remote_revision = remote_revision + 1, status = $3, attempts = 0, next_attempt_at = null, last_error = null,
       rejected = '{}', create_key = null, create_params = null, create_started_at = null, enqueued_until = null,
       dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2`,
    [tenantId, userId, status],
  )
}

/** Lets a user whose Stripe customer was deleted have a new one. Answers whether it was such a user. */
export async function reattachDetached(db: Db, tenantId: string, userId: string): Promise<boolean> {
  const rows = await db.query(
    `update sync_state set status = 'pending', remote_revision = remote_revision + 1, attempts = 0, next_attempt_at = null,
       enqueued_until = null, dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2 and status = 'detached' returning user_id`,
    [tenantId, userId],
  )
  return rows.length === 1
}

// What follows is written under a lease: each statement requires the fencing token, and throws LeaseLostError without it.

/** What one reconcile holds: the right to write, until someone else is given a higher token. */
export interface Lease {
  tenantId: string
  userId: string
  token: number
}

/** Takes the lease on a user if nobody has it. Answers null when somebody has, or there is no such user. */
export async function acquireLease(db: Db, userId: string, ttlMs: number): Promise<Lease | null> {
  const rows = await db.query<{ tenantId: string; token: number }>(
    `update sync_state set lease_token = lease_token + 1,
       lease_expires_at = lockstep_now() + $2 * interval '1 millisecond'
     where user_id = $1 and (lease_expires_at is null or lease_expires_at <= lockstep_now())
     returning tenant_id as "tenantId", lease_token as token`,
    [userId, ttlMs],
    'acquire-lease',
  )
  const row = rows[0]
  return row === undefined ? null : { tenantId: row.tenantId, userId, token: row.token }
}

/** Makes the lease last `ttlMs` from now. */
export async function renewLease(db: Db, lease: Lease, ttlMs: number): Promise<void> {
  await underLease(db, lease, `lease_expires_at = lockstep_now() + $4 * interval '1 millisecond'`, [ttlMs])
}

/** Gives the lease back without a result. */
export async function releaseLease(db: Db, lease: Lease): Promise<void> {
  await underLease(db, lease, 'lease_expires_at = null, enqueued_until = null', [])
}

/**
 * Takes in what a read showed. Answers false, changing nothing, when other news came in since `remoteRevision` was
 * read: then it is unclear which of the two is the later one.
 */
export async function saveObserved(
  db: Db,
  lease: Lease,
  remoteRevision: number,
  observed: { remote: RemoteState; asOf: Date; times: Record<string, string> },
): Promise<boolean> {
  const rows = await db.query(
    `update sync_state set remote = $5, remote_as_of = $6, remote_times = $7, needs_fetch = false, updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2 and lease_token = $3 and remote_revision = $4 returning user_id`,
    [
      lease.tenantId,
      lease.userId,
      lease.token,
      remoteRevision,
      JSON.stringify(observed.remote),
      observed.asOf,
      JSON.stringify(observed.times),
    ],
  )
  if (rows.length === 1) return true
  await underLease(db, lease, 'needs_fetch = needs_fetch', [])
  return false
}

/**
 * Sets what both sides agree on. An event may have moved the base meanwhile, for it needs no lease: then this throws MovedOnError.
 *
 * @param seen the state that this was decided on
 */
export async function saveBase(db: Db, lease: Lease, seen: Pick<SyncState, 'base'>, base: SyncedFields): Promise<void> {
  const rows = await db.query(
    `update sync_state set base = $4, updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2 and lease_token = $3 and base is not distinct from $5::jsonb returning user_id`,
    [lease.tenantId, lease.userId, lease.token, JSON.stringify(base), jsonOrNull(seen.base)],
  )
  if (rows.length === 0) await failMoved(db, lease)
}

/** The answer to a push: what Stripe holds now, and what was agreed upon by it. */
export async function savePushed(
  db: Db,
  lease: Lease,
  pushed: { base: SyncedFields; remote: RemoteState | null; asOf: Date | null; needsFetch: boolean },
): Promise<void> {
  await underLease(
    db,
    lease,
    `base = $4, remote = coalesce($5, remote), remote_as_of = coalesce($6, remote_as_of), needs_fetch = needs_fetch or $7`,
    [
      JSON.stringify(pushed.base),
      pushed.remote === null ? null : JSON.stringify(pushed.remote),
      pushed.asOf,
      pushed.needsFetch,
    ],
  )
}

/** Stores the create that is about to be sent, before it is. */
export async function saveIntent(db: Db, lease: Lease, intent: Pick<CreateIntent, 'key' | 'params'>): Promise<void> {
  await underLease(
    db,
    lease,
    `create_key = $4, create_params = $5, create_started_at = lockstep_now(), create_generation = create_generation + 1`,
    [intent.key, JSON.stringify(intent.params)],
    'save-intent',
  )
}

/** The create was certainly not carried out, or is given up for a new one. */
export async function clearIntent(db: Db, lease: Lease): Promise<void> {
  await underLease(db, lease, 'create_key = null, create_params = null, create_started_at = null', [])
}

/** Fields that Stripe refused, to be left alone until their local value changes. */
export async function saveRejected(db: Db, lease: Lease, rejected: Record<string, Rejection>): Promise<void> {
  await underLease(db, lease, 'rejected = $4', [JSON.stringify(rejected)])
}

/**
 * Ends a reconcile that got through, for the revisions that it saw: what came in meanwhile leaves the user dirty. Answers
 * for how long the user had been dirty, in seconds, or null when it still is. Throws MovedOnError as {@link saveBase} does.
 */
export async function saveSettled(
  db: Db,
  lease: Lease,
  seen: Pick<SyncState, 'localRevision' | 'remoteRevision' | 'base'>,
  settled: {
    status: SyncStatus
    base: SyncedFields | null
    error: SyncError | null
    rejected: Record<string, Rejection>
    /** There is no Stripe customer, so a wish to read it is void. */
    hasNothingToFetch: boolean
  },
): Promise<number | null> {
  const rows = await db.query<{ waited: number | null }>(
    `with before as (
       select user_id, dirty_since from sync_state where tenant_id = $1 and user_id = $2
     )
     update sync_state s set synced_revision = $4, remote_synced_revision = $5,
       status = case when $6 in ('in_sync', 'failed', 'ignored')
                       and (s.local_revision <> $4 or s.remote_revision <> $5 or (s.needs_fetch and not $10)) then 'pending' else $6 end,
       needs_fetch = s.needs_fetch and not ($10 and s.remote_revision = $5),
       base = $7, last_error = $8,
       rejected = $9, attempts = 0, next_attempt_at = null, synced_at = lockstep_now(), lease_expires_at = null,
       enqueued_until = null, updated_at = lockstep_now(),
       dirty_since = case when s.local_revision = $4 and s.remote_revision = $5 and not (s.needs_fetch and not $10) then null
                          else lockstep_now() end
     from before
     where s.user_id = before.user_id and s.tenant_id = $1 and s.user_id = $2 and s.lease_token = $3
       and s.base is not distinct from $11::jsonb
     returning case when s.dirty_since is null
                    then extract(epoch from lockstep_now() - before.dirty_since)::float8 end as waited`,
    [
      lease.tenantId,
      lease.userId,
      lease.token,
      seen.localRevision,
      seen.remoteRevision,
      settled.status,
      jsonOrNull(settled.base),
      jsonOrNull(settled.error),
      JSON.stringify(settled.rejected),
      settled.hasNothingToFetch,
      jsonOrNull(seen.base),
    ],
    'save-settled',
  )
  const row = rows[0]
  return row === undefined ? failMoved(db, lease) : row.waited
}

/**
 * Ends a reconcile that did not get through: it is tried again after `retryAfterMs`, or, with null, given up as `failed`,
 * unless something new came in since `seen`, which deserves a try of its own. Of a user who was at rest, and only looked at again, it
 * says nothing: that stays as it was, and nobody tries again.
 */
export async function saveFailure(
  db: Db,
  lease: Lease,
  seen: Pick<SyncState, 'localRevision' | 'remoteRevision'>,
  failure: { error: SyncError; retryAfterMs: number | null; countAttempt: boolean },
): Promise<void> {
  await underLease(
    db,
    lease,
    `last_error = case when dirty then $4::jsonb else last_error end,
     attempts = attempts + case when dirty then $5::integer else 0 end,
     status = case when not dirty then status
                   when $6::integer is null and local_revision = $7 and remote_revision = $8 then 'failed'
                   when status = 'in_sync' then 'pending' else status end,
     next_attempt_at = case when dirty then lockstep_now() + $6::integer * interval '1 millisecond' end,
     lease_expires_at = null, enqueued_until = null`,
    [
      JSON.stringify(failure.error),
      failure.countAttempt ? 1 : 0,
      failure.retryAfterMs,
      seen.localRevision,
      seen.remoteRevision,
    ],
  )
}

/** The user is gone from `users` and Stripe has been told: nothing is left to keep in step. */
export async function deleteState(db: Db, lease: Lease): Promise<void> {
  const rows = await db.query(
    'delete from sync_state where tenant_id = $1 and user_id = $2 and lease_token = $3 and user_deleted returning user_id',
    [lease.tenantId, lease.userId, lease.token],
  )
  if (rows.length === 0) throw new LeaseLostError(`user ${lease.userId}`)
}

/** Tells why a statement under the lease found nothing to write: LeaseLostError or MovedOnError. */
async function failMoved(db: Db, lease: Lease): Promise<never> {
  await underLease(db, lease, 'needs_fetch = needs_fetch', [])
  throw new MovedOnError(`user ${lease.userId}`)
}

function jsonOrNull(value: unknown): string | null {
  return value === null ? null : JSON.stringify(value)
}

/** @param name as {@link Db.query} has it */
async function underLease(db: Db, lease: Lease, sets: string, params: unknown[], name?: string): Promise<void> {
  const rows = await db.query(
    `update sync_state set ${sets}, updated_at = lockstep_now()
     where tenant_id = $1 and user_id = $2 and lease_token = $3 returning user_id`,
    [lease.tenantId, lease.userId, lease.token, ...params],
    name,
  )
  if (rows.length === 0) throw new LeaseLostError(`user ${lease.userId}`)
}

/** The states of many users at once, by id. */
export async function findStates(db: Db, tenantId: string, userIds: string[]): Promise<Map<string, SyncState>> {
  const rows = await db.query<StateRow>(
    `select ${STATE_COLUMNS} from sync_state s where s.tenant_id = $1 and s.user_id = any($2)`,
    [tenantId, userIds],
  )
  return new Map(rows.map((row) => [row.userId, stateOf(row)]))
}
