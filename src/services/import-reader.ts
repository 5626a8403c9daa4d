import { createHash, type Hash } from 'node:crypto'
import { Readable } from 'node:stream'
import { type CsvError, type Options, parse } from 'csv-parse/sync'
import { Compile } from 'typebox/compile'
import { type FieldError, ValidationError } from '../lib/errors.js'
import { fieldErrorsOf } from '../lib/field-errors.js'
import { type ImportLine, ImportLineSchema } from '../models/dtos/import.dto.js'
import type { FileFormat } from '../models/import.js'
import { readCells, readHeader } from './customer-columns.js'
import { type RawLine, splitLines } from './line-splitter.js'

/** Lines that are written in one transaction: enough to be quick, few enough to hold locks only briefly. */
export const BATCH_LINES = 200
/** A batch of long lines is cut earlier, in bytes. */
const BATCH_BYTES = 1024 * 1024

/** A line as it was read. */
export interface ReadLine {
  /** Where it begins in the file; 1 is the first. */
  line: number
  /** Which one it is, blank ones and the header not counted; from 1 on. */
  number: number
  /** SHA-256 of the file up to here. */
  digest: string
  /** Null when it could not be read; `errors` say why. */
  input: ImportLine | null
  errors: FieldError[]
}

const checkLine = Compile(ImportLineSchema)
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Reads a file of customers as batches of lines. A line that cannot be read says so and does not stop the others.
 *
 * @throws {ValidationError} `invalid_file` when the file as a whole cannot be read: a wrong header, a quote that is never
 *   closed, another encoding than UTF-8.
 */
export async function* readLines(source: AsyncIterable<Uint8Array>, format: FileFormat): AsyncGenerator<ReadLine[]> {
  const hash = createHash('sha256')
  const read = format === 'csv' ? csvReader(hash) : ndjsonReader(hash)
  let batch: RawLine[] = []
  let bytes = 0
  let broken: unknown = null
  const lines = splitLines(source, format === 'csv')
  for (;;) {
    const next = await lines.next().catch((error: unknown) => {
      broken = error
      return null
    })
    for (const line of next?.value ?? []) {
      batch.push(line)
      bytes += line.bytes?.length ?? 0
      if (batch.length < BATCH_LINES && bytes < BATCH_BYTES) continue
      yield read(batch)
      batch = []
      bytes = 0
    }
    if (next === null || next.done === true) break
  }
  // Also when the file breaks off: what was read whole counts.
  if (batch.length > 0) yield read(batch)
  if (broken !== null) throw broken
  read.end()
}

/**
 * Checks the header of a CSV file.
 *
 * @param head the file as far as its first line
 * @throws {ValidationError} `invalid_file`
 */
export async function checkHeader(head: Uint8Array): Promise<void> {
  const read = csvReader(createHash('sha256'))
  for await (const lines of splitLines(Readable.from([head]), true)) {
    for (const line of lines) {
      read([line])
      if (read.hasHeader()) return
    }
  }
  read.end()
}

interface Reader {
  (lines: readonly RawLine[]): ReadLine[]
  /** There are no more. */
  end(): void
}

function ndjsonReader(hash: Hash): Reader {
  let number = 0
  const read = (lines: readonly RawLine[]) =>
    lines.flatMap((raw) => {
      const text = textOf(raw)
      if (typeof text === 'string' && text.trim() === '') return []
      number += 1
      return lineOf(raw, number, digestWith(hash, raw), () => parseJson(stringOrThrow(text)))
    })
  return Object.assign(read, { end() {} })
}

