import type { StripeWrite } from '../models/sync-state.js'
import type { FieldValue } from '../models/synced-fields.js'
import type { Db, Statements } from './database.js'
import { isSealed, type PersonSeal, type Vault } from './vault.js'

/** Where the values of a write belong: each is sealed by itself with its person's key, so that what was sent is erased with them. */
const PLACES = { held: 'stripe_writes.held', sent: 'stripe_writes.sent' } as const

/** The columns of a {@link StripeWrite}, under its names. */
const COLUMNS = `idempotency_key as "idempotencyKey", user_id as "userId", stripe_customer_id as "stripeCustomerId", kind,
  held, sent, disowned, outcome, started_at as "startedAt", settled_at as "settledAt"`

/** Stores a write before it is made, sealed for its person. Storing it again (a create that is sent again) changes nothing. */
export async function insertWrite(
  db: Db,
  seal: PersonSeal,
  write: {
    idempotencyKey: string
    tenantId: string
    userId: string
    stripeCustomerId: string | null
    kind: StripeWrite['kind']
    leaseToken: number
    held: Record<string, FieldValue> | null
    sent: Record<string, FieldValue>
  },
): Promise<void> {
  await db.query(
    `insert into stripe_writes (idempotency_key, tenant_id, user_id, stripe_customer_id, kind, lease_token, held, sent)
     values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (idempotency_key) do nothing`,
    [
      write.idempotencyKey,
      write.tenantId,
      write.userId,
      write.stripeCustomerId,
      write.kind,
      write.leaseToken,
      write.held === null ? null : JSON.stringify(sealedValues(seal, write.held, PLACES.held)),
      JSON.stringify(sealedValues(seal, write.sent, PLACES.sent)),
    ],
    'insert-write',
  )
}

/** The write that an event names as its cause, or null when it is not ours. */
export async function findWrite(
  db: Db,
  vault: Vault,
  tenantId: string,
  idempotencyKey: string,
): Promise<StripeWrite | null> {
  const rows = await db.query<StripeWrite>(
    `select ${COLUMNS} from stripe_writes where tenant_id = $1 and idempotency_key = $2`,
    [tenantId, idempotencyKey],
  )
  const [write] = await opened(db, vault, tenantId, rows)
  return write ?? null
}

/**
 * Writes of the user whose answer never came in, oldest first: what they set may be in Stripe without our having seen it, for as
 * long as Stripe can tell of it.
 */
export async function findUnsettledWrites(
  db: Db,
  vault: Vault,
  tenantId: string,
  userId: string,
): Promise<StripeWrite[]> {
  const rows = await db.query<StripeWrite>(
    `select ${COLUMNS} from stripe_writes
     where tenant_id = $1 and user_id = $2 and settled_at is null and started_at > lockstep_now() - interval '30 days'
     order by started_at, idempotency_key`,
    [tenantId, userId],
  )
  return opened(db, vault, tenantId, rows)
}

/**
 * What became of the write is known: `answered`, its effect is in what we hold; `refused`, it certainly had none.
 * A write that was answered stays so.
 */
export async function settleWrite(
  db: Db,
  tenantId: string,
  idempotencyKey: string,
  outcome: 'answered' | 'refused',
  stripeCustomerId: string | null = null,
): Promise<void> {
  await db.query(
    `update stripe_writes set settled_at = lockstep_now(), outcome = $3,
       stripe_customer_id = coalesce(stripe_customer_id, $4)
     where tenant_id = $1 and idempotency_key = $2 and settled_at is null`,
    [tenantId, idempotencyKey, outcome, stripeCustomerId],
    'settle-write',
  )
}

/**
 * These fields were set since by another than the user's writes without an answer, or by a later one: what Stripe holds of them is
 * not theirs, but what an event says otherwise.
 *
 * @param minAgeMs writes younger than this may still be on their way, and are left
 * @param seenAt as of when, by Stripe's clock, those fields were seen in Stripe: of a write that was sent later that says nothing
 */
export async function disownUnsettled(
  db: Db,
  tenantId: string,
  userId: string,
  paths: string[],
  minAgeMs: number,
  seenAt: Date | null = null,
): Promise<void> {
  await db.query(
    `update stripe_writes set disowned = disowned || $3::text[]
     where tenant_id = $1 and user_id = $2 and settled_at is null
       and started_at <= lockstep_now() - $4 * interval '1 millisecond'
       and ($5::timestamptz is null or started_at <= $5)`,
    [tenantId, userId, paths, minAgeMs, seenAt],
  )
}

/** Someone else has set these fields since: what Stripe holds of them is not this write's. */
export async function disownFields(db: Db, tenantId: string, idempotencyKey: string, paths: string[]): Promise<void> {
  await db.query(
    'update stripe_writes set disowned = disowned || $3::text[] where tenant_id = $1 and idempotency_key = $2',
    [tenantId, idempotencyKey, paths],
  )
}

/** The values of a write as they are kept; of nothing there is nothing to hide. */
function sealedValues(seal: PersonSeal, values: Record<string, FieldValue>, place: string): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).map(([path, value]) => [path, seal.seal(value, place)]))
}

/** The values again, also those that were kept before they were sealed. What nobody can read any more is left out. */
function openedValues(
  seal: PersonSeal | undefined,
  stored: Record<string, unknown>,
  place: string,
): Record<string, FieldValue> {
  const readable = Object.entries(stored).filter(([, value]) => !isSealed(value) || seal?.isReadable === true)
  return Object.fromEntries(
    readable.map(([path, value]) => [path, (isSealed(value) ? seal?.open(value, place) : value) as FieldValue]),
  )
}

/** What the person's seal opens of a write, as {@link StripeWrite} has it. */
export function openWriteValues(
  seal: PersonSeal | undefined,
  { held, sent }: { held: unknown; sent: unknown },
): Pick<StripeWrite, 'held' | 'sent'> {
  return {
    held: held === null ? null : openedValues(seal, held as Record<string, unknown>, PLACES.held),
    sent: openedValues(seal, sent as Record<string, unknown>, PLACES.sent),
  }
}

async function opened(db: Statements, vault: Vault, tenantId: string, rows: StripeWrite[]): Promise<StripeWrite[]> {
  if (rows.length === 0) return rows
  const seals = await vault.people(db, tenantId, [...new Set(rows.map(({ userId }) => userId))])
  return rows.map((row) => ({ ...row, ...openWriteValues(seals.get(row.userId), row) }))
}
