import { isId } from '../lib/ids.js'
import { timeOf } from '../lib/times.js'
import type { AuditEntry, AuditQuery } from '../models/dtos/audit.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import { AUDIT_ORDER, listAudit } from '../repositories/audit-entries.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import type { Vault } from '../repositories/vault.js'

export type AuditService = ReturnType<typeof makeAuditService>

/** Reads the audit log. Throws `ValidationError` for a made-up cursor or time. */
export function makeAuditService({ prisma, vault }: { prisma: PrismaClient; vault: Vault }) {
  return {
    /** A page of the tenant's entries, newest first. */
    async list(tenantId: string, query: AuditQuery): Promise<Page<AuditEntry>> {
      const { limit = DEFAULT_LIMIT, cursor, from, to, ...rest } = query
      const after = cursor === undefined ? null : decodeCursor(cursor, AUDIT_ORDER, isId)
      const filter = {
        ...rest,
        ...(from === undefined ? {} : { from: timeOf('from', from) }),
        ...(to === undefined ? {} : { to: timeOf('to', to) }),
      }
      const page = await listAudit(prisma, vault, tenantId, filter, { limit, after })
      return {
        ...page,
        data: page.data.map((row) => ({
          ...row,
          at: row.at.toISOString(),
          seq: row.seq === null ? null : Number(row.seq),
        })),
      }
    },
  }
}
