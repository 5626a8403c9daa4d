import { createReadStream, createWriteStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { SingleBar } from 'cli-progress'
import { LockstepError } from '../lib/errors.js'
import type { Import } from '../models/dtos/import.dto.js'
import type { FileFormat, OnMatch } from '../models/import.js'
import { IMPORT_LEASE_MS } from '../services/import-worker.js'
import { abortOnSignal, type Context, type Files, formatOfName, openFiles } from './files.js'

/** The flags of `lockstep import`. */
export interface ImportFlags {
  tenant: string
  format?: FileFormat
  onMatch: OnMatch
  dryRun: boolean
  errors?: string
  resume?: string
  json: boolean
}

/** How many refused lines are shown when no report was asked for. */
const SHOWN_ERRORS = 10
const PAGE = 1_000

/**
 * `lockstep import <file>`: the customers of a file, straight into the database. Answers the exit code: 0 when every line got
 * through, 1 when one was refused or the import did not come to its end.
 */
export async function runImport(context: Context, file: string, flags: ImportFlags): Promise<number> {
  const format = flags.format ?? formatOfName(file)
  if (format === null && flags.resume === undefined) {
    process.stderr.write(`What '${file}' holds cannot be told by its name: say --format csv or --format ndjson.\n`)
    return 1
  }
  const size = file === '-' ? null : await sizeOf(file)
  const signal = abortOnSignal()
  const { imports, importWorker, by } = await openFiles(context, flags.tenant)
  const id =
    flags.resume ?? (await imports.start(by, { format: format ?? 'csv', onMatch: flags.onMatch, dryRun: flags.dryRun }))
  process.stderr.write(`Import ${id}\n`)

  const bar = flags.json || size === null ? null : openBar(size)
  let read = 0
  async function* source(): AsyncGenerator<Uint8Array> {
    for await (const chunk of file === '-' ? process.stdin : createReadStream(file, { signal })) {
      yield chunk as Uint8Array
      read += (chunk as Uint8Array).length
    }
  }
  const onProgress: Parameters<typeof importWorker.execute>[4] = (_counts, lines) => bar?.update(read, { lines })
  const ended = await execute({ imports, importWorker, by }, id, source, signal, onProgress).finally(() => bar?.stop())
  if (ended === null) {
    process.stderr.write(
      `Interrupted. To go on: lockstep import ${file} --resume ${id}\nTo give it up: lockstep import --cancel ${id}\n`,
    )
    return 1
  }
  await reportErrors({ imports, by }, ended, flags)
  report(ended, flags)
  return ended.status === 'succeeded' && ended.counts.failed === 0 ? 0 : 1
}

/** `lockstep import --cancel <id>`: ends an import, wherever it is at work. Answers the exit code. */
export async function runImportCancel(
  context: Context,
  id: string,
  flags: Pick<ImportFlags, 'tenant' | 'json'>,
): Promise<number> {
  const { imports, by } = await openFiles(context, flags.tenant)
  report(await imports.cancel(by, id), flags)
  return 0
}

/** Works on the import; one whose process has just died is waited for as long as that may still hold it. */
async function execute(
  { imports, importWorker, by }: Pick<Files, 'imports' | 'importWorker' | 'by'>,
  id: string,
  source: () => AsyncIterable<Uint8Array>,
  signal: AbortSignal,
  onProgress: Parameters<Files['importWorker']['execute']>[4],
): Promise<Import | null> {
  const patience = Date.now() + IMPORT_LEASE_MS + 2_000
  for (;;) {
    let isBegun = false
    async function* watched(): AsyncGenerator<Uint8Array> {
      isBegun = true
      yield* source()
    }
    const ended = await importWorker.execute(by.tenantId, id, watched(), signal, onProgress).catch((error: unknown) => {
      if (signal.aborted) return null
      throw error
    })
    if (ended !== null || signal.aborted) return ended
    const current = await imports.get(by.tenantId, id)
    const { status, source: whose } = current
    // By someone else, while it was at work here.
    if (status === 'cancelled' && isBegun) return current
    if (whose === 'api') throw refusal('was uploaded: a worker goes on with it by itself')
    if (status === 'succeeded' || status === 'failed' || status === 'cancelled')
      throw refusal('has ended already; start a new one')
    if (isBegun || Date.now() > patience) throw refusal('is at work in another process')
    await new Promise((resolve) => setTimeout(resolve, 250))
  }

  function refusal(why: string): LockstepError {
    return new LockstepError(`The import ${id} ${why}.`, { code: 'import_not_resumable' })
  }
}

async function sizeOf(file: string): Promise<number> {
  try {
    const { size } = await stat(file)
    return size
  } catch (cause) {
    throw new LockstepError(`The file '${file}' cannot be read.`, { code: 'file_unreadable', cause })
  }
}

function openBar(size: number): SingleBar {
  const bar = new SingleBar({
    format: 'Importing [{bar}] {percentage}% | {lines} lines | {duration_formatted}',
    stream: process.stderr,
    noTTYOutput: false,
    clearOnComplete: false,
  })
  bar.start(size, 0, { lines: 0 })
  return bar
}

/** Writes the refused lines as NDJSON: line, fields and reasons, never what the line said. */
async function reportErrors(
  { imports, by }: Pick<Files, 'imports' | 'by'>,
  ended: Import,
  flags: ImportFlags,
): Promise<void> {
  async function* lines(): AsyncGenerator<string> {
    let cursor: string | null = null
    do {
      const page: Awaited<ReturnType<typeof imports.errors>> = await imports.errors(by.tenantId, ended.id, {
        limit: PAGE,
        ...(cursor === null ? {} : { cursor }),
      })
      for (const refused of page.data) yield `${JSON.stringify(refused)}\n`
      cursor = page.nextCursor
    } while (cursor !== null)
  }
  if (flags.errors !== undefined) {
    await pipeline(Readable.from(lines()), createWriteStream(flags.errors))
    return
  }
  if (ended.counts.failed === 0 || flags.json) return
  const { data } = await imports.errors(by.tenantId, ended.id, { limit: SHOWN_ERRORS })
  for (const { line, errors } of data) {
    for (const { path, message } of errors) process.stderr.write(`line ${line}: ${path}: ${message}\n`)
  }
  const more = ended.counts.failed - data.length
  if (more > 0) process.stderr.write(`and ${more} more lines; --errors report.ndjson writes them all\n`)
}

function report(ended: Import, flags: Pick<ImportFlags, 'json'>): void {
  if (flags.json) {
    process.stdout.write(`${JSON.stringify(ended)}\n`)
    return
  }
  const { created, updated, unchanged, skipped, failed } = ended.counts
  const counts = Object.entries({ created, updated, unchanged, skipped, failed }).map(
    ([name, count]) => `${count} ${name}`,
  )
  process.stdout.write(`${ended.dryRun ? 'To do' : 'Done'}: ${ended.lines} lines; ${counts.join(', ')}.\n`)
  if (ended.status === 'cancelled') process.stdout.write('The import was CANCELLED; what was done stands.\n')
  if (ended.error !== null) process.stdout.write(`The import FAILED (${ended.error.code}): ${ended.error.message}\n`)
}
