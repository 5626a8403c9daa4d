import { ConflictError } from '../lib/errors.js'
import { DatabaseError } from './errors.js'
import { Prisma } from './generated/client.js'
import { LOCK_NOT_AVAILABLE, type PrismaDb } from './prisma.js'

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
  tx: PrismaDb,
  tenantId: string,
  { key, fingerprint }: IdempotencyKey,
): Promise<StoredAnswer | null> {
  const expiry = Prisma.sql`lockstep_now() - ${IDEMPOTENCY_HOURS} * interval '1 hour'`
  await tx.$executeRaw`
    delete from idempotency_keys where tenant_id = ${tenantId}::uuid and key = ${key} and created_at < ${expiry}`
  if (await insertKey(tx, tenantId, key, fingerprint)) return null

  const stored = await tx.idempotencyKey.findUnique({ where: { tenantId_key: { tenantId, key } } })
  if (stored === null || stored.status === null) throw inUse()
  if (stored.fingerprint !== fingerprint) {
    throw new ConflictError(
      'This Idempotency-Key came with another request before. Send the same request, or a new key.',
      'idempotency_key_reused',
    )
  }
  return { status: stored.status, body: stored.body }
}

/** Keeps the answer under a key that {@link takeIdempotencyKey} took in the same transaction. */
export async function keepAnswer(tx: PrismaDb, tenantId: string, key: string, answer: StoredAnswer): Promise<void> {
  await tx.idempotencyKey.update({
    where: { tenantId_key: { tenantId, key } },
    data: { status: answer.status, body: answer.body as Prisma.InputJsonValue },
    select: { key: true },
  })
}

/** Puts `body` in place of the kept answers about one customer: an erased person must not live on in them. */
export async function replaceAnswers(tx: PrismaDb, tenantId: string, customerId: string, body: unknown): Promise<void> {
  await tx.idempotencyKey.updateMany({
    where: { tenantId, body: { path: ['id'], equals: customerId } },
    data: { body: body as Prisma.InputJsonValue },
  })
}

/** A key that another open transaction holds blocks here until that one ends, or the wait is over. */
async function insertKey(tx: PrismaDb, tenantId: string, key: string, fingerprint: string): Promise<boolean> {
  try {
    await tx.$executeRaw`select set_config('lock_timeout', ${IN_FLIGHT_WAIT}, true)`
    const added = await tx.$executeRaw`
      insert into idempotency_keys (tenant_id, key, fingerprint) values (${tenantId}::uuid, ${key}, ${fingerprint})
      on conflict do nothing`
    await tx.$executeRaw`select set_config('lock_timeout', '0', true)`
    return added === 1
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
