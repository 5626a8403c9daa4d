import { stringify } from 'uuid'
import { newId } from '../lib/ids.js'
import { sameJson } from '../lib/json.js'
import type { FieldValue } from '../models/synced-fields.js'
import type { Policy } from '../models/tenant.js'
import type { Db, Statements } from './database.js'
import type { PersonSeal, Vault } from './vault.js'

/** A conflict as the sync found it. Times are ISO 8601. */
export interface ConflictRecord {
  field: string
  reason: 'both_changed' | 'overwritten' | 'cannot_clear'
  policy: Policy
  base: FieldValue
  local: FieldValue
  remote: FieldValue
  localAt: string | null
  remoteAt: string | null
  /** Null: open, the field is frozen. */
  winner: 'local' | 'stripe' | null
}

/** A row of `sync_conflicts`. Once the person was erased, its values are `[erased]`. */
export interface ConflictRow extends Omit<ConflictRecord, 'localAt' | 'remoteAt'> {
  id: string
  userId: string
  localAt: Date | null
  remoteAt: Date | null
  status: 'open' | 'resolved'
  detectedAt: Date
  resolvedAt: Date | null
  resolvedBy: string | null
}

/** The columns of a {@link ConflictRow}, under its names. */
const COLUMNS = `id, user_id as "userId", field, reason, policy, base, local, remote, local_at as "localAt",
  remote_at as "remoteAt", winner, status, detected_at as "detectedAt", resolved_at as "resolvedAt", resolved_by as "resolvedBy"`

/** The columns that hold what was in a field: personal data, sealed. */
const VALUES = ['base', 'local', 'remote'] as const

/**
 * Records conflicts. One that is settled is recorded once, however often it is found; an open one is kept up to date with
 * the values that stand against each other now. Answers those that were not known yet.
 */
export async function recordConflicts(
  db: Db,
  vault: Vault,
  tenantId: string,
  userId: string,
  conflicts: ConflictRecord[],
): Promise<ConflictRecord[]> {
  const added: ConflictRecord[] = []
  if (conflicts.length === 0) return added
  const seal = await vault.person(db, tenantId, userId)
  for (const conflict of conflicts) {
    const { field, reason, policy, base, local, remote, localAt, remoteAt, winner } = conflict
    const id = winner === null ? newId() : idOf(seal, JSON.stringify([field, reason, base, local, remote, remoteAt]))
    const values = [
      id,
      tenantId,
      userId,
      field,
      reason,
      policy,
      ...VALUES.map((column) => toJson(seal, column, conflict[column])),
      localAt,
      remoteAt,
      winner,
    ]
    const rows = await db.query<{ isNew: boolean }>(
      `insert into sync_conflicts (id, tenant_id, user_id, field, reason, policy, base, local, remote, local_at, remote_at,
                                   winner, status, resolved_at, resolved_by)
       values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
               case when $12::text is null then 'open' else 'resolved' end,
               case when $12::text is not null then lockstep_now() end,
               case when $12::text is not null then 'policy' end)
       ${
         winner === null
           ? `on conflict (user_id, field) where status = 'open'
              do update set base = excluded.base, local = excluded.local, remote = excluded.remote,
                            local_at = excluded.local_at, remote_at = excluded.remote_at`
           : 'on conflict (id) do nothing'
       }
       returning xmax = 0 as "isNew"`,
      values,
    )
    if (rows[0]?.isNew === true) added.push(conflict)
  }
  return added
}

/** Closes open conflicts of fields that no longer differ: whoever's value both sides hold now has won. */
export async function closeAgreedConflicts(
  db: Db,
  vault: Vault,
  tenantId: string,
  userId: string,
  stillOpen: string[],
  valueNow: (field: string) => FieldValue,
): Promise<void> {
  const rows = await db.query<ConflictRow>(
    `select ${COLUMNS} from sync_conflicts
     where tenant_id = $1 and user_id = $2 and status = 'open' and field <> all($3)`,
    [tenantId, userId, stillOpen],
  )
  for (const row of await openConflicts(db, vault, tenantId, rows)) {
    const winner = sameJson(valueNow(row.field), row.remote) ? 'stripe' : 'local'
    await resolveConflictRow(db, tenantId, row.id, winner, 'agreement')
  }
}

