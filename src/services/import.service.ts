import { ConflictError, LockstepError, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId, newId } from '../lib/ids.js'
import {
  type ImportError,
  type ImportPageQuery,
  type Import as ImportView,
  toImport,
} from '../models/dtos/import.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import type { FileFormat, Import, ImportCounts, OnMatch } from '../models/import.js'
import type { TenantSettings } from '../models/tenant.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import { DatabaseError, LeaseLostError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import {
  claimImport,
  deleteStaleUploads,
  deleteUpload,
  findChunk,
  findImport,
  findImportSalt,
  findWaitingImport,
  finishImport,
  holdImport,
  IMPORT_ORDER,
  type ImportLease,
  insertChunk,
  insertErrors,
  insertImport,
  KEPT_ERRORS,
  listErrors,
  listImports,
  queueImport,
  releaseImport,
  saveProgress,
} from '../repositories/imports.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import type { Vault } from '../repositories/vault.js'
import { applyLines, type BatchResult, type ImportTask } from './import-batch.js'
import { checkHeader, type ReadLine, readLines } from './import-reader.js'

/** How long an import without a sign of life is its worker's, in milliseconds; every batch renews it. */
export const IMPORT_LEASE_MS = 10_000
/** An upload that is not through by then was given up, in hours. */
const UPLOAD_HOURS = 2
/** How much of a file is kept in one row, in bytes. */
const CHUNK_BYTES = 256 * 1024

/** What is asked of an import. */
export interface ImportRequest {
  format: FileFormat
  onMatch: OnMatch
  dryRun: boolean
}

