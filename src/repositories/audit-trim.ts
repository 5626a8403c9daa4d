import { removeOldEntries } from './audit-chain.js'
import { recordAudit } from './audit-log.js'
import type { Db } from './database.js'

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