/** Sets the winner of an open conflict, and the values that then stood against each other. Answers whether it was open. */
export async function resolveConflictRow(
  db: Db,
  tenantId: string,
  id: string,
  winner: 'local' | 'stripe',
  resolvedBy: string,
  values: { seal: PersonSeal; local: FieldValue; remote: FieldValue } | null = null,
): Promise<boolean> {
  const rows = await db.query(
    `update sync_conflicts set status = 'resolved', winner = $3, resolved_at = lockstep_now(), resolved_by = $4,
       local = case when $5 then $6::jsonb else local end, remote = case when $5 then $7::jsonb else remote end
     where tenant_id = $1 and id = $2 and status = 'open' returning id`,
    [
      tenantId,
      id,
      winner,
      resolvedBy,
      values !== null,
      values === null ? null : toJson(values.seal, 'local', values.local),
      values === null ? null : toJson(values.seal, 'remote', values.remote),
    ],
  )
  return rows.length === 1
}

export async function findConflict(db: Db, vault: Vault, tenantId: string, id: string): Promise<ConflictRow | null> {
  const rows = await db.query<ConflictRow>(`select ${COLUMNS} from sync_conflicts where tenant_id = $1 and id = $2`, [
    tenantId,
    id,
  ])
  return (await openConflicts(db, vault, tenantId, rows))[0] ?? null
}

/** The latest conflicts of one user, newest first. */
export async function findConflictsOfUser(
  db: Db,
  vault: Vault,
  tenantId: string,
  userId: string,
  limit = 50,
): Promise<ConflictRow[]> {
  const rows = await db.query<ConflictRow>(
    `select ${COLUMNS} from sync_conflicts where tenant_id = $1 and user_id = $2
     order by (status = 'open') desc, detected_at desc, id desc limit $3`,
    [tenantId, userId, limit],
  )
  return openConflicts(db, vault, tenantId, rows)
}

/** The conflicts with their values open, as readers get them. */
export async function openConflicts<Row extends { userId: string; base: unknown; local: unknown; remote: unknown }>(
  db: Statements,
  vault: Vault,
  tenantId: string,
  rows: readonly Row[],
): Promise<Row[]> {
  const seals = await vault.people(
    db,
    tenantId,
    rows.map(({ userId }) => userId),
  )
  return rows.map((row) => ({ ...row, ...openConflictValues(seals.get(row.userId), row) }))
}

/** The values of one conflict, open; nothing where the person has no key, and so nothing sealed. */
export function openConflictValues(
  seal: PersonSeal | undefined,
  row: { [column in (typeof VALUES)[number]]?: unknown },
): { [column in (typeof VALUES)[number]]?: unknown } {
  if (seal === undefined) return {}
  return Object.fromEntries(VALUES.map((column) => [column, seal.open(row[column], contextOf(column))]))
}

/** The same conflict, found again after a crash, has the same id; it lets nobody without the person's key confirm a guess. */
function idOf(seal: PersonSeal, text: string): string {
  const bytes = Uint8Array.from(seal.fingerprint(text))
  // A UUID of version 8 (RFC 9562, 5.8): made in a way of one's own.
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
  return stringify(bytes)
}

function contextOf(column: (typeof VALUES)[number]): string {
  return `sync_conflicts.${column}`
}

function toJson(seal: PersonSeal, column: (typeof VALUES)[number], value: FieldValue): string | null {
  const sealed = seal.seal(value, contextOf(column))
  return sealed === null ? null : JSON.stringify(sealed)
}

/** Closes what is open of a user whom nothing is decided for any more: its values stay as they are. */
export async function closeConflictsOfUser(db: Db, tenantId: string, userId: string, by: string): Promise<void> {
  await db.query(
    `update sync_conflicts set status = 'resolved', winner = 'local', resolved_at = lockstep_now(), resolved_by = $3
     where tenant_id = $1 and user_id = $2 and status = 'open'`,
    [tenantId, userId, by],
  )
}
