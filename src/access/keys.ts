import { createHash, randomBytes, randomInt, timingSafeEqual } from 'node:crypto'
import type { Clock } from '../lib/clock.js'
import { ConflictError, LockstepError, NotFoundError } from '../lib/errors.js'
import { isRole, type Permission, permissionsOf, type Role } from '../models/roles.js'
import {
  type ApiKeyRow,
  expireApiKey,
  findApiKey,
  findApiKeyByHash,
  insertApiKey,
  listApiKeys,
  revokeApiKey,
  touchApiKey,
} from '../repositories/api-keys.js'
import { type Actor, writeAudit } from '../repositories/audit-log.js'
import type { Page, Position } from '../repositories/cursor.js'
import { DatabaseError } from '../repositories/errors.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { inTransaction, type PrismaDb } from '../repositories/prisma.js'

/** Who asks, for which tenant, and what they may do. */
export interface Principal {
  tenantId: string
  /** As the audit log names them: `key:<id>`, or `jwt:<subject>`. */
  actor: string
  role: Role
  permissions: ReadonlySet<Permission>
}

/** What a new key is to be. */
export interface KeySpec {
  name: string
  role: Role
  /** The only permissions; none: all of the role. */
  scopes?: readonly Permission[]
  expiresAt?: Date | null
}

/** A key as lists show it: all but the secret, which is not kept. */
export type ApiKeySummary = Omit<ApiKeyRow, 'hash'>

/** A key as it is shown this once, to whoever asked for it. */
export type NewKey = ApiKeySummary & { key: string }

/** How long a verified key is believed without asking the database, in milliseconds: the longest a revoked key still works. */
const CACHE_MS = 1_000
/** Bounds the memory that many keys, or a guesser, can take. */
const CACHE_SIZE = 1_000
/** Stands for the prefix of a key that has none. */
const CHOSEN = 'chosen'
const PREFIX_LENGTH = 8
const PREFIX_ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789'
const SECRET_BYTES = 32
/** No key is longer; a longer text is not worth hashing. */
const MAX_KEY_LENGTH = 512
/** The shortest key that an operator may choose (`LOCKSTEP_ADMIN_KEY`): 128 bits in hex. */
export const MIN_CHOSEN_KEY_LENGTH = 32

/** A new key: `lsk_<prefix>_<secret>`, the secret 256 random bits. The prefix names it in lists and in a leak scanner's find. */
export function generateKey(): string {
  const prefix = Array.from({ length: PREFIX_LENGTH }, () => PREFIX_ALPHABET[randomInt(PREFIX_ALPHABET.length)]).join(
    '',
  )
  return `lsk_${prefix}_${randomBytes(SECRET_BYTES).toString('base64url')}`
}

/** What is kept of a key. Its 256 bits cannot be guessed, so one round of SHA-256 suffices. */
export function hashKey(key: string): string {
  return createHash('sha256').update(key).digest('hex')
}

/** The part of a key that may be shown. A key that an operator chose has none. */
export function prefixOf(key: string): string {
  return /^lsk_([a-z0-9]{8})_/.exec(key)?.[1] ?? CHOSEN
}

export type ApiKeys = ReturnType<typeof makeApiKeys>

/**
 * Makes, checks and ends API keys. All throw `DatabaseError` when the database is gone.
 *
 * @param prisma sees the keys of all tenants: whose key it is, is known only once it is found
 * @param requests what is asked for a tenant goes this way, where it can see that tenant only; `prisma` unless given
 */
