import type { Db } from './database.js'

const BATCH = 5_000

/** What nobody needs any more, and for how long it was kept. Each in small batches, so that no lock is held for long. */
const EXPIRED = {
  // Answers for `Idempotency-Key`, as long as Stripe keeps its own.
  idempotencyKeys: `delete from idempotency_keys where (tenant_id, key) in (
    select tenant_id, key from idempotency_keys where created_at < lockstep_now() - interval '24 hours' limit $1)`,
  // Stripe forgets events after 30 days, so later none can name our write; ten days of slack for replays.
  stripeWrites: `delete from stripe_writes where idempotency_key in (
    select idempotency_key from stripe_writes where started_at < lockstep_now() - interval '40 days' limit $1)`,
  rateLimits: `delete from rate_limits where key in (
    select key from rate_limits where expire < extract(epoch from now()) * 1000 - 3600000 limit $1)`,
} as const

/** Deletes what has expired. Answers how many rows of each kind went. */
export async function removeExpired(db: Db): Promise<Record<keyof typeof EXPIRED, number>> {
  const removed = { idempotencyKeys: 0, stripeWrites: 0, rateLimits: 0 }
  for (const kind of Object.keys(EXPIRED) as (keyof typeof EXPIRED)[]) {
    for (;;) {
      const rows = await db.query(`${EXPIRED[kind]} returning 1`, [BATCH])
      removed[kind] += rows.length
      if (rows.length < BATCH) break
    }
  }
  return removed
}
