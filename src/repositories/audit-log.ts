import { newId } from '../lib/ids.js'
import { type FieldChanges, mapFieldValues } from '../models/audit.js'
import { type Statements, statementsOf } from './database.js'
import type { PrismaDb } from './prisma.js'
import { ERASED, isSealed, type PersonSeal } from './vault.js'

/** Who asks, for whom, and by which request: what every write needs for its audit entry. */
export interface Actor {
  tenantId: string
  /** `key:<id>`, `cli`, `system`; `stripe` for an edit there, `sync` for what the sync did: never a name or an address. */
  actor: string
  requestId: string | null
  ip: string | null
}

/** What was done to what. */
export interface AuditRecord {
  action: string
  entity: string
  entityId: string
  /**
   * Holds no personal data in clear: values of a customer's fields go into `fields`, by {@link sealFields}, in an entry of
   * entity `customer` with that customer's id. `revision` is the row's, after the change: without it, in the same transaction, a
   * trigger takes the change for one that nobody recorded.
   */
  changes: Readonly<Record<string, unknown>> | null
  /** What led to it: an event `evt_…`, `run:<id>`, `conflict:<id>`, `duplicate:<id>`. */
  cause?: string | null
  /** The times of edits at Stripe, ISO 8601: the entry is then caused by what brought one of them. */
  causedAt?: readonly string[]
  /** Of an entry that may be written twice and is to be there once. */
  id?: string
}

/** Where the sealed values of the log belong. */
const CONTEXT = 'audit_log.changes'
/** How many of a customer's latest entries are looked through for what caused a change. */
const CAUSE_DEPTH = 100

/** Who the sync is in the log: `stripe` for an edit that was made there, `sync` for what it did itself. */
export function syncActor(tenantId: string, actor: 'stripe' | 'sync' = 'sync'): Actor {
  return { tenantId, actor, requestId: null, ip: null }
}

/** Writes an entry; call it in the transaction of the change, so that neither is there without the other. */
export async function writeAudit(tx: PrismaDb, by: Actor, record: AuditRecord): Promise<void> {
  await recordAudit(statementsOf(tx), by, record)
}

/** {@link writeAudit} for code that speaks SQL; several entries go in one statement. */
export async function recordAudit(db: Statements, by: Actor, ...records: readonly AuditRecord[]): Promise<void> {
  if (records.length === 0) return
  const rows = records.map((record) => ({
    id: record.id ?? newId(),
    action: record.action,
    entity: record.entity,
    entity_id: record.entityId,
    changes: record.changes,
    cause: record.cause ?? null,
    caused_at: record.causedAt ?? null,
  }))
  const recorded = records.flatMap(({ entity, entityId, changes }) =>
    entity === 'customer' && typeof changes?.revision === 'number' ? `${entityId}:${changes.revision};` : [],
  )
  await db.query(
    `insert into audit_log (id, tenant_id, actor, action, entity, entity_id, changes, cause, request_id, ip)
     select r.id, $1::uuid, $2, r.action, r.entity, r.entity_id, r.changes,
       case when r.caused_at is null then r.cause else (
         select e.cause from (
           select cause, changes, at from audit_log
           where tenant_id = $1::uuid and entity = r.entity and entity_id = r.entity_id order by at desc limit ${CAUSE_DEPTH}
         ) e
         where e.cause is not null and r.caused_at ? (e.changes ->> 'editedAt') order by e.at desc limit 1
       ) end, $3, $4
     from jsonb_to_recordset($5::jsonb) as r (
       id uuid, action text, entity text, entity_id text, changes jsonb, cause text, caused_at jsonb)
     cross join (
       select set_config('lockstep.recorded', coalesce(current_setting('lockstep.recorded', true), '') || $6, true) as recorded
     ) as noted
     where noted.recorded is not null
     on conflict (id) do nothing`,
    [by.tenantId, by.actor, by.requestId, by.ip, JSON.stringify(rows), recorded.join('')],
    'record-audit',
  )
}

/** The changes as the log may keep them: values sealed for the person, but those of `type` and `state`. */
export function sealFields(seal: PersonSeal, fields: FieldChanges): FieldChanges {
  // One value mostly stands in several places: what one side had is what both had agreed on.
  const sealed = new Map<string, unknown>()
  return mapFieldValues(fields, (value) => {
    const name = JSON.stringify(value) ?? ''
    if (!sealed.has(name)) sealed.set(name, seal.seal(value, CONTEXT))
    return sealed.get(name)
  })
}

/**
 * The changes of an entry with their values open; `[erased]` where the person's key is gone. Throws UnsealError.
 *
 * @param seal the person's; null when there is none
 */
export function openChanges(seal: PersonSeal | null, changes: unknown): unknown {
  if (Array.isArray(changes)) return changes.map((part) => openChanges(seal, part))
  if (typeof changes !== 'object' || changes === null) return changes
  if (isSealed(changes)) return seal === null ? ERASED : seal.open(changes, CONTEXT)
  return Object.fromEntries(Object.entries(changes).map(([name, part]) => [name, openChanges(seal, part)]))
}
