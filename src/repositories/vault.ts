import { createHmac } from 'node:crypto'
import { type Cipher, makeCipher } from '../lib/cipher.js'
import { randomBytes as pooledRandomBytes } from '../lib/random.js'
import type { Statements } from './database.js'
import { destroyPersonKey, findPersonKeys, insertPersonKeys } from './person-keys.js'

/** A value sealed with a person's key, as it stands in a `jsonb` column. Null stays null. */
export interface Sealed {
  sealed: string
}

/** What is found where a value was sealed with a key that has been destroyed. */
export const ERASED = '[erased]'

/** Seals and opens what is kept about one person. */
export interface PersonSeal {
  /** False once the person was erased: nothing of theirs opens any more. */
  readonly isReadable: boolean
  /** Seals a JSON value for the place `context`, such as `sync_conflicts.local`. Null stays null. */
  seal(value: unknown, context: string): Sealed | null
  /** The value again, or {@link ERASED}. What was never sealed passes through. Throws UnsealError. */
  open(stored: unknown, context: string): unknown
  /** A name for the text that only the key's owner can make: 16 bytes that say nothing to anyone else. */
  fingerprint(text: string): Uint8Array
}

/** The keys of all people, each sealed with the installation's. */
export interface Vault {
  /** The installation's own cipher: for secrets of tenants, and what belongs to no one person. */
  readonly cipher: Cipher
  /** The person's seal; the key is made when there is none yet, in the transaction of `db`. */
  person(db: Statements, tenantId: string, userId: string): Promise<PersonSeal>
  /** The seals of several people, by user id; keys are made for those who have none yet, in the transaction of `db`. */
  ensure(db: Statements, tenantId: string, userIds: readonly string[]): Promise<Map<string, PersonSeal>>
  /** {@link Vault.ensure} for people who are new: looks for their keys only if they turn out to have one. */
  create(db: Statements, tenantId: string, userIds: readonly string[]): Promise<Map<string, PersonSeal>>
  /** The seals of several people, by user id; none is made: who has none yet is absent, and has nothing that is sealed. */
  people(db: Statements, tenantId: string, userIds: readonly string[]): Promise<Map<string, PersonSeal>>
  /** Destroys the person's key for good, in the transaction of `db`. */
  destroy(db: Statements, tenantId: string, userId: string): Promise<void>
}

const KEY_BYTES = 32
/** Seals that a process keeps at hand. */
const CACHED = 10_000
/** How long, in milliseconds: a process may still read for so long what another one has destroyed the key of. */
const CACHED_MS = 10_000

/**
 * Makes the vault.
 *
 * @param randomBytes where keys and nonces come from; a simulation has its own.
 */