export function makeApiKeys({
  prisma,
  requests = prisma,
  clock,
}: {
  prisma: PrismaClient
  requests?: PrismaClient
  clock: Clock
}) {
  const believed = new Map<string, { principal: Principal; until: number; expiresAt: number }>()

  function remember(hash: string, principal: Principal, expiresAt: Date | null): void {
    if (believed.size >= CACHE_SIZE) believed.clear()
    believed.set(hash, {
      principal,
      until: clock.now() + CACHE_MS,
      expiresAt: expiresAt?.getTime() ?? Number.POSITIVE_INFINITY,
    })
  }

  async function insert(by: Actor, key: string, spec: KeySpec, tx: PrismaDb): Promise<ApiKeyRow> {
    const { name, role, scopes = [], expiresAt = null } = spec
    const row = await insertApiKey(tx, {
      name,
      role,
      scopes: [...scopes],
      expiresAt,
      tenantId: by.tenantId,
      prefix: prefixOf(key),
      hash: hashKey(key),
    })
    await writeAudit(tx, by, {
      action: 'api_key.create',
      entity: 'api_key',
      entityId: row.id,
      changes: { name, role, scopes: [...scopes], expiresAt: expiresAt?.toISOString() ?? null },
    })
    return row
  }

  return {
    /** Makes a key. `key` is the only copy there will ever be. */
    async create(by: Actor, spec: KeySpec): Promise<NewKey> {
      const key = generateKey()
      return { key, ...summaryOf(await inTransaction(requests, (tx) => insert(by, key, spec, tx))) }
    },

    /** The same within a transaction of the caller's, which decides whether there is a key. Answers the key. */
    async createWithin(tx: PrismaDb, by: Actor, spec: KeySpec): Promise<string> {
      const key = generateKey()
      await insert(by, key, spec, tx)
      return key
    },

    /**
     * Makes a key that can do the same, and ends the old one after `graceMs`, so that whoever holds it has time to change over.
     *
     * @param may what whoever asks may do themselves
     * @throws {NotFoundError} when the tenant has no such live key.
     * @throws {ConflictError} `chosen_key` for one that an operator chose.
     * @throws {LockstepError} `permission_denied` for a key that may do more than whoever asks.
     */
    async rotate(by: Actor, id: string, graceMs: number, may: ReadonlySet<Permission>): Promise<NewKey> {
      const now = clock.now()
      const key = generateKey()
      const row = await inTransaction(requests, async (tx) => {
        const old = await findApiKey(tx, by.tenantId, id)
        if (old === null || !isLive(old, now) || !isRole(old.role)) throw new NotFoundError('live API key', id)
        if (old.prefix === CHOSEN) {
          throw new ConflictError(
            'This key was chosen by an operator: set another LOCKSTEP_ADMIN_KEY, restart, and revoke this one.',
            'chosen_key',
          )
        }
        const { name, role, expiresAt } = old
        mustCover(may, old)
        const made = await insert(by, key, { name, role, scopes: old.scopes as Permission[], expiresAt }, tx)
        await expireApiKey(tx, by.tenantId, id, new Date(Math.min(now + graceMs, expiresAt?.getTime() ?? Infinity)))
        await writeAudit(tx, by, {
          action: 'api_key.rotate',
          entity: 'api_key',
          entityId: id,
          changes: { to: made.id },
        })
        return made
      })
      believed.clear()
      return { key, ...summaryOf(row) }
    },

    /**
     * Sees to it that `key`, which an operator chose, works with this role for the tenant; safe to call at every start.
     *
     * @throws {LockstepError} `key_too_short`, or `key_taken` when it is another tenant's, has another role, or was revoked.
     */
    async ensure(by: Actor, key: string, spec: { name: string; role: Role }): Promise<void> {
      if (key.length < MIN_CHOSEN_KEY_LENGTH || key.length > MAX_KEY_LENGTH) {
        throw new LockstepError(
          `The key '${spec.name}' must have ${MIN_CHOSEN_KEY_LENGTH} to ${MAX_KEY_LENGTH} characters; make one with: openssl rand -hex 32`,
          { code: 'key_too_short' },
        )
      }
      const fits = (row: ApiKeyRow | null) =>
        row !== null && row.tenantId === by.tenantId && row.role === spec.role && row.revokedAt === null
      const present = await findApiKeyByHash(prisma, hashKey(key))
      if (fits(present)) return
      try {
        if (present === null) {
          await inTransaction(prisma, (tx) => insert(by, key, spec, tx))
          return
        }
      } catch (error) {
        // Another process that starts with the same key was faster.
        if (!(error instanceof DatabaseError && error.isUniqueViolation)) throw error
        if (fits(await findApiKeyByHash(prisma, hashKey(key)))) return
      }
      throw new LockstepError(
        `The key '${spec.name}' was revoked, or belongs to another tenant or role. Choose a new one.`,
        { code: 'key_taken' },
      )
    },

    /** Whose key this is, or null when it is none, was revoked, or has expired. */
    async verify(key: string): Promise<Principal | null> {
      if (key.length > MAX_KEY_LENGTH) return null
      const hash = hashKey(key)
      const now = clock.now()
      const known = believed.get(hash)
      if (known !== undefined && now < known.until && now < known.expiresAt) return known.principal
      believed.delete(hash)

      const row = await findApiKeyByHash(prisma, hash)
      if (row === null || !timingSafeEqual(Buffer.from(row.hash), Buffer.from(hash))) return null
      if (!isLive(row, now) || !isRole(row.role)) return null
      const permissions = permissionsOf(row.role, row.scopes)
      const principal: Principal = { tenantId: row.tenantId, actor: `key:${row.id}`, role: row.role, permissions }
      remember(hash, principal, row.expiresAt)
      await touchApiKey(prisma, row.tenantId, row.id, new Date(now))
      return principal
    },

    /** A page of the tenant's keys, newest first, those that ended too. */
    async list(tenantId: string, page: { limit: number; after: Position | null }): Promise<Page<ApiKeySummary>> {
      const found = await listApiKeys(requests, tenantId, page)
      return { ...found, data: found.data.map(summaryOf) }
    },

    /**
     * Ends a key; it works for at most a second more. Answers whether there was one to end.
     *
     * @param may what whoever asks may do themselves; absent: all
     * @throws {LockstepError} `permission_denied` for a key that may do more.
     */
    async revoke(by: Actor, id: string, may?: ReadonlySet<Permission>): Promise<boolean> {
      const revoked = await inTransaction(requests, async (tx) => {
        const key = may === undefined ? null : await findApiKey(tx, by.tenantId, id)
        if (may !== undefined && key !== null) mustCover(may, key)
        const done = await revokeApiKey(tx, by.tenantId, id, new Date(clock.now()))
        if (done) await writeAudit(tx, by, { action: 'api_key.revoke', entity: 'api_key', entityId: id, changes: null })
        return done
      })
      if (revoked) believed.clear()
      return revoked
    },
  }
}

/** Who may do less than a key neither gets one like it nor takes it from others. */
function mustCover(may: ReadonlySet<Permission>, { role, scopes }: Pick<ApiKeyRow, 'role' | 'scopes'>): void {
  if (!isRole(role) || [...permissionsOf(role, scopes)].every((permission) => may.has(permission))) return
  throw new LockstepError('That key may do more than yours; use one that may do as much.', {
    code: 'permission_denied',
  })
}

function summaryOf({ hash: _hash, ...row }: ApiKeyRow): ApiKeySummary {
  return row
}

function isLive({ revokedAt, expiresAt }: ApiKeyRow, now: number): boolean {
  return revokedAt === null && (expiresAt === null || expiresAt.getTime() > now)
}
