import { type ChainHead, removeOldEntries } from './audit-chain.js'
import { recordAudit } from './audit-log.js'
import type { Db, Statements } from './database.js'

/**
 * Removes up to `limit` of the tenant's chained entries from before a time, oldest first, and records in the log that it did. What
 * is left stays verifiable. Answers how many were removed: fewer than `limit` when no more are that old.
 *
 * @throws {ConflictError} `audit_chain_broken` when what would go is not what was chained.
 */
export function trimAudit(db: Db, tenantId: string, before: Date, actor: string, limit: number): Promise<number> {
  return db.transaction(async (tx) => {
    const { removed, checkpoint } = await removeOldEntries(tx, tenantId, before, limit)
    if (removed === 0 || checkpoint === null) return removed
    await recordAudit(
      tx,
      { tenantId, actor, requestId: null, ip: null },
      {
        action: 'audit.trim',
        entity: 'audit',
        entityId: tenantId,
        changes: {
          before: before.toISOString(),
          removed,
          throughSeq: checkpoint.seq,
          throughHash: checkpoint.hash.toString('hex'),
        },
      },
    )
    return removed
  })
}

/** Who removed the entries up to a checkpoint, and when, as the log has it. */
export interface AuditTrim {
  actor: string
  at: Date
}

/** The entry by which {@link trimAudit} recorded that it removed all up to this checkpoint; null when the log has none. */
export async function findTrim(db: Statements, tenantId: string, checkpoint: ChainHead): Promise<AuditTrim | null> {
  const rows = await db.query<AuditTrim>(
    `select actor, at from audit_log
     where tenant_id = $1::uuid and action = 'audit.trim' and changes @> jsonb_build_object('throughSeq', $2::bigint, 'throughHash', $3::text)
     order by at desc limit 1`,
    [tenantId, checkpoint.seq, checkpoint.hash.toString('hex')],
  )
  return rows[0] ?? null
}
