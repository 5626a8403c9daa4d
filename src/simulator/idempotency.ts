import { keyInUse, keyReused } from './errors.js'
import type { Account, IdempotencyRecord } from './state.js'

/** After this a key may be forgotten, and its next use is a new execution. */
export const retentionMs = 24 * 3600 * 1000

/** Keys of v1 POSTs, per account and mode. Only what has begun executing is stored: 2xx and 500, never a 4xx of the layers before. */
export class Idempotency {
  readonly #inFlight = new Map<Account, Set<string>>()

  /** The stored answer; undefined where the request may execute, and then the key is locked. Throws 400 and 409. */
  begin(account: Account, key: string, fingerprint: string, now: number): IdempotencyRecord | undefined {
    this.#prune(account, now)
    if (this.#inFlight.get(account)?.has(key)) throw keyInUse(key)
    const stored = account.keys.get(key)
    if (stored && stored.fingerprint !== fingerprint) throw keyReused(key)
    if (stored) return stored
    const locked = this.#inFlight.get(account)
    if (locked) locked.add(key)
    else this.#inFlight.set(account, new Set([key]))
    return undefined
  }

  end(account: Account, key: string): void {
    this.#inFlight.get(account)?.delete(key)
  }

  /** Insertion order is the order of storing, so this stops at the first young one. */
  #prune(account: Account, now: number): void {
    for (const [key, record] of account.keys) {
      if (now - record.storedAt < retentionMs) break
      account.keys.delete(key)
    }
  }
}

export const isStored = (status: number): boolean => status < 300 || status >= 500
