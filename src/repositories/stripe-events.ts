import type { Cipher } from '../lib/cipher.js'
import type { Db, Statements } from './database.js'
import { isSealed } from './vault.js'

/** What the inbox keeps of an event. */
export interface NewEvent {
  tenantId: string
  id: string
  account: string | null
  type: string
  apiVersion: string | null
  livemode: boolean
  stripeCustomerId: string | null
  idempotencyKey: string | null
  created: Date
  /** What Stripe sent, as JSON. */
  payload: string
  source: 'webhook' | 'catch_up'
  /** `pending` waits to be settled; the others rest. `processed` comes with its outcome. */
  status: 'pending' | 'processed' | 'ignored' | 'quarantined'
  outcome?: EventOutcome
  /** Absent: now. */
  receivedAt?: Date
}

/** What is read of an event as Stripe sent it. Empty once the person it is about was erased. */
export interface EventPayload {
  data?: { object?: unknown; previous_attributes?: Record<string, unknown> | null }
  request?: { id?: string | null } | null
}

/** An event on its way through the inbox. */
export interface PendingEvent {
  tenantId: string
  id: string
  type: string
  stripeCustomerId: string | null
  idempotencyKey: string | null
  created: Date
  payload: EventPayload
  attempts: number
}

/** Which event waits, and whose it is. */
export type PendingEventId = Pick<PendingEvent, 'tenantId' | 'id' | 'stripeCustomerId'>

/** What an event came to. */
export type EventOutcome =
  | 'echo'
  | 'stale'
  | 'no_news'
  | 'applied'
  | 'hint'
  | 'deleted'
  | 'dead_customer'
  | 'linked'
  | 'imported'
  | 'imported_lookalike'
  | 'duplicate'
  | 'ambiguous'
  | 'not_imported'

/** Stores events, their payloads sealed; answers the ids of those that were not there yet. */
export async function insertEvents(db: Db, cipher: Cipher, events: NewEvent[]): Promise<string[]> {
  const isNew = await insertEachEvent(db, cipher, events)
  return events.filter((_, index) => isNew[index]).map(({ id }) => id)
}

/** Stores events of any tenants in one statement; answers for each whether it was not there yet. All or none are stored. */
export async function insertEachEvent(db: Db, cipher: Cipher, events: readonly NewEvent[]): Promise<boolean[]> {
  if (events.length === 0) return []
  const rows = await db.query<{ tenantId: string; id: string }>(
    `insert into stripe_events (tenant_id, id, account, type, api_version, livemode, stripe_customer_id, idempotency_key,
                                created, payload, source, status, outcome, received_at, processed_at)
     select tenant_id, id, account, type, api_version, livemode, stripe_customer_id, idempotency_key, created,
       jsonb_build_object('sealed', sealed), source, status, outcome, coalesce(received_at, lockstep_now()),
       case when status <> 'pending' then lockstep_now() end
     from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::text[], $8::text[],
                 $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[], $14::timestamptz[])
       as e (tenant_id, id, account, type, api_version, livemode, stripe_customer_id, idempotency_key, created, sealed,
             source, status, outcome, received_at)
     on conflict (tenant_id, id) do nothing returning tenant_id as "tenantId", id`,
    [
      events.map((event) => event.tenantId),
      events.map((event) => event.id),
      events.map((event) => event.account),
      events.map((event) => event.type),
      events.map((event) => event.apiVersion),
      events.map((event) => event.livemode),
      events.map((event) => event.stripeCustomerId),
      events.map((event) => event.idempotencyKey),
      events.map((event) => event.created),
      events.map(({ tenantId, id, payload }) => cipher.seal(payload, payloadContext(tenantId, id))),
      events.map((event) => event.source),
      events.map((event) => event.status),
      events.map((event) => event.outcome ?? null),
      events.map((event) => event.receivedAt ?? null),
    ],
    'insert_events',
  )
  const stored = new Set(rows.map(nameOf))
  // Of one that is among them twice only the first is new.
  return events.map((event) => stored.delete(nameOf(event)))
}

function nameOf({ tenantId, id }: Pick<NewEvent, 'tenantId' | 'id'>): string {
  return `${tenantId}/${id}`
}

/** Of the oldest events that wait, how many are looked through for each that is wanted; most are of different customers. */
const LOOK_THROUGH = 2
/** How many if those were of too few: many of one customer hold up no more than so many. */
const LOOK_FAR = 1_000

/**
 * The first event that waits of each of up to `limit` customers, oldest first: what comes after it is judged by what it leaves.
 * Nothing is held: whoever locks one of them first settles it.
 */
export async function findPendingEvents(db: Db, limit: number): Promise<PendingEventId[]> {
  const near = await findAmong(db, limit, LOOK_THROUGH * limit)
  const isShort = near.events.length < limit && near.seen === LOOK_THROUGH * limit && near.seen < LOOK_FAR
  return isShort ? (await findAmong(db, limit, LOOK_FAR)).events : near.events
}

