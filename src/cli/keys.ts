import type { ApiKeySummary, ApiKeys } from '../access/keys.js'
import { systemClock } from '../lib/clock.js'
import { isId } from '../lib/ids.js'
import { allows, type Permission, type Role } from '../models/roles.js'
import { API_KEY_ORDER } from '../repositories/api-keys.js'
import type { Actor } from '../repositories/audit-log.js'
import { decodeCursor } from '../repositories/cursor.js'
import { actorFor, type Context, openForCommand } from './database.js'

const PAGE = 100

/** `lockstep keys create`: prints the new key, and nothing else, to stdout. */
export async function runKeysCreate(
  context: Context,
  flags: { name: string; role: Role; scope?: Permission[]; expires?: Date; tenant?: string },
): Promise<number> {
  const { name, role, scope = [], expires = null } = flags
  if (role === 'operator' && flags.tenant !== undefined) {
    process.stderr.write('An operator looks after the installation, and belongs to no tenant: leave --tenant out.\n')
    return 1
  }
  const beyond = scope.filter((permission) => !allows(role, permission))
  if (beyond.length > 0) {
    process.stderr.write(
      `The role '${role}' does not have ${beyond.join(', ')}: choose a higher --role, or leave it out.\n`,
    )
    return 1
  }
  const { keys, by } = await openKeys(context, flags.tenant)
  const { key } = await keys.create(by, { name, role, scopes: scope, expiresAt: expires })
  process.stdout.write(`${key}\n`)
  return 0
}

/** `lockstep keys list`: a line for each key, newest first. */
export async function runKeysList(context: Context, { tenant }: { tenant?: string }): Promise<number> {
  const { keys, by } = await openKeys(context, tenant)
  let cursor: string | null = null
  do {
    const after = cursor === null ? null : decodeCursor(cursor, API_KEY_ORDER, isId)
    const page = await keys.list(by.tenantId, { limit: PAGE, after })
    for (const key of page.data) process.stdout.write(`${lineOf(key, systemClock.now())}\n`)
    cursor = page.nextCursor
  } while (cursor !== null)
  return 0
}

/** `lockstep keys revoke <id>`: ends a key. Exit code 1 when there is no such live key. */
export async function runKeysRevoke(context: Context, id: string, { tenant }: { tenant?: string }): Promise<number> {
  const { keys, by } = await openKeys(context, tenant)
  const isEnded = isId(id) && (await keys.revoke(by, id))
  if (isEnded) process.stdout.write('It is ended, and works for a second more at most.\n')
  else process.stderr.write(`There is no live key with the id '${id}'; see: lockstep keys list\n`)
  return isEnded ? 0 : 1
}

async function openKeys(context: Context, tenant?: string): Promise<{ keys: ApiKeys; by: Actor }> {
  const { db, keys } = await openForCommand(context)
  return { keys, by: await actorFor(db, tenant) }
}

function lineOf(
  { id, prefix, name, role, scopes, expiresAt, revokedAt, lastUsedAt }: ApiKeySummary,
  now: number,
): string {
  const state =
    revokedAt !== null
      ? 'revoked'
      : expiresAt !== null && expiresAt.getTime() <= now
        ? 'expired'
        : expiresAt !== null
          ? `until ${expiresAt.toISOString()}`
          : 'live'
  const used = lastUsedAt === null ? 'never used' : `used ${lastUsedAt.toISOString()}`
  const may = scopes.length === 0 ? role : `${role} (${scopes.join(' ')})`
  return [id, prefix.padEnd(8), state, may, used, name].join('  ')
}
