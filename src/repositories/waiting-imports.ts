import type { Statements } from './database.js'

/**
 * The oldest uploaded import that nobody is at; null when there is none. Apart from the other statements about imports, which come with
 * Prisma: every worker asks this each second, and few ever have an import.
 */
export async function findWaitingImport(db: Statements): Promise<{ id: string; tenantId: string } | null> {
  const rows = await db.query<{ id: string; tenantId: string }>(
    `select id, tenant_id as "tenantId" from imports
     where status in ('queued', 'running') and source = 'api'
       and (lease_expires_at is null or lease_expires_at <= lockstep_now())
     order by created_at limit 1`,
  )
  return rows[0] ?? null
}
