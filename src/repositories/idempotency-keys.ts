import { ConflictError } from '../lib/errors.js'
import type { Statements } from './database.js'
import { DatabaseError, LOCK_NOT_AVAILABLE } from './errors.js'
import type { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** How long an answer is kept, in hours; as long as Stripe keeps its own. */
export const IDEMPOTENCY_HOURS = 24

/** How long a request waits for another one with the same key before it is told to come back. */
const IN_FLIGHT_WAIT = '1s'

/** A client's name for one request, and the hash of what it asked. */
export interface IdempotencyKey {
  key: string
  fingerprint: string
}

/** An answer given before. */
export interface StoredAnswer {
  status: number
  body: unknown
}

/**
 * Takes the key within the transaction that does the work, so that the work and its key are kept together or not at
 * all. Answers null when the key is new, or the answer that its first request got.
 *
 * @throws {ConflictError} `idempotency_key_reused` when it came with another body, `idempotency_key_in_use` when the first
 *   request has not ended after a second.
 */
export async function takeIdempotencyKey(
  db: Statements,
  tenantId: string,
  { key, fingerprint }: IdempotencyKey,
): Promise<StoredAnswer | null> {
  await db.query(
    `delete from idempotency_keys
     where tenant_id = $1::uuid and key = $2 and created_at < lockstep_now() - ${IDEMPOTENCY_HOURS} * interval '1 hour'`,
    [tenantId, key],
  )
  if (await insertKey(db, tenantId, key, fingerprint)) return null

  const [stored] = await db.query<{ fingerprint: string; status: number | null; body: unknown }>(
    'select fingerprint, status, body from idempotency_keys where tenant_id = $1::uuid and key = $2',
    [tenantId, key],
  )
  if (stored === undefined || stored.status === null) throw inUse()
  if (stored.fingerprint !== fingerprint) {
    throw new ConflictError(
      'This Idempotency-Key came with another request before. Send the same request, or a new key.',
      'idempotency_key_reused',
    )
  }
  return { status: stored.status, body: stored.body }
}

/** Keeps the answer under a key that {@link takeIdempotencyKey} took in the same transaction. */
export async function keepAnswer(db: Statements, tenantId: string, key: string, answer: StoredAnswer): Promise<void> {
  await db.query('update idempotency_keys set status = $3, body = $4::jsonb where tenant_id = $1::uuid and key = $2', [
    tenantId,
    key,
    answer.status,
    JSON.stringify(answer.body),
  ])
}

/** Puts `body` in place of the kept answers about one customer: an erased person must not live on in them. */
export async function replaceAnswers(tx: PrismaDb, tenantId: string, customerId: string, body: unknown): Promise<void> {
  await tx.idempotencyKey.updateMany({
    where: { tenantId, body: { path: ['id'], equals: customerId } },
    data: { body: body as Prisma.InputJsonValue },
  })
}

/** A key that another open transaction holds blocks here until that one ends, or the wait is over. */
async function insertKey(db: Statements, tenantId: string, key: string, fingerprint: string): Promise<boolean> {
  try {
    await db.query(`select set_config('lock_timeout', $1, true)`, [IN_FLIGHT_WAIT])
    const added = await db.query(
      `insert into idempotency_keys (tenant_id, key, fingerprint) values ($1::uuid, $2, $3)
       on conflict do nothing returning key`,
      [tenantId, key, fingerprint],
    )
    await db.query(`select set_config('lock_timeout', '0', true)`)
    return added.length === 1
  } catch (error) {
    if (error instanceof DatabaseError && error.sqlState === LOCK_NOT_AVAILABLE) throw inUse()
    throw error
  }
}

function inUse(): ConflictError {
  return new ConflictError(
    'A request with this Idempotency-Key is still at work. Send it again in a moment.',
    'idempotency_key_in_use',
  )
}
