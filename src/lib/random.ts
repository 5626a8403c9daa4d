import { randomFillSync } from 'node:crypto'

const POOL_BYTES = 4_096

const pool = Buffer.alloc(POOL_BYTES)
let used = pool.length

/** Random bytes of the system, fetched many at a time: a few by themselves cost as much as all of them. None is given out twice. */
export function randomBytes(size: number): Uint8Array {
  if (size > POOL_BYTES) return randomFillSync(new Uint8Array(size))
  if (used + size > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += size
  const bytes = Uint8Array.prototype.slice.call(pool, used - size, used)
  // They may become a key: nothing else is to know them.
  pool.fill(0, used - size, used)
  return bytes
}
