import { stringify } from 'csv-stringify/sync'
import { LockstepError } from '../lib/errors.js'
import { newId } from '../lib/ids.js'
import type { Customer, CustomerQuery } from '../models/dtos/customer.dto.js'
import type { ExportQuery } from '../models/dtos/import.dto.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { findMetadataKeys } from '../repositories/customers.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { piecesAsTenant } from '../repositories/isolation.js'
import { inTransaction } from '../repositories/prisma.js'
import type { CustomerService } from './customer.service.js'
import { cellsOf, headerOf } from './customer-columns.js'

/** Customers that are read, and written, at a time. */
const PAGE = 500
/** How many metadata keys have a column of their own, those that most customers have. */
const METADATA_COLUMNS = 100

/** The server stops, and the file is not complete. */
export class ExportStoppedError extends LockstepError {
  constructor() {
    super('The service is being stopped; start the export again.', { code: 'export_stopped', retryable: true })
  }
}

export type ExportService = ReturnType<typeof makeExportService>

/** Customers as a file that an import reads. */
export function makeExportService({
  prisma,
  customers,
}: {
  prisma: PrismaClient
  customers: Pick<CustomerService, 'list'>
}) {
  return {
    /**
     * The customers that the query finds, oldest first, as pieces of a file; the next are read when the last was taken. That it was
     * asked for is in the audit log before anything is given away, and how much was given when it ends, however it ends. A
     * customer that is added meanwhile is in it; each is as it is when its turn comes.
     *
     * @throws {ValidationError} before the first piece, for a filter that cannot be.
     * @throws {ExportStoppedError} when `signal` aborts.
     */
    async start(by: Actor, query: ExportQuery, signal: AbortSignal): Promise<AsyncGenerator<string>> {
      const { format = 'csv', ...filters } = query
      const id = newId()
      const about = { format, filters: Object.keys(filters).sort() }
      const first = await page(by.tenantId, filters)
      const keys = format === 'csv' ? await findMetadataKeys(prisma, by.tenantId, METADATA_COLUMNS) : []
      await note('export.start', about)

      async function note(action: string, changes: Parameters<typeof writeAudit>[2]['changes']): Promise<void> {
        await inTransaction(prisma, (tx) => writeAudit(tx, by, { action, entity: 'export', entityId: id, changes }))
      }

      async function* pieces(): AsyncGenerator<string> {
        let count = 0
        let isComplete = false
        try {
          if (format === 'csv') yield csv([headerOf(keys)])
          for (let now = first; ; ) {
            if (signal.aborted) throw new ExportStoppedError()
            if (now.data.length > 0) {
              const rows = now.data
              count += rows.length
              yield format === 'csv' ? csv(rows.map((row) => cellsOf(row, keys))) : rows.map(jsonLineOf).join('')
            }
            if (now.nextCursor === null) break
            now = await page(by.tenantId, filters, now.nextCursor)
          }
          isComplete = true
        } finally {
          await note('export.finish', { ...about, count, isComplete })
        }
      }
      return piecesAsTenant(by.tenantId, pieces())
    },
  }

  async function page(tenantId: string, filters: Omit<ExportQuery, 'format'>, cursor?: string) {
    const query: CustomerQuery = { ...filters, sort: 'createdAt', limit: PAGE }
    return customers.list(tenantId, cursor === undefined ? query : { ...query, cursor }, true)
  }
}

/** RFC 4180, with the line ends that it asks for. */
function csv(rows: string[][]): string {
  return stringify(rows, { record_delimiter: 'windows', quoted_match: /[\r\n]|^\s|\s$/ })
}

function jsonLineOf(customer: Customer): string {
  const { id, state, type, email, phone, firstName, lastName, description, locale, address, shipping, metadata } =
    customer
  const line = { id, state, type, email, phone, firstName, lastName, description, locale, address, shipping, metadata }
  return `${JSON.stringify(line)}\n`
}