export interface ImportServiceDeps {
  prisma: PrismaClient
  vault: Vault
  settingsOf(tenantId: string): Promise<TenantSettings>
  /** Tells the relay of this process that there are dirty users. */
  wake(): void
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

/**
 * Files of customers, uploaded or at hand. An import goes on after a crash where it stopped: what it did and how far it is are
 * saved in one transaction.
 */
export function makeImportService({ prisma, vault, settingsOf, wake }: ImportServiceDeps) {
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

  const service = {
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

    /** Adds an import of a file that the caller has and will {@link execute}. Answers its id. */
    async start(by: Actor, request: ImportRequest): Promise<string> {
      return add(by, 'cli', request)
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

    /**
     * Works on an import from where it stands until it ends or `signal` aborts. Null when it was aborted, someone else has it, or it
     * has ended already.
     *
     * @param file the whole file from its start
     * @throws {ConflictError} `another_file` when it is not the one that the import began with.
     */
    async execute(
      tenantId: string,
      id: string,
      file: AsyncIterable<Uint8Array>,
      signal: AbortSignal,
      onProgress: (counts: ImportCounts, lines: number) => void = () => {},
    ): Promise<ImportView | null> {
      const claimed = isId(id) ? await claimImport(prisma, tenantId, id, IMPORT_LEASE_MS) : null
      if (claimed === null) return null
      const { row, lease } = claimed
      try {
        const error = await goThrough(row, lease, file, signal, onProgress)
        if (error === 'stopped') {
          await releaseImport(prisma, lease)
          return null
        }
        await finish(row, lease, error)
        return await service.get(tenantId, id)
      } catch (cause) {
        if (cause instanceof LeaseLostError) return null
        // Whoever takes it up next need not wait for a lease that nobody uses.
        await releaseImport(prisma, lease).catch(() => {})
        throw cause
      }
    },

    /**
     * Works on the oldest uploaded import that nobody is at. Answers whether there was one. Throws what may pass by itself; the import
     * waits then.
     *
     * @param onError is told of what is no fault of the file and ended the import
     */
    async executeNext(signal: AbortSignal, onError: (error: unknown, importId: string) => void): Promise<boolean> {
      const waiting = signal.aborted ? null : await findWaitingImport(prisma)
      if (waiting === null) return false
      const { id, tenantId } = waiting
      try {
        await service.execute(tenantId, id, uploaded(id), signal)
      } catch (error) {
        if (error instanceof LockstepError && error.retryable) throw error
        onError(error, id)
        const claimed = await claimImport(prisma, tenantId, id, IMPORT_LEASE_MS)
        const ours = error instanceof LockstepError ? error : null
        const shown = {
          code: ours?.code ?? 'internal_error',
          message: ours?.message ?? 'It was logged; nothing more is known.',
        }
        if (claimed !== null) await finish(claimed.row, claimed.lease, shown)
      }
      return true
    },

    /** Removes uploads that were given up. Answers how many. */
    async removeStaleUploads(): Promise<number> {
      return deleteStaleUploads(prisma, UPLOAD_HOURS)
    },
  }

  /** Null when it got to the end of the file; else why it did not. */
  async function goThrough(
    row: Import,
    lease: ImportLease,
    file: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
    onProgress: (counts: ImportCounts, lines: number) => void,
  ): Promise<Import['error'] | 'stopped'> {
    const { tenantId, requestedBy: actor, requestId, ip } = row
    const salt = await findImportSalt(prisma, tenantId)
    const done = row.lines
    let reached = 0
    try {
      for await (const batch of readLines(file, row.format)) {
        if (signal.aborted) return 'stopped'
        const last = batch.find(({ number }) => number === done)
        if (last !== undefined && last.digest !== row.digest) throw anotherFile()
        reached = batch.at(-1)?.number ?? reached
        const lines = batch.filter(({ number }) => number > done)
        if (lines.length === 0) continue
        const settings = await settingsOf(tenantId)
        const by = { tenantId, actor, requestId, ip }
        await applyBatch(row, lease, { ...row, by, settings, salt }, lines)
        if (!row.dryRun) wake()
        onProgress(row.counts, row.lines)
      }
    } catch (error) {
      if (error instanceof ValidationError) return { code: error.code, message: error.message }
      throw error
    }
    if (reached < done) throw anotherFile()
    return null
  }

  /** Writes the lines and how far the import is; `row` follows. What the database refuses as a whole goes line by line. */
  async function applyBatch(
    row: Import,
    lease: ImportLease,
    task: ImportTask,
    lines: readonly ReadLine[],
  ): Promise<void> {
    try {
      await applyInOne(row, lease, lines, (tx) => applyLines(tx, vault, task, lines))
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.retryable) throw error
      const [only, ...others] = lines
      if (only === undefined) throw error
      if (others.length > 0) {
        for (const line of lines) await applyBatch(row, lease, task, [line])
        return
      }
      // Such as a constraint that the application has put on `users`.
      const refused = [{ line: only.line, errors: [{ path: 'line', code: error.code, message: error.message }] }]
      const counts = { created: 0, updated: 0, unchanged: 0, skipped: 0, failed: 1 }
      await applyInOne(row, lease, lines, async () => ({ counts, refused }))
    }
  }

  async function applyInOne(
    row: Import,
    lease: ImportLease,
    lines: readonly ReadLine[],
    work: (tx: PrismaDb) => Promise<BatchResult>,
  ): Promise<void> {
    const last = lines.at(-1)
    if (last === undefined) return
    const progress = await inTransaction(prisma, async (tx) => {
      await holdImport(tx, lease)
      const { counts, refused } = await work(tx)
      const total = sum(row.counts, counts)
      await insertErrors(tx, row.id, refused, KEPT_ERRORS - row.counts.failed)
      const progress = { lines: last.number, digest: last.digest, counts: total }
      await saveProgress(tx, lease, progress, IMPORT_LEASE_MS)
      return progress
    })
    Object.assign(row, progress)
  }

  async function finish(row: Import, lease: ImportLease, error: Import['error']): Promise<void> {
    const { tenantId, requestedBy: actor, requestId, ip } = row
    await inTransaction(prisma, async (tx) => {
      await finishImport(tx, lease, error)
      const changes = { status: error === null ? 'succeeded' : 'failed', lines: row.lines, ...row.counts }
      await writeAudit(
        tx,
        { tenantId, actor, requestId, ip },
        { action: 'import.finish', entity: 'import', entityId: row.id, changes },
      )
    })
  }

  async function* uploaded(importId: string): AsyncGenerator<Uint8Array> {
    for (let position = 0; ; position += 1) {
      const chunk = await findChunk(prisma, importId, position)
      if (chunk === null) return
      yield chunk
    }
  }

  return service
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

function sum(a: ImportCounts, b: ImportCounts): ImportCounts {
  return {
    created: a.created + b.created,
    updated: a.updated + b.updated,
    unchanged: a.unchanged + b.unchanged,
    skipped: a.skipped + b.skipped,
    failed: a.failed + b.failed,
  }
}

function anotherFile(): ConflictError {
  return new ConflictError(
    'This is not the file that the import began with: its first lines differ. Start a new import.',
    'another_file',
  )
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