async function findAmong(db: Db, limit: number, most: number): Promise<{ events: PendingEventId[]; seen: number }> {
  const rows = await db.query<PendingEventId & { seen: number }>(
    `select tenant_id as "tenantId", id, stripe_customer_id as "stripeCustomerId", seen from (
       select *, count(*) over ()::int as seen,
         row_number() over (partition by tenant_id, stripe_customer_id order by received_at, created, id) as place
       from lockstep_pending_events($2)
     ) ranked
     where place = 1 order by received_at, created, id limit $1`,
    [limit, most],
  )
  return { events: rows.map(({ seen: _seen, ...event }) => event), seen: rows[0]?.seen ?? 0 }
}

/** Holds those of these pending events that nobody else does; it waits for none. */
export async function lockPendingEvents(
  db: Db,
  cipher: Cipher,
  tenantId: string,
  ids: readonly string[],
): Promise<PendingEvent[]> {
  const rows = await db.query<PendingEvent>(
    // One by one by the primary key, in the order of the ids: of a table that has just grown the planner would rather read all.
    `select e.* from unnest($2::text[]) as given (id) cross join lateral (
       select tenant_id as "tenantId", id, type, stripe_customer_id as "stripeCustomerId",
              idempotency_key as "idempotencyKey", created, payload, attempts
       from stripe_events where tenant_id = $1 and id = given.id and status = 'pending' for update skip locked
     ) as e`,
    [tenantId, [...ids].sort()],
  )
  return rows.map((row) => ({ ...row, payload: openPayload(cipher, tenantId, row.id, row.payload) as EventPayload }))
}

/** Holds one pending event, or answers null when it is taken or settled. */
export async function lockPendingEvent(
  db: Db,
  cipher: Cipher,
  tenantId: string,
  id: string,
): Promise<PendingEvent | null> {
  const [event] = await lockPendingEvents(db, cipher, tenantId, [id])
  return event ?? null
}

/** What Stripe sent, of a stored payload; one that was stored before payloads were sealed is as it is. Throws UnsealError. */
export function openPayload(cipher: Cipher, tenantId: string, id: string, stored: unknown): unknown {
  return isSealed(stored) ? JSON.parse(cipher.open(stored.sealed, payloadContext(tenantId, id))) : stored
}

/** Where a sealed payload belongs: it opens for no other event. */
export function payloadContext(tenantId: string, id: string): string {
  return `stripe_events.payload/${tenantId}/${id}`
}

/** Ends an event. What it holds of a person who was erased meanwhile goes. */
export async function saveEventSettled(db: Db, event: PendingEvent, outcome: EventOutcome): Promise<void> {
  await db.query(
    `update stripe_events e set status = 'processed', outcome = $3, error = null, next_attempt_at = null,
       processed_at = lockstep_now(), payload = case when exists (
         select from stripe_links l join users u on u.id = l.user_id
         where l.tenant_id = $1 and l.stripe_customer_id = e.stripe_customer_id and u.state = 'erased'
       ) then '{}' else payload end
     where e.tenant_id = $1 and e.id = $2`,
    [event.tenantId, event.id, outcome],
  )
}

/** Looks at the event again after `delayMs`; it did nothing yet. */
export async function postponeEvent(db: Db, event: PendingEvent, delayMs: number): Promise<void> {
  await db.query(
    `update stripe_events set next_attempt_at = lockstep_now() + $3 * interval '1 millisecond'
     where tenant_id = $1 and id = $2`,
    [event.tenantId, event.id, delayMs],
  )
}

/** Settling it threw: it is tried again after `retryAfterMs`, or, with null, given up as `failed` until it is replayed. */
export async function saveEventFailure(
  db: Db,
  event: PendingEvent,
  error: string,
  retryAfterMs: number | null,
): Promise<void> {
  await db.query(
    `update stripe_events set attempts = attempts + 1, error = $3,
       status = case when $4::integer is null then 'failed' else status end,
       next_attempt_at = lockstep_now() + $4::integer * interval '1 millisecond'
     where tenant_id = $1 and id = $2`,
    [event.tenantId, event.id, error, retryAfterMs],
  )
}

/** Keeps an event aside that is none of this tenant's, with no more of it than `payload` says. */
export async function quarantineEvent(
  db: Db,
  cipher: Cipher,
  { tenantId, id }: PendingEvent,
  payload: string,
  error: string,
): Promise<void> {
  await db.query(
    `update stripe_events set status = 'quarantined', error = $3, payload = jsonb_build_object('sealed', $4::text),
       next_attempt_at = null, processed_at = lockstep_now()
     where tenant_id = $1 and id = $2`,
    [tenantId, id, error, cipher.seal(payload, payloadContext(tenantId, id))],
  )
}

