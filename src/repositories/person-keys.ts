import type { Statements } from './database.js'

/** A person's key as it is stored; `sealedKey` is null once it was destroyed. */
export interface PersonKeyRow {
  userId: string
  sealedKey: string | null
  /** Whether the row stays if the present transaction is rolled back. */
  isCommitted: boolean
}

/** The keys of these people; who has none is absent. */
export async function findPersonKeys(
  db: Statements,
  tenantId: string,
  userIds: readonly string[],
): Promise<PersonKeyRow[]> {
  return db.query<PersonKeyRow>(
    `select user_id as "userId", sealed_key as "sealedKey",
            xmin is distinct from pg_current_xact_id_if_assigned()::xid as "isCommitted"
     from person_keys where tenant_id = $1::uuid and user_id = any($2::uuid[])`,
    [tenantId, [...userIds]],
  )
}

/** Stores keys, but for those who have one, or had one. Answers whose key it stored. */
export async function insertPersonKeys(
  db: Statements,
  tenantId: string,
  keys: readonly { userId: string; sealedKey: string }[],
): Promise<Set<string>> {
  const rows = await db.query<{ userId: string }>(
    `insert into person_keys (tenant_id, user_id, sealed_key)
     select $1::uuid, k.id, k.sealed from unnest($2::uuid[], $3::text[]) as k (id, sealed) on conflict do nothing
     returning user_id as "userId"`,
    [tenantId, keys.map(({ userId }) => userId), keys.map(({ sealedKey }) => sealedKey)],
    'insert-person-keys',
  )
  return new Set(rows.map(({ userId }) => userId))
}

/** Destroys the person's key, and sees to it that none is made later. */
export async function destroyPersonKey(db: Statements, tenantId: string, userId: string): Promise<void> {
  await db.query(
    `insert into person_keys (tenant_id, user_id, sealed_key, destroyed_at) values ($1::uuid, $2::uuid, null, lockstep_now())
     on conflict (tenant_id, user_id) do update set sealed_key = null, destroyed_at = lockstep_now()
     where person_keys.sealed_key is not null`,
    [tenantId, userId],
  )
}

/** Up to `limit` keys that another key than this one seals, after the user `after`, across tenants. */
export async function findKeysSealedOtherwise(
  db: Statements,
  keyId: string,
  after: { tenantId: string; userId: string } | null,
  limit: number,
): Promise<{ tenantId: string; userId: string; sealedKey: string }[]> {
  return db.query<{ tenantId: string; userId: string; sealedKey: string }>(
    `select tenant_id as "tenantId", user_id as "userId", sealed_key as "sealedKey" from person_keys
     where sealed_key not like 'v1.' || $1 || '.%'
       and ($2::uuid is null or (tenant_id, user_id) > ($2::uuid, $3::uuid))
     order by tenant_id, user_id limit $4`,
    [keyId, after?.tenantId ?? null, after?.userId ?? null, limit],
  )
}

/** Replaces a sealed key if it still is `before`. Answers whether it was. */
export async function replacePersonKey(
  db: Statements,
  tenantId: string,
  userId: string,
  before: string,
  after: string,
): Promise<boolean> {
  const rows = await db.query(
    `update person_keys set sealed_key = $4 where tenant_id = $1::uuid and user_id = $2::uuid and sealed_key = $3
     returning user_id`,
    [tenantId, userId, before, after],
  )
  return rows.length === 1
}
