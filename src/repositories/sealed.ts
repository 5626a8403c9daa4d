import { type Cipher, UnsealError } from '../lib/cipher.js'
import { LockstepError } from '../lib/errors.js'
import { stripeKeyContext, webhookSecretContext } from '../models/tenant.js'
import type { Db, Statements } from './database.js'
import {
  DELIVERIES_CONTEXT,
  findBatchesSealedOtherwise,
  replaceSealedBatch,
  type SealedBatch,
} from './delivery-batches.js'
import { findKeysSealedOtherwise, replacePersonKey } from './person-keys.js'
import { findPayloadsSealedOtherwise, type PayloadPlace, payloadContext, replacePayload } from './stripe-events.js'
import { personContext } from './vault.js'

/** Rows that one step of a rotation looks at. */
const BATCH = 500
/** The same of rows that may be of megabytes. */
const FEW = 20

/** One sealed text, where it belongs, and how another is put in its place. */
interface SealedText {
  sealed: string
  context: string
  /** Stores `after` if the text is still there; answers whether it was. */
  replace(tx: Statements, after: string): Promise<boolean>
}

/** A place where texts are kept that the installation's key seals. */
interface Place {
  name: string
  /** The ids of the keys that seal something there; cheap, since every start asks. */
  keyIds(db: Statements): Promise<string[]>
  /** Texts that another key than this one seals, in batches; a text that is replaced meanwhile is not met again. */
  sealedOtherwise(db: Statements, keyId: string): AsyncIterable<SealedText[]>
}

/** Every place. What is sealed elsewhere would be lost when a key is retired. */
const PLACES: readonly Place[] = [
  {
    name: 'tenants',
    async keyIds(db) {
      const rows = await db.query<{ id: string }>(
        `select distinct substr(sealed, 4, 16) as id from tenants,
           unnest(stripe_webhook_secrets || stripe_secret_key) as sealed where sealed is not null`,
      )
      return rows.map(({ id }) => id)
    },
    async *sealedOtherwise(db, keyId) {
      let after: string | null = null
      for (;;) {
        const rows: TenantSecrets[] = await db.query<TenantSecrets>(
          `select id, stripe_secret_key as "secretKey", stripe_webhook_secrets as "webhookSecrets" from tenants
           where ($1::uuid is null or id > $1::uuid) and exists (
             select from unnest(stripe_webhook_secrets || stripe_secret_key) as sealed
             where sealed not like 'v1.' || $2 || '.%')
           order by id limit $3`,
          [after, keyId, BATCH],
        )
        if (rows.length === 0) return
        after = rows.at(-1)?.id ?? null
        yield rows.flatMap(secretsOf).filter(({ sealed }) => !sealed.startsWith(`v1.${keyId}.`))
      }
    },
  },
  {
    name: 'person_keys',
    keyIds: (db) => keyIdsIn(db, 'person_keys', 'substr(sealed_key, 4, 16)', 'sealed_key is not null'),
    async *sealedOtherwise(db, keyId) {
      let after: { tenantId: string; userId: string } | null = null
      for (;;) {
        const rows = await findKeysSealedOtherwise(db, keyId, after, BATCH)
        if (rows.length === 0) return
        after = rows.at(-1) ?? null
        yield rows.map(({ tenantId, userId, sealedKey }) => ({
          sealed: sealedKey,
          context: personContext(tenantId, userId),
          replace: (tx: Statements, next: string) => replacePersonKey(tx, tenantId, userId, sealedKey, next),
        }))
      }
    },
  },
  {
    // Few at any time: what is in them is filed at once, by the present key.
    name: 'delivery_batches',
    async keyIds(db) {
      const rows = await db.query<{ id: string }>('select distinct substr(sealed, 4, 16) as id from delivery_batches')
      return rows.map(({ id }) => id)
    },
    async *sealedOtherwise(db, keyId) {
      let after: string | null = null
      for (;;) {
        const rows: SealedBatch[] = await findBatchesSealedOtherwise(db, keyId, after, FEW)
        if (rows.length === 0) return
        after = rows.at(-1)?.id ?? null
        yield rows.map((row) => ({
          sealed: row.sealed,
          context: DELIVERIES_CONTEXT,
          replace: (tx: Statements, next: string) => replaceSealedBatch(tx, row, next),
        }))
      }
    },
  },
  {
    name: 'stripe_events',
    keyIds: (db) => keyIdsIn(db, 'stripe_events', "substr(payload ->> 'sealed', 4, 16)", "payload ? 'sealed'"),
    async *sealedOtherwise(db, keyId) {
      let after: PayloadPlace | null = null
      for (;;) {
        const rows: PayloadPlace[] = await findPayloadsSealedOtherwise(db, keyId, after, BATCH)
        if (rows.length === 0) return
        after = rows.at(-1) ?? null
        yield rows.map(({ tenantId, id, sealed }) => ({
          sealed,
          context: payloadContext(tenantId, id),
          replace: (tx: Statements, next: string) => replacePayload(tx, { tenantId, id, sealed }, next),
        }))
      }
    },
  },
]

