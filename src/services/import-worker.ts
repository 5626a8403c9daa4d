import { ConflictError, LockstepError, ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { type Import as ImportView, toImport } from '../models/dtos/import.dto.js'
import type { Import, ImportCounts } from '../models/import.js'
import type { TenantSettings } from '../models/tenant.js'
import { writeAudit } from '../repositories/audit-log.js'
import { statementsOf } from '../repositories/database.js'
import { DatabaseError, LeaseLostError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import {
  claimImport,
  findChunk,
  findImport,
  findImportSalt,
  finishImport,
  holdImport,
  type ImportLease,
  insertErrors,
  KEPT_ERRORS,
  releaseImport,
  saveProgress,
} from '../repositories/imports.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'
import type { Vault } from '../repositories/vault.js'
import { findWaitingImport } from '../repositories/waiting-imports.js'
import { applyLines, type BatchResult, type ImportTask } from './import-batch.js'
import { type ReadLine, readLines } from './import-reader.js'

/** How long an import without a sign of life is its worker's, in milliseconds; every batch renews it. */
export const IMPORT_LEASE_MS = 10_000

export interface ImportWorkerDeps {
  prisma: PrismaClient
  vault: Vault
  settingsOf(tenantId: string): Promise<TenantSettings>
  /** Tells the relay of this process that there are dirty users. */
  wake(): void
}

export type ImportWorker = ReturnType<typeof makeImportWorker>

/**
 * Goes through files of customers, uploaded or at hand. An import goes on after a crash where it stopped: what it did and how far
 * it is are saved in one transaction.
 */
export function makeImportWorker({ prisma, vault, settingsOf, wake }: ImportWorkerDeps) {
  const worker = {
    /**
     * Works on an import from where it stands until it ends or `signal` aborts. Null when it was aborted or cancelled, someone else
     * has it, or it has ended already.
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
        const ended = await findImport(prisma, tenantId, id)
        return ended === null ? null : toImport(ended)
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
      const waiting = signal.aborted ? null : await findWaitingImport(statementsOf(prisma))
      if (waiting === null) return false
      const { id, tenantId } = waiting
      try {
        await worker.execute(tenantId, id, uploaded(id), signal)
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
        if (last !== undefined && last.digest !== row.digest) return await refuseFile(lease)
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
    if (reached < done) return await refuseFile(lease)
    return null
  }

  /** The lines that are done are not those of the file, unless it went away meanwhile: an import that is cancelled keeps none. */
  async function refuseFile(lease: ImportLease): Promise<never> {
    await inTransaction(prisma, (tx) => holdImport(tx, lease))
    throw new ConflictError(
      'This is not the file that the import began with: its first lines differ. Start a new import.',
      'another_file',
    )
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

  return worker
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
