import { ConflictError, LockstepError, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId, newId } from '../lib/ids.js'
import {
  type ImportError,
  type ImportPageQuery,
  type Import as ImportView,
  toImport,
} from '../models/dtos/import.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import type { FileFormat, Import, OnMatch } from '../models/import.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import {
  cancelImport,
  deleteUpload,
  findImport,
  IMPORT_ORDER,
  insertChunk,
  insertImport,
  listErrors,
  listImports,
  queueImport,
} from '../repositories/imports.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import { checkHeader } from './import-reader.js'

/** How much of a file is kept in one row, in bytes. */
const CHUNK_BYTES = 256 * 1024

/** What is asked of an import. */
export interface ImportRequest {
  format: FileFormat
  onMatch: OnMatch
  dryRun: boolean
}

/** The file is larger than an upload may be. */
export class FileTooLargeError extends LockstepError {
  /** @param limit in bytes */
  constructor(limit: number) {
    super(`The file has more than ${limit} bytes. Send it in parts, or raise LOCKSTEP_IMPORT_LIMIT.`, {
      code: 'file_too_large',
    })
  }
}

export type ImportService = ReturnType<typeof makeImportService>

/** What people ask of imports of files of customers: taking one in, and watching it. An {@link ImportWorker} goes through them. */
export function makeImportService({ prisma }: { prisma: PrismaClient }) {
  async function find(tenantId: string, id: string): Promise<Import> {
    const row = isId(id) ? await findImport(prisma, tenantId, id) : null
    if (row === null) throw new NotFoundError('import', id)
    return row
  }

  async function add(by: Actor, source: Import['source'], request: ImportRequest): Promise<string> {
    const { tenantId, actor, requestId, ip } = by
    const id = newId()
    await inTransaction(prisma, async (tx) => {
      await insertImport(tx, { id, tenantId, source, ...request, requestedBy: actor, requestId, ip })
      // An upload that breaks off leaves nothing behind.
      if (source === 'cli') await noteStart(tx, by, id, request)
    })
    return id
  }

  return {
    /**
     * Stores a file for a worker to import. Nothing of it is imported unless all of it came through.
     *
     * @param limit of the file, in bytes
     * @throws {ValidationError} `invalid_file` when it is empty, or its header wrong.
     * @throws {FileTooLargeError}
     */
    async upload(
      by: Actor,
      request: ImportRequest,
      file: AsyncIterable<Uint8Array>,
      limit: number,
    ): Promise<ImportView> {
      const pieces = pieced(file, limit)
      const first = await pieces.next()
      if (first.done === true) {
        throw new ValidationError([{ path: 'body', code: 'empty', message: 'is empty' }], 'invalid_file')
      }
      // At once: nobody should wait for a worker to be told of a wrong header.
      if (request.format === 'csv') await checkHeader(first.value)
      const id = await add(by, 'api', request)
      try {
        let bytes = 0
        for (let position = 0, next = first as IteratorResult<Buffer>; next.done !== true; position += 1) {
          await insertChunk(prisma, id, position, new Uint8Array(next.value))
          bytes += next.value.length
          next = await pieces.next()
        }
        return await inTransaction(prisma, async (tx) => {
          const queued = await queueImport(tx, by.tenantId, id, bytes)
          await noteStart(tx, by, id, request)
          return toImport(queued)
        })
      } catch (error) {
        await deleteUpload(prisma, by.tenantId, id)
        throw error
      }
    },

    /** Adds an import of a file that the caller has, for a worker of its own. Answers its id. */
    async start(by: Actor, request: ImportRequest): Promise<string> {
      return add(by, 'cli', request)
    },

    /**
     * Ends an import: it stops at its next batch, what is done stands. One that was cancelled before is answered as it is.
     *
     * @throws {ConflictError} `import_ended` when there is nothing left to stop.
     */
    async cancel(by: Actor, id: string): Promise<ImportView> {
      const { status } = await find(by.tenantId, id)
      if (status === 'uploading') throw new NotFoundError('import', id)
      const cancelled = await inTransaction(prisma, async (tx) => {
        const row = await cancelImport(tx, by.tenantId, id)
        if (row === null) return null
        const changes = { lines: row.lines, ...row.counts }
        await writeAudit(tx, by, { action: 'import.cancel', entity: 'import', entityId: row.id, changes })
        return row
      })
      const row = cancelled ?? (await find(by.tenantId, id))
      if (row.status !== 'cancelled')
        throw new ConflictError(`The import has ${row.status}; it cannot be cancelled any more.`, 'import_ended')
      return toImport(row)
    },

    async get(tenantId: string, id: string): Promise<ImportView> {
      return toImport(await find(tenantId, id))
    },

    /** A page of imports, newest first. Throws ValidationError for a cursor that it did not make. */
    async list(tenantId: string, { limit = DEFAULT_LIMIT, cursor }: ImportPageQuery): Promise<Page<ImportView>> {
      const after = cursor === undefined ? null : decodeCursor(cursor, IMPORT_ORDER, isId)
      const page = await listImports(prisma, tenantId, { limit, after })
      return { ...page, data: page.data.map(toImport) }
    },

    /** A page of the lines that were refused, in the order of the file; of each import the first 100,000 are kept. */
    async errors(
      tenantId: string,
      id: string,
      { limit = DEFAULT_LIMIT, cursor }: ImportPageQuery,
    ): Promise<Page<ImportError>> {
      const { id: importId } = await find(tenantId, id)
      const rows = await listErrors(prisma, importId, cursor === undefined ? 0 : lineOf(cursor), limit + 1)
      const data = rows.slice(0, limit)
      const hasMore = rows.length > limit
      const last = data.at(-1)
      return { data, hasMore, nextCursor: hasMore && last !== undefined ? cursorOf(last.line) : null }
    },
  }
}

async function noteStart(tx: PrismaDb, by: Actor, id: string, request: ImportRequest): Promise<void> {
  await writeAudit(tx, by, { action: 'import.create', entity: 'import', entityId: id, changes: { ...request } })
}

/** Pieces of even size, so that a client that sends byte by byte makes no more rows than another. */
async function* pieced(file: AsyncIterable<Uint8Array>, limit: number): AsyncGenerator<Buffer> {
  let parts: Uint8Array[] = []
  let size = 0
  let total = 0
  for await (const part of file) {
    total += part.length
    if (total > limit) throw new FileTooLargeError(limit)
    parts.push(part)
    size += part.length
    if (size < CHUNK_BYTES) continue
    yield Buffer.concat(parts)
    parts = []
    size = 0
  }
  if (size > 0) yield Buffer.concat(parts)
}

function cursorOf(line: number): string {
  return Buffer.from(`line/${line}`).toString('base64url')
}

function lineOf(cursor: string): number {
  const line = /^line\/(\d{1,9})$/.exec(Buffer.from(cursor, 'base64url').toString())?.[1]
  if (line !== undefined) return Number(line)
  const message = 'The cursor is not one that a list answered.'
  throw new ValidationError([{ path: 'cursor', code: 'invalid_cursor', message }], 'invalid_cursor')
}
