import type { Cipher } from '../lib/cipher.js'
import { ConflictError, NotFoundError } from '../lib/errors.js'
import { isId, newId } from '../lib/ids.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import type { NewTenantInput, TenantQuery, TenantView } from '../models/dtos/tenant.dto.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import { statementsOf } from '../repositories/database.js'
import { DatabaseError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import {
  findTenantRecord,
  insertTenant,
  listTenantRecords,
  lockTenantRecord,
  renameTenant,
  TENANT_ORDER,
} from '../repositories/tenant-records.js'
import { toTenant } from './tenant-view.js'

export type TenantService = ReturnType<typeof makeTenantService>

/**
 * The tenants of the installation, for its operators. Throws `ValidationError`, `NotFoundError`, `ConflictError` and `DatabaseError`.
 *
 * @param makeFirstKey makes the admin key of a new tenant, in the transaction of `tx`; answers the key
 */
export function makeTenantService(deps: {
  prisma: PrismaClient
  cipher: Cipher
  platformLivemode: boolean
  makeFirstKey(tx: PrismaDb, by: Actor): Promise<string>
}) {
  const { prisma, cipher } = deps
  return {
    /**
     * Makes a tenant and its first key, both or neither. `adminKey` is the only copy there will ever be.
     *
     * @throws {ConflictError} `tenant_exists` for a slug that is taken.
     */
    async create(by: Actor, input: NewTenantInput): Promise<{ tenant: TenantView; adminKey: string }> {
      const { slug, name } = input
      const id = newId()
      const own = { ...by, tenantId: id }
      const adminKey = await inTransaction(prisma, async (tx) => {
        await insertTenant(statementsOf(tx), { id, slug, name, livemode: deps.platformLivemode })
        await writeAudit(tx, own, { action: 'tenant.create', entity: 'tenant', entityId: id, changes: { slug, name } })
        return deps.makeFirstKey(tx, own)
      }).catch((error: unknown) => {
        if (!(error instanceof DatabaseError && error.isUniqueViolation)) throw error
        throw new ConflictError(`There is a tenant '${slug}' already; choose another slug.`, 'tenant_exists')
      })
      return { tenant: await this.get(id), adminKey }
    },

    async get(id: string): Promise<TenantView> {
      const tenant = isId(id) ? await findTenantRecord(statementsOf(prisma), id) : null
      if (tenant === null) throw new NotFoundError('tenant', id)
      return toTenant(cipher, tenant)
    },

    /** A page of tenants, newest first. */
    async list({ limit = DEFAULT_LIMIT, cursor }: TenantQuery): Promise<Page<TenantView>> {
      const after = cursor === undefined ? null : decodeCursor(cursor, TENANT_ORDER, isId)
      const page = await listTenantRecords(statementsOf(prisma), { limit, after })
      return { ...page, data: page.data.map((tenant) => toTenant(cipher, tenant)) }
    },

    /** Gives a tenant another name. */
    async rename(by: Actor, id: string, name: string): Promise<TenantView> {
      if (!isId(id)) throw new NotFoundError('tenant', id)
      await inTransaction(prisma, async (tx) => {
        const db = statementsOf(tx)
        const tenant = await lockTenantRecord(db, id)
        if (tenant === null) throw new NotFoundError('tenant', id)
        if (tenant.name === name) return
        await renameTenant(db, id, name)
        const changes = { name: { from: tenant.name, to: name } }
        await writeAudit(
          tx,
          { ...by, tenantId: id },
          { action: 'tenant.rename', entity: 'tenant', entityId: id, changes },
        )
      })
      return this.get(id)
    },
  }
}
