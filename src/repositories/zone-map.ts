/** Text is known by three characters at a time, each such piece by a hash of so many values. */
const HASHES = 65_536

const PIECE = 3

/** More zones would make a map larger than it is worth. */
const MOST_ZONES = 1_000

/** How many users a zone has, of so many in all: as many as are looked through in ten milliseconds, more where there are very many. */
export function zoneSizeOf(users: number, least: number): number {
  return Math.max(least, Math.ceil(users / MOST_ZONES))
}

/** Gives the hash of each three characters in a row; what contains a text has all of them. A text of fewer has none. */
export function hashPieces(text: string, give: (hash: number) => void): void {
  for (let i = 0; i + PIECE <= text.length; i += 1) {
    const product = Math.imul(
      Math.imul(text.charCodeAt(i), 0x9e3779b1) ^
        Math.imul(text.charCodeAt(i + 1), 0x85ebca77) ^
        Math.imul(text.charCodeAt(i + 2), 0xc2b2ae3d),
      0x27d4eb2f,
    )
    give(product >>> 16)
  }
}

/** Compares as Postgres does under the collation "C": by the bytes of UTF-8. */
export function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

/** The zone of a key: how many of the bounds, which are in order, are not beyond it. */
export function zoneOf(bounds: readonly Buffer[], key: string): number {
  const bytes = Buffer.from(key)
  let low = 0
  let high = bounds.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const bound = bounds[middle]
    if (bound !== undefined && Buffer.compare(bound, bytes) <= 0) low = middle + 1
    else high = middle
  }
  return low
}

/** Draws the bounds of zones of about `size` keys, which come in order. */
export interface BoundDrawer {
  add(key: string): void
  bounds(): string[]
}

/**
 * A bound is set where the keys of half a zone before and half a zone behind have the least in common: what they all begin with, and one
 * character. So a bound is never a name or an e-mail of somebody, which would have to go with them; and where thousands of keys are
 * equal there is none.
 */
export function drawBounds(size: number): BoundDrawer {
  const bounds: string[] = []
  const first = Math.max(1, Math.floor(size / 2))
  const last = size + first
  let keys: string[][] = []

  function cut(): void {
    let best = { at: first, common: Number.POSITIVE_INFINITY }
    for (let at = first; at < keys.length; at += 1) {
      const common = commonStart(keys[at - 1] ?? [], keys[at] ?? [])
      const isNearer = Math.abs(at - size) < Math.abs(best.at - size)
      if (common < best.common || (common === best.common && isNearer)) best = { at, common }
    }
    const bound = keys[best.at]?.slice(0, best.common + 1) ?? []
    // Without a character more it would be all of a key.
    if (bound.length <= best.common) keys = keys.slice(-first)
    else {
      bounds.push(bound.join(''))
      keys = keys.slice(best.at)
    }
  }

  return {
    add(key) {
      keys.push([...key])
      if (keys.length >= last) cut()
    },
    bounds: () => bounds,
  }
}

function commonStart(a: string[], b: string[]): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) length += 1
  return length
}

/** In which zones each hash occurs. */
export class ZoneBits {
  /** Bytes that each hash has. */
  readonly width: number
  readonly #bits: Buffer

  constructor(zones: number) {
    this.width = Math.ceil(zones / 8)
    this.#bits = Buffer.alloc(this.width * HASHES)
  }

  /** Answers whether that was news. */
  add(hash: number, zone: number): boolean {
    const at = hash * this.width + (zone >> 3)
    const before = this.#bits[at] ?? 0
    const after = before | (0x80 >> (zone & 7))
    this.#bits[at] = after
    return after !== before
  }

  /** The bits of `count` hashes from this one on, a view. */
  slice(hash: number, count: number): Buffer {
    return this.#bits.subarray(hash * this.width, (hash + count) * this.width)
  }
}
