import type { Clock } from '../lib/clock.js'
import { NotFoundError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { toCustomer } from '../models/dtos/customer.dto.js'
import { PERSONAL_EXPORT_FORMAT } from '../models/dtos/personal-export.dto.js'
import { type Actor, recordAudit } from '../repositories/audit-log.js'
import { findLosers } from '../repositories/customer-merges.js'
import { findDeletion } from '../repositories/customer-state-changes.js'
import { findCustomer } from '../repositories/customers.js'
import type { Db } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { piecesAsTenant } from '../repositories/isolation.js'
import {
  findStripeCustomerIds,
  findWholeState,
  PERSONAL_SECTIONS,
  type PersonalSection,
  readSection,
} from '../repositories/personal-data.js'
import type { Vault } from '../repositories/vault.js'

export type PersonalExportService = ReturnType<typeof makePersonalExportService>

/** All that is held about one person, as one JSON file. Throws `NotFoundError` and `DatabaseError`. */
export function makePersonalExportService({
  db,
  vault,
  prisma,
  clock,
}: {
  db: Db
  vault: Vault
  prisma: PrismaClient
  clock: Clock
}) {
  return {
    /**
     * Notes in the audit log that the data was asked for, and answers the file in pieces. Each is a page of records at most, read
     * when the one before was taken: however much is held, little of it is in memory. Of one whose row another program deleted it is what is left.
     */
    async open(by: Actor, id: string): Promise<AsyncIterable<string>> {
      const { tenantId } = by
      const row = isId(id) ? await findCustomer(prisma, tenantId, id) : null
      const isKnown = row !== null || (isId(id) && (await findDeletion(prisma, tenantId, id)) !== null)
      if (!isKnown) throw new NotFoundError('customer', id)
      const customerId = id.toLowerCase()
      const merged = await findLosers(prisma, tenantId, customerId)
      const customerIds = [customerId, ...merged]
      const person = {
        tenantId,
        customerIds,
        stripeCustomerIds: await findStripeCustomerIds(db, tenantId, customerIds),
      }
      const head = {
        format: PERSONAL_EXPORT_FORMAT,
        exportedAt: new Date(clock.now()).toISOString(),
        customer: row === null ? null : toCustomer(row.user, row.sync),
        fieldTimes: row?.user.fieldTimes ?? {},
        sync: await findWholeState(db, tenantId, customerId),
      }
      await recordAudit(db, by, { action: 'customer.export', entity: 'customer', entityId: customerId, changes: null })
      return piecesAsTenant(tenantId, pieces())

      async function* pieces(): AsyncGenerator<string> {
        yield `${JSON.stringify(head).slice(0, -1)},"merged":[`
        let comma = ''
        for (const loserId of merged) {
          const loser = await findCustomer(prisma, tenantId, loserId)
          if (loser === null) continue
          yield comma + JSON.stringify(toCustomer(loser.user, loser.sync))
          comma = ','
        }
        yield ']'
        for (const section of Object.keys(PERSONAL_SECTIONS) as PersonalSection[]) {
          yield `,"${section}":[`
          let separator = ''
          for await (const page of readSection(db, vault, section, person)) {
            yield separator + page.map((record) => JSON.stringify(record)).join(',')
            separator = ','
          }
          yield ']'
        }
        yield '}\n'
      }
    },
  }
}