function csvReader(hash: Hash): Reader & { hasHeader(): boolean } {
  let number = 0
  let columns: string[] | null = null
  const read = (lines: readonly RawLine[]) => {
    const texts = lines.map(textOf)
    const records = parseRecords(texts)
    return lines.flatMap((raw, index) => {
      const text = texts[index] ?? ''
      const record = records[index]
      const isBlank = Array.isArray(record) ? record.every((cell) => cell.trim() === '') : text === ''
      if (isBlank) return []
      const digest = digestWith(hash, raw)
      if (columns === null) {
        columns = readHeader(cellsOf(text, record, 'invalid_file'))
        return []
      }
      number += 1
      const known = columns
      return lineOf(raw, number, digest, () => readCells(known, cellsOf(text, record)))
    })
  }
  return Object.assign(read, {
    hasHeader: () => columns !== null,
    end() {
      if (columns !== null) return
      const message = 'is empty; its first line must name the columns'
      throw new ValidationError([{ path: 'file', code: 'empty', message }], 'invalid_file')
    },
  })
}

/** The cells of each text; an error for what is no CSV. All at once, which is much quicker than one by one, unless one is bad. */
function parseRecords(texts: readonly (string | ValidationError)[]): (string[] | CsvError | null)[] {
  const options: Options = { columns: false, relax_column_count: true, record_delimiter: ['\r\n', '\n', '\r'] }
  const sound = texts.filter((text) => typeof text === 'string' && text !== '')
  try {
    const records = parse(sound.join('\n'), options) as string[][]
    if (records.length === sound.length) {
      let next = 0
      return texts.map((text) => (typeof text === 'string' && text !== '' ? (records[next++] ?? null) : null))
    }
  } catch {
    // One of them is bad; which, is found out one by one.
  }
  return texts.map((text) => {
    if (typeof text !== 'string' || text === '') return null
    try {
      return (parse(text, options) as string[][])[0] ?? null
    } catch (error) {
      return error as CsvError
    }
  })
}

function cellsOf(
  text: string | ValidationError,
  record: string[] | CsvError | null | undefined,
  code?: string,
): string[] {
  if (Array.isArray(record)) return record
  if (text instanceof ValidationError) throw code === undefined ? text : new ValidationError(text.errors, code)
  const message = 'has a quote in the wrong place: a cell with a quote must be quoted as a whole, and the quote doubled'
  throw new ValidationError([{ path: 'line', code: 'invalid_csv', message }], code)
}

function lineOf(raw: RawLine, number: number, digest: string, read: () => unknown): ReadLine {
  const common = { line: raw.line, number, digest }
  try {
    const input = withoutNulls(read())
    if (!checkLine.Check(input))
      return { ...common, input: null, errors: fieldErrorsOf(checkLine.Errors(input), 'line') }
    return { ...common, input, errors: [] }
  } catch (error) {
    if (!(error instanceof ValidationError)) throw error
    return { ...common, input: null, errors: error.errors }
  }
}

/** Only what stands for a field: a null `metadata` is one that was not given. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  for (const name of ['id', 'state', 'type'] as const) {
    if ((value as Record<string, unknown>)[name] === null) delete (value as Record<string, unknown>)[name]
  }
  const { metadata } = value as { metadata?: unknown }
  if (typeof metadata === 'object' && metadata !== null && Object.hasOwn(metadata, '__proto__')) {
    const message = 'the key cannot be used'
    throw new ValidationError([{ path: 'metadata.__proto__', code: 'invalid_key', message }])
  }
  return value
}

function parseJson(text: string): unknown {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new ValidationError([{ path: 'line', code: 'invalid_json', message: 'is not JSON' }])
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw new ValidationError([{ path: 'line', code: 'wrong_type', message: 'must be a JSON object' }])
}

/** The text of a line, or why it has none. */
function textOf({ bytes }: RawLine): string | ValidationError {
  if (bytes === null)
    return new ValidationError([{ path: 'line', code: 'too_long', message: 'is longer than 256 KiB' }])
  try {
    return decoder.decode(bytes)
  } catch {
    return new ValidationError([{ path: 'line', code: 'invalid_utf8', message: 'is not UTF-8' }])
  }
}

function stringOrThrow(text: string | ValidationError): string {
  if (typeof text === 'string') return text
  throw text
}

function digestWith(hash: Hash, { bytes, size }: RawLine): string {
  hash.update(bytes ?? String(size)).update('\n')
  return hash.copy().digest('hex')
}
