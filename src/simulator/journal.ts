import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { type Entry, State } from './state.js'

const chunkBytes = 1 << 20
/** What is tried out may be copies of real people. */
const OWNER_ONLY = 0o600

/**
 * Opens the state that `dataDir` holds. Each request's entries are one line, written with `writeSync` before the answer
 * leaves, so a killed process has lost nothing that it answered. A torn last line is from a request that was never answered:
 * it is cut off. A journal with many superseded lines is rewritten at start.
 */
export function openJournal(dataDir: string): { state: State; close(): void } {
  mkdirSync(dataDir, { recursive: true })
  const path = join(dataDir, 'simulator.ndjson')
  let fd = openSync(path, existsSync(path) ? 'r+' : 'w+', OWNER_ONLY)
  const state = new State((entries) => writeAll(fd, `${JSON.stringify(entries)}\n`))
  const replayed = replay(fd, state)
  ftruncateSync(fd, replayed.goodBytes)
  let needed = 0
  for (const _ of state.entries()) needed++
  if (replayed.entries > 1000 + 2 * needed) {
    closeSync(fd)
    rewrite(path, state)
  } else closeSync(fd)
  fd = openSync(path, 'a')
  return { state, close: () => closeSync(fd) }
}

function replay(fd: number, state: State): { entries: number; goodBytes: number } {
  const buffer = Buffer.allocUnsafe(chunkBytes)
  let rest: Buffer = Buffer.alloc(0)
  let entries = 0
  let goodBytes = 0
  for (;;) {
    const read = readSync(fd, buffer, 0, buffer.length, null)
    if (read === 0) return { entries, goodBytes }
    let from = 0
    const text = Buffer.concat([rest, buffer.subarray(0, read)])
    for (let newline = text.indexOf(10); newline !== -1; newline = text.indexOf(10, from)) {
      const line = parse(text.toString('utf8', from, newline), goodBytes)
      for (const entry of line) state.apply(entry)
      entries += line.length
      goodBytes += newline + 1 - from
      from = newline + 1
    }
    rest = text.subarray(from)
  }
}

/** A whole line that cannot be read is damage, not a torn write: to go on would lose what follows it. */
function parse(line: string, at: number): Entry[] {
  try {
    return JSON.parse(line) as Entry[]
  } catch (cause) {
    throw new Error(`The simulator's journal is damaged at byte ${at}: repair or remove it.`, { cause })
  }
}

function rewrite(path: string, state: State): void {
  const temporary = `${path}.new`
  const fd = openSync(temporary, 'w', OWNER_ONLY)
  let batch: Entry[] = []
  for (const entry of state.entries()) {
    batch.push(entry)
    if (batch.length === 500) {
      writeAll(fd, `${JSON.stringify(batch)}\n`)
      batch = []
    }
  }
  if (batch.length > 0) writeAll(fd, `${JSON.stringify(batch)}\n`)
  fsyncSync(fd)
  closeSync(fd)
  renameSync(temporary, path)
}

/** A write may be partial: repeat until all of it is with the kernel. */
function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text)
  for (let written = 0; written < bytes.length; ) written += writeSync(fd, bytes, written)
}
