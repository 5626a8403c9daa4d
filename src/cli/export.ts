import { createWriteStream } from 'node:fs'
import { lstat, rename, rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ExportQuery } from '../models/dtos/import.dto.js'
import type { FileFormat } from '../models/import.js'
import { abortOnSignal, type Context, formatOfName, openFiles } from './files.js'

/** The flags of `lockstep export`. */
export interface ExportFlags {
  tenant: string
  format?: FileFormat
  out?: string
  state?: Exclude<ExportQuery['state'], undefined>
}

/**
 * `lockstep export`: the customers, to stdout or a file, which is there only once it is complete. Answers the exit code.
 */
export async function runExport(context: Context, { tenant, format, out, state }: ExportFlags): Promise<number> {
  const signal = abortOnSignal()
  const { exports, by } = await openFiles(context, tenant)
  const query: ExportQuery = {
    format: format ?? formatOfName(out ?? '') ?? 'csv',
    ...(state === undefined ? {} : { state }),
  }
  const pieces = Readable.from(await exports.start(by, query, signal))
  if (out === undefined) {
    // Stdout is the process's own: it is not ended with the file.
    await pipeline(pieces, process.stdout, { end: false }).catch((error: NodeJS.ErrnoException) => {
      // Whoever reads has read enough, such as `head`.
      if (error.code !== 'EPIPE') throw error
    })
    return 0
  }
  const part = `${out}.part`
  if (await isSpecial(out)) {
    await pipeline(pieces, createWriteStream(out, { mode: 0o600 }))
    return 0
  }
  try {
    // Personal data: for nobody else's eyes.
    await pipeline(pieces, createWriteStream(part, { mode: 0o600 }))
    await rename(part, out)
  } catch (error) {
    await rm(part, { force: true })
    throw error
  }
  return 0
}

/** Whether there is something else than a file, such as a device or a pipe, which is written to and not replaced. */
async function isSpecial(path: string): Promise<boolean> {
  const found = await lstat(path).catch(() => null)
  return found !== null && !found.isFile()
}