/** Puts an event back into the inbox, whatever became of it before; one that nothing is to be done about rests. Answers false when there is none. */
export async function reopenEvent(db: Db, tenantId: string, id: string): Promise<boolean> {
  const rows = await db.query(
    `update stripe_events set status = case status when 'ignored' then status else 'pending' end, outcome = null, error = null,
       attempts = 0, next_attempt_at = null, processed_at = case status when 'ignored' then processed_at end
     where tenant_id = $1 and id = $2 and status <> 'quarantined' returning id`,
    [tenantId, id],
  )
  return rows.length === 1
}

/**
 * The inbox in figures: how many wait, filed or not, how many were given up, and the age of the oldest that waits, in seconds.
 */
export async function inboxFigures(db: Db): Promise<{ pending: number; failed: number; oldestSeconds: number }> {
  const rows = await db.query<{ pending: number; failed: number; oldestSeconds: number | null }>(
    `select coalesce(sum(count) filter (where status = 'pending'), 0)::int as pending,
            coalesce(sum(count) filter (where status = 'failed'), 0)::int as failed,
            extract(epoch from lockstep_now() - min(received_at) filter (where status = 'pending'))::float8 as "oldestSeconds"
     from (
       select status, 1 as count, received_at from stripe_events where status in ('pending', 'failed')
       union all
       select 'pending', count, received_at from delivery_batches
     ) as waiting`,
  )
  const row = rows[0]
  return { pending: row?.pending ?? 0, failed: row?.failed ?? 0, oldestSeconds: row?.oldestSeconds ?? 0 }
}

/** Which of these events the inbox has on file. */
export async function findKnownEvents(db: Db, tenantId: string, ids: string[]): Promise<Set<string>> {
  const rows = await db.query<{ id: string }>(
    `select e.id from unnest($2::text[]) as given (id) cross join lateral (
       select id from stripe_events where tenant_id = $1 and id = given.id offset 0
     ) as e`,
    [tenantId, ids],
  )
  return new Set(rows.map((row) => row.id))
}

/** The latest snapshots of a customer since `since`, newest first; at most 100. */
export async function findEventsOfCustomer(
  db: Db,
  cipher: Cipher,
  tenantId: string,
  stripeCustomerId: string,
  since: Date,
): Promise<Pick<PendingEvent, 'payload' | 'created'>[]> {
  const rows = await db.query<Pick<PendingEvent, 'id' | 'payload' | 'created'>>(
    `select id, payload, created from stripe_events
     where tenant_id = $1 and stripe_customer_id = $2 and created >= $3 and status not in ('ignored', 'quarantined')
     order by created desc, id desc limit 100`,
    [tenantId, stripeCustomerId, since],
  )
  return rows.map(({ id, payload, created }) => ({
    created,
    payload: openPayload(cipher, tenantId, id, payload) as EventPayload,
  }))
}

/** Empties what the inbox holds of a person: the payloads of all events of the Stripe customers that the user ever had. */
export async function emptyPayloads(db: Statements, tenantId: string, userId: string): Promise<void> {
  await db.query(
    `update stripe_events set payload = '{}'
     where tenant_id = $1::uuid and payload <> '{}' and stripe_customer_id in (
       select stripe_customer_id from stripe_links where tenant_id = $1::uuid and user_id = $2::uuid)`,
    [tenantId, userId],
  )
}

/** A payload as it is sealed, and whose it is. */
export interface PayloadPlace {
  tenantId: string
  id: string
  sealed: string
}

/** Up to `limit` payloads that another key than this one seals, after the event `after`, across tenants. */
export async function findPayloadsSealedOtherwise(
  db: Statements,
  keyId: string,
  after: Omit<PayloadPlace, 'sealed'> | null,
  limit: number,
): Promise<PayloadPlace[]> {
  return db.query<PayloadPlace>(
    `select tenant_id as "tenantId", id, payload ->> 'sealed' as sealed from stripe_events
     where payload ? 'sealed' and substr(payload ->> 'sealed', 4, 16) <> $1
       and ($2::uuid is null or (tenant_id, id) > ($2::uuid, $3::text))
     order by tenant_id, id limit $4`,
    [keyId, after?.tenantId ?? null, after?.id ?? null, limit],
  )
}

/** Replaces a sealed payload if it still is as it was. Answers whether it was. */
export async function replacePayload(db: Statements, place: PayloadPlace, sealed: string): Promise<boolean> {
  const rows = await db.query(
    `update stripe_events set payload = jsonb_build_object('sealed', $4::text)
     where tenant_id = $1::uuid and id = $2 and payload ->> 'sealed' = $3 returning id`,
    [place.tenantId, place.id, place.sealed, sealed],
  )
  return rows.length === 1
}
