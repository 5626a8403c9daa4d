import type { Db } from './database.js'

/** What nobody needs any more, and for how long it was kept. Each in batches, so that no lock is held for long. */
const EXPIRED = {
  // Answers for `Idempotency-Key`, as long as Stripe keeps its own.
  idempotencyKeys: {
    batch: 5_000,
    sql: `delete from idempotency_keys where (tenant_id, key) in (
      select tenant_id, key from idempotency_keys where created_at < lockstep_now() - interval '24 hours' limit $1)`,
  },
  // Stripe forgets events after 30 days, so later none can name our write; ten days of slack for replays.
  stripeWrites: {
    batch: 5_000,
    sql: `delete from stripe_writes where idempotency_key in (
      select idempotency_key from stripe_writes where started_at < lockstep_now() - interval '40 days' limit $1)`,
  },
  rateLimits: {
    batch: 5_000,
    sql: `delete from rate_limits where key in (
      select key from rate_limits where expire < extract(epoch from now()) * 1000 - 3600000 limit $1)`,
  },
  stripePaces: {
    batch: 5_000,
    sql: `delete from stripe_pace where account in (
      select account from stripe_pace where updated_at < lockstep_now() - interval '1 day' limit $1)`,
  },
  // Files that nobody sends any more: the process that took them ended before it could remove them.
  uploads: {
    batch: 20,
    sql: `delete from imports where id in (
      select id from imports where status = 'uploading' and created_at < lockstep_now() - interval '2 hours' limit $1)`,
  },
  // With up to 100,000 refused lines each. Where the tenant says for how long, its retention policy sees to them.
  imports: {
    batch: 20,
    sql: `delete from imports where id in (
      select i.id from imports i join tenants t on t.id = i.tenant_id
      where i.finished_at < lockstep_now() - interval '30 days'
        and t.settings #>> '{retention,importsAfterDays}' is null limit $1)`,
  },
  // Of a command that was interrupted, and that nobody went on with.
  abandonedImports: {
    batch: 20,
    sql: `delete from imports where id in (
      select id from imports
      where source = 'cli' and status in ('queued', 'running') and created_at < lockstep_now() - interval '30 days'
        and (lease_expires_at is null or lease_expires_at <= lockstep_now()) limit $1)`,
  },
} as const

/** Deletes what has expired. Answers how many rows of each kind went. */
export async function removeExpired(db: Db): Promise<Record<string, number>> {
  const removed: Record<string, number> = {}
  for (const [kind, { sql, batch }] of Object.entries(EXPIRED)) {
    let count = 0
    for (;;) {
      const rows = await db.query(`${sql} returning 1`, [batch])
      count += rows.length
      if (rows.length < batch) break
    }
    removed[kind] = count
  }
  return removed
}
