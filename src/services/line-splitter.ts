import { ValidationError } from '../lib/errors.js'

/** The longest line, in bytes; longer than any customer can be. */
export const LINE_LIMIT = 256 * 1024

/** A line of a file; of a CSV file, a record, which may go over several. */
export interface RawLine {
  /** Where it begins; 1 is the first. */
  line: number
  /** Without what ends it; null when it is longer than {@link LINE_LIMIT}. */
  bytes: Buffer | null
  /** In bytes. */
  size: number
}

const [LF, CR, QUOTE, COMMA] = [10, 13, 34, 44]

/** Where in a CSV record a byte stands: at the start of a cell, within one, between quotes, behind a quote between quotes. */
type Place = 'start' | 'cell' | 'quoted' | 'quote'

/**
 * Cuts a file into lines, holding one line at the most. A byte order mark is no part of the first.
 *
 * @param isCsv whether a line break between quotes is part of the line, and CR alone ends one too
 * @throws {ValidationError} `invalid_file` for UTF-16, and for a quote that is not closed: where the next line begins cannot
 *   be told then.
 */
export async function* splitLines(source: AsyncIterable<Uint8Array>, isCsv: boolean): AsyncGenerator<RawLine[]> {
  const splitter = makeSplitter(isCsv)
  let head: Buffer | null = Buffer.alloc(0)
  for await (const piece of source) {
    let chunk = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength)
    if (head !== null) {
      head = Buffer.concat([head, chunk])
      if (head.length < 3) continue
      chunk = withoutMark(head)
      head = null
    }
    yield splitter.push(chunk)
  }
  if (head !== null) yield splitter.push(withoutMark(head))
  yield splitter.end()
}

function withoutMark(head: Buffer): Buffer {
  const [first, second, third] = head
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    throw new ValidationError(
      [{ path: 'file', code: 'not_utf8', message: 'is UTF-16; save it as UTF-8' }],
      'invalid_file',
    )
  }
  return first === 0xef && second === 0xbb && third === 0xbf ? head.subarray(3) : head
}

function makeSplitter(isCsv: boolean) {
  let place: Place = 'start'
  let isAfterCr = false
  /** The line that is being looked at, and the one that the record began in. */
  let at = 1
  let begunAt = 1
  let parts: Buffer[] = []
  let size = 0

  /** Takes what belongs to the record under way. */
  function keep(part: Buffer): void {
    size += part.length
    if (size <= LINE_LIMIT) {
      if (part.length > 0) parts.push(part)
      return
    }
    parts = []
    if (place === 'quoted') throw unclosed(begunAt, `goes on for more than ${LINE_LIMIT / 1024} KiB`)
  }

  function cut(): RawLine {
    const record = { line: begunAt, size, bytes: size > LINE_LIMIT ? null : Buffer.concat(parts) }
    parts = []
    size = 0
    place = 'start'
    at += 1
    begunAt = at
    return record
  }

  return {
    /** The lines that end in the chunk. */
    push(chunk: Buffer): RawLine[] {
      const lines: RawLine[] = []
      let from = 0
      for (let index = 0; index < chunk.length; index += 1) {
        const byte = chunk[index]
        if (isAfterCr) {
          isAfterCr = false
          if (byte === LF) {
            from = index + 1
            continue
          }
        }
        const isQuoted = place === 'quoted' || (place === 'quote' && byte === QUOTE)
        if (isQuoted) {
          if (byte === LF) at += 1
          place = place === 'quoted' && byte === QUOTE ? 'quote' : 'quoted'
        } else if (byte === LF || (isCsv && byte === CR)) {
          keep(chunk.subarray(from, index))
          lines.push(cut())
          from = index + 1
          isAfterCr = byte === CR
        } else if (isCsv) {
          if (byte === COMMA) place = 'start'
          else place = byte === QUOTE && place === 'start' ? 'quoted' : 'cell'
        }
      }
      // A copy, so that what is kept does not hold the whole chunk.
      keep(Buffer.from(chunk.subarray(from)))
      return lines
    },

    /** The last line, if nothing ended it. */
    end(): RawLine[] {
      if (place === 'quoted') throw unclosed(begunAt, 'is never closed')
      return size === 0 ? [] : [cut()]
    },
  }
}

function unclosed(line: number, how: string): ValidationError {
  const message = `has a quote that ${how}; nothing from there on was read`
  return new ValidationError([{ path: `line ${line}`, code: 'unclosed_quote', message }], 'invalid_file')
}