/** By steps through the index from one key's id to the next: the table is long, and the keys are few. */
async function keyIdsIn(db: Statements, table: string, id: string, where: string): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `with recursive ids as (
       select min(${id}) as id from ${table} where ${where}
       union all
       select (select min(${id}) from ${table} where ${where} and ${id} > ids.id) from ids where ids.id is not null
     ) select id from ids where id is not null`,
  )
  return rows.map((row) => row.id)
}

interface TenantSecrets {
  id: string
  secretKey: string | null
  webhookSecrets: string[]
}

function secretsOf({ id, secretKey, webhookSecrets }: TenantSecrets): SealedText[] {
  const replacing = (sql: string, sealed: string) => async (tx: Statements, after: string) =>
    (await tx.query(sql, [id, sealed, after])).length === 1
  const ofKey = `update tenants set stripe_secret_key = $3 where id = $1::uuid and stripe_secret_key = $2 returning id`
  const ofWebhook = `update tenants set stripe_webhook_secrets = array_replace(stripe_webhook_secrets, $2::text, $3::text)
    where id = $1::uuid and $2::text = any(stripe_webhook_secrets) returning id`
  return [
    ...(secretKey === null
      ? []
      : [{ sealed: secretKey, context: stripeKeyContext(id), replace: replacing(ofKey, secretKey) }]),
    ...webhookSecrets.map((sealed) => ({
      sealed,
      context: webhookSecretContext(id),
      replace: replacing(ofWebhook, sealed),
    })),
  ]
}

/** The ids of the keys that seal something in this database. */
export async function sealingKeyIds(db: Statements): Promise<string[]> {
  const ids = await Promise.all(PLACES.map((place) => place.keyIds(db)))
  return [...new Set(ids.flat())].sort()
}

/**
 * Sees to it that all that is sealed here can be opened, so that nobody works for days with the wrong key.
 *
 * @throws {LockstepError} `encryption_key_missing`, naming the keys that are not configured
 */
export async function refuseUnknownKeys(db: Statements, { cipher }: { cipher: Cipher }): Promise<void> {
  const missing = (await sealingKeyIds(db)).filter((id) => !cipher.keyIds.includes(id))
  if (missing.length === 0) return
  throw new LockstepError(
    `The database holds what was sealed with ${missing.length === 1 ? 'the key' : 'the keys'} ${missing.join(', ')}, but ` +
      `LOCKSTEP_ENCRYPTION_KEY has only ${cipher.keyIds.join(', ')}. Set the key that this database was used with; to replace ` +
      'it, put the new one first and that one after a comma.',
    { code: 'encryption_key_missing' },
  )
}

/** How far a rotation is. */
export interface Rotation {
  /** What another key than the present one sealed. */
  found: number
  /** Of that, what is sealed with the present key now. Nothing in a dry run. */
  resealed: number
  /** What none of the configured keys opens, by place. */
  unopened: Record<string, number>
}

/**
 * Seals with the present key what others sealed. Safe beside a running service, and to stop and repeat: a text is replaced only
 * if nobody else did so meanwhile.
 *
 * @param onProgress after each batch
 */
export async function resealAll(
  db: Db,
  cipher: Cipher,
  { dryRun, onProgress }: { dryRun: boolean; onProgress(rotation: Rotation): void },
): Promise<Rotation> {
  const rotation: Rotation = { found: 0, resealed: 0, unopened: {} }
  for (const place of PLACES) {
    for await (const batch of place.sealedOtherwise(db, cipher.keyId)) {
      const opened = batch.flatMap((one) => {
        const text = tryOpen(cipher, one.sealed, one.context)
        return text === null ? [] : [{ ...one, text }]
      })
      rotation.found += batch.length
      const lost = batch.length - opened.length
      if (lost > 0) rotation.unopened[place.name] = (rotation.unopened[place.name] ?? 0) + lost
      if (!dryRun) {
        rotation.resealed += await db.transaction(async (tx) => {
          let count = 0
          for (const { text, context, replace } of opened) {
            if (await replace(tx, cipher.seal(text, context))) count += 1
          }
          return count
        })
      }
      onProgress(rotation)
    }
  }
  return rotation
}

function tryOpen(cipher: Cipher, sealed: string, context: string): string | null {
  try {
    return cipher.open(sealed, context)
  } catch (error) {
    if (error instanceof UnsealError) return null
    throw error
  }
}
