import type { ConsentChange, NewConsentChange } from '../models/consent.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import type { Db } from './database.js'
import type { PrismaDb } from './prisma.js'

/** The order of the history of consents, as its cursors name it. */
export const CONSENT_ORDER = '-recordedAt'

const COLUMNS = `id, customer_id as "customerId", purpose, status, source, version, text, evidence, actor, at,
  recorded_at as "recordedAt", merged_from as "mergedFrom"`

/** The latest by the time of the person's word; of two at one moment the withdrawal, since that must never be lost. */
const LATEST = `at desc, (status = 'withdrawn') desc, recorded_at desc, id desc`

/** What holds now, for each purpose of the customer that anything was recorded of, by purpose. */
export async function findConsents(db: Db, tenantId: string, customerId: string): Promise<ConsentChange[]> {
  return db.query<ConsentChange>(
    `select distinct on (purpose) ${COLUMNS} from consent_changes
     where tenant_id = $1 and customer_id = $2 order by purpose, ${LATEST}`,
    [tenantId, customerId],
  )
}

/** What holds now for one purpose; null when nothing was recorded of it. */
export async function findConsent(
  db: Db,
  tenantId: string,
  customerId: string,
  purpose: string,
): Promise<ConsentChange | null> {
  const rows = await db.query<ConsentChange>(
    `select ${COLUMNS} from consent_changes
     where tenant_id = $1 and customer_id = $2 and purpose = $3 order by ${LATEST} limit 1`,
    [tenantId, customerId, purpose],
  )
  return rows[0] ?? null
}

/** Whether this very word, of this very moment, is recorded already. */
export async function hasConsentChange(db: Db, tenantId: string, change: NewConsentChange): Promise<boolean> {
  const { customerId, purpose, status, source, version, text, evidence, at } = change
  const rows = await db.query(
    `select from consent_changes
     where tenant_id = $1 and customer_id = $2 and purpose = $3 and status = $4 and source = $5 and at = $6
       and version is not distinct from $7 and text is not distinct from $8 and evidence = $9 limit 1`,
    [tenantId, customerId, purpose, status, source, at, version, text, JSON.stringify(evidence)],
  )
  return rows.length > 0
}

/** How many purposes the customer has anything recorded of, other than this one. */
export async function countOtherPurposes(
  db: Db,
  tenantId: string,
  customerId: string,
  purpose: string,
): Promise<number> {
  const rows = await db.query<{ purposes: number }>(
    `select count(distinct purpose)::int as purposes from consent_changes
     where tenant_id = $1 and customer_id = $2 and purpose <> $3`,
    [tenantId, customerId, purpose],
  )
  return rows[0]?.purposes ?? 0
}

/** Adds to the history; at the latest now, since a word dated ahead by a wrong clock would hide those that follow it. */
export async function insertConsentChange(db: Db, tenantId: string, change: NewConsentChange): Promise<void> {
  const { customerId, purpose, status, source, version, text, evidence, actor, at } = change
  await db.query(
    `insert into consent_changes (tenant_id, customer_id, purpose, status, source, version, text, evidence, actor, at)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, least($10, lockstep_now()))`,
    [tenantId, customerId, purpose, status, source, version, text, JSON.stringify(evidence), actor, at],
  )
}

/** A page of all that was recorded, latest recorded first. */
export async function listConsentChanges(
  db: Db,
  tenantId: string,
  { customerId, purpose }: { customerId: string; purpose: string | null },
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<ConsentChange>> {
  const rows = await db.query<ConsentChange & { cursorValue: string }>(
    `select ${COLUMNS}, to_char(recorded_at at time zone 'UTC', $3) as "cursorValue" from consent_changes
     where tenant_id = $1 and customer_id = $2 and ($4::text is null or purpose = $4)
       and ($5::timestamptz is null or (recorded_at, id) < ($5, $6::uuid))
     order by recorded_at desc, id desc limit $7`,
    [tenantId, customerId, CURSOR_TIME_FORMAT, purpose, after?.value ?? null, after?.id ?? null, limit + 1],
  )
  const page = pageOf(rows, limit, CONSENT_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => row) }
}

/** Makes one customer's consents another's, of the same person. Answers how many. */
export async function moveConsents(db: Db, tenantId: string, fromId: string, toId: string): Promise<number> {
  const rows = await db.query(
    `update consent_changes set customer_id = $3, merged_from = coalesce(merged_from, customer_id)
     where tenant_id = $1 and customer_id = $2 returning id`,
    [tenantId, fromId, toId],
  )
  return rows.length
}

/** Takes the values out of the evidence of an erased person's consents. That it was there, and all else, stays as proof. */
export async function emptyEvidence(tx: PrismaDb, tenantId: string, customerId: string): Promise<void> {
  await tx.$executeRaw`
    update consent_changes set evidence = (select jsonb_object_agg(key, null) from jsonb_object_keys(evidence) as key)
    where tenant_id = ${tenantId}::uuid and customer_id = ${customerId}::uuid and evidence <> '{}'`
}