export function makeVault(options: {
  keys: readonly Uint8Array[]
  now: () => number
  randomBytes?: (size: number) => Uint8Array
}): Vault {
  const { now, randomBytes = pooledRandomBytes } = options
  const cipher = makeCipher(options.keys, randomBytes)
  const destroyed = destroyedSeal(randomBytes)
  const cached = new Map<string, { seal: PersonSeal; until: number }>()

  function remember(tenantId: string, userId: string, seal: PersonSeal): void {
    const name = `${tenantId}/${userId}`
    cached.delete(name)
    cached.set(name, { seal, until: now() + CACHED_MS })
    if (cached.size <= CACHED) return
    for (const oldest of cached.keys()) {
      cached.delete(oldest)
      break
    }
  }

  async function read(db: Statements, tenantId: string, userIds: readonly string[]): Promise<Map<string, PersonSeal>> {
    const found = new Map<string, PersonSeal>()
    const missing: string[] = []
    for (const userId of new Set(userIds)) {
      const known = cached.get(`${tenantId}/${userId}`)
      if (known !== undefined && known.until > now()) found.set(userId, known.seal)
      else missing.push(userId)
    }
    if (missing.length === 0) return found
    for (const { userId, sealedKey, isCommitted } of await findPersonKeys(db, tenantId, missing)) {
      const seal = sealedKey === null ? destroyed : openKey(tenantId, userId, sealedKey)
      found.set(userId, seal)
      // A key that goes with the transaction must not be used after it.
      if (isCommitted) remember(tenantId, userId, seal)
    }
    return found
  }

  function openKey(tenantId: string, userId: string, sealedKey: string): PersonSeal {
    const key = Buffer.from(cipher.open(sealedKey, personContext(tenantId, userId)), 'base64')
    return sealOf(key, randomBytes)
  }

  async function ensure(
    db: Statements,
    tenantId: string,
    userIds: readonly string[],
  ): Promise<Map<string, PersonSeal>> {
    const found = await read(db, tenantId, userIds)
    const missing = [...new Set(userIds)].filter((userId) => !found.has(userId))
    for (const [userId, seal] of await create(db, tenantId, missing)) found.set(userId, seal)
    return found
  }

  async function create(
    db: Statements,
    tenantId: string,
    userIds: readonly string[],
  ): Promise<Map<string, PersonSeal>> {
    if (userIds.length === 0) return new Map()
    const keys = [...new Set(userIds)].sort().map((userId) => {
      const key = Buffer.from(randomBytes(KEY_BYTES))
      return { userId, key, sealedKey: cipher.seal(key.toString('base64'), personContext(tenantId, userId)) }
    })
    const stored = await insertPersonKeys(db, tenantId, keys)
    // Whoever has, or had, a key already: what is stored counts.
    const others = userIds.filter((userId) => !stored.has(userId))
    const seals = others.length === 0 ? new Map<string, PersonSeal>() : await read(db, tenantId, others)
    for (const { userId, key } of keys) if (stored.has(userId)) seals.set(userId, sealOf(key, randomBytes))
    return seals
  }

  return {
    cipher,
    people: read,

    ensure,
    create,

    async person(db, tenantId, userId) {
      const seal = (await ensure(db, tenantId, [userId])).get(userId)
      if (seal === undefined) throw new Error('A key is gone within the transaction that wrote it.')
      return seal
    },

    async destroy(db, tenantId, userId) {
      await destroyPersonKey(db, tenantId, userId)
      cached.delete(`${tenantId}/${userId}`)
    },
  }
}

/** Where a person's key belongs: sealed for one person it opens for no other. */
export function personContext(tenantId: string, userId: string): string {
  return `person_keys.sealed_key/${tenantId}/${userId}`
}

/** Whether the stored value is one that a {@link PersonSeal} made. */
export function isSealed(stored: unknown): stored is Sealed {
  if (typeof stored !== 'object' || stored === null) return false
  const { sealed, ...rest } = stored as { sealed?: unknown }
  return typeof sealed === 'string' && Object.keys(rest).length === 0
}

function destroyedSeal(randomBytes: (size: number) => Uint8Array): PersonSeal {
  return {
    isReadable: false,
    seal: (value) => (value === null || value === undefined ? null : { sealed: '' }),
    open: (stored) => (isSealed(stored) ? ERASED : stored),
    // A new one each time: nothing about the erased can be told apart by it.
    fingerprint: () => randomBytes(16),
  }
}

function sealOf(key: Uint8Array, randomBytes: (size: number) => Uint8Array): PersonSeal {
  const cipher = makeCipher([key], randomBytes)
  return {
    isReadable: true,
    seal(value, context) {
      return value === null || value === undefined ? null : { sealed: cipher.seal(JSON.stringify(value), context) }
    },
    open(stored, context) {
      if (!isSealed(stored)) return stored ?? null
      return stored.sealed === '' ? ERASED : JSON.parse(cipher.open(stored.sealed, context))
    },
    fingerprint: (text) => createHmac('sha256', key).update(text).digest().subarray(0, 16),
  }
}
