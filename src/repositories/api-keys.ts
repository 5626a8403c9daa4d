import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** How often `last_used_at` is written for a key, in milliseconds: a write per request would cost more than it tells. */
const LAST_USED_STEP = 60_000

/** The order of the list of keys, as its cursors name it. */
export const API_KEY_ORDER = '-createdAt'

/** A row of `api_keys`. The key itself is not kept, only its SHA-256. */
export interface ApiKeyRow {
  id: string
  tenantId: string
  name: string
  prefix: string
  hash: string
  role: string
  /** The only permissions; empty: all of the role. */
  scopes: string[]
  expiresAt: Date | null
  revokedAt: Date | null
  lastUsedAt: Date | null
  createdAt: Date
}

/** What a new key's row is made of. */
export type NewApiKey = Pick<ApiKeyRow, 'tenantId' | 'name' | 'prefix' | 'hash' | 'role' | 'scopes' | 'expiresAt'>

/** The key with this hash, of whatever tenant: it is the key that says which tenant asks. */
export async function findApiKeyByHash(prisma: PrismaDb, hash: string): Promise<ApiKeyRow | null> {
  return prisma.apiKey.findUnique({ where: { hash } })
}

/** Adds a key. Throws `DatabaseError` with `isUniqueViolation` when the same key is there. */
export async function insertApiKey(prisma: PrismaDb, key: NewApiKey): Promise<ApiKeyRow> {
  return prisma.apiKey.create({ data: key })
}

/** The tenant's key, live or not. */
export async function findApiKey(prisma: PrismaDb, tenantId: string, id: string): Promise<ApiKeyRow | null> {
  return prisma.apiKey.findFirst({ where: { id, tenantId } })
}

/** A page of the tenant's keys, newest first, those that ended too. */
export async function listApiKeys(
  prisma: PrismaDb,
  tenantId: string,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<ApiKeyRow>> {
  const beyond =
    after === null
      ? Prisma.empty
      : Prisma.sql`and (k.created_at, k.id) < (${after.value}::timestamptz, ${after.id}::uuid)`
  const rows = await prisma.$queryRaw<(ApiKeyRow & { cursorValue: string })[]>`
    select k.id, k.tenant_id as "tenantId", k.name, k.prefix, k.hash, k.role, k.scopes, k.expires_at as "expiresAt",
      k.revoked_at as "revokedAt", k.last_used_at as "lastUsedAt", k.created_at as "createdAt",
      to_char(k.created_at at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "cursorValue"
    from api_keys k where k.tenant_id = ${tenantId}::uuid ${beyond}
    order by k.created_at desc, k.id desc limit ${limit + 1}`
  const page = pageOf(rows, limit, API_KEY_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => row) }
}

/** Lets a key end at `at`. */
export async function expireApiKey(prisma: PrismaDb, tenantId: string, id: string, at: Date): Promise<void> {
  await prisma.apiKey.updateMany({ where: { id, tenantId }, data: { expiresAt: at } })
}

/** Ends a key. Answers whether the tenant had it and it was live. */
export async function revokeApiKey(prisma: PrismaDb, tenantId: string, id: string, now: Date): Promise<boolean> {
  const { count } = await prisma.apiKey.updateMany({
    where: { id, tenantId, revokedAt: null },
    data: { revokedAt: now },
  })
  return count === 1
}

/** Notes that the key was used, to the minute. */
export async function touchApiKey(prisma: PrismaDb, tenantId: string, id: string, now: Date): Promise<void> {
  const stale = new Date(now.getTime() - LAST_USED_STEP)
  const unused: Prisma.ApiKeyWhereInput = { OR: [{ lastUsedAt: null }, { lastUsedAt: { lt: stale } }] }
  await prisma.apiKey.updateMany({ where: { id, tenantId, ...unused }, data: { lastUsedAt: now } })
}
