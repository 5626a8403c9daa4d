import type { Cipher } from '../lib/cipher.js'
import { openSnapshot, type StoredSnapshot } from './attendees.js'
import { openChanges } from './audit-log.js'
import type { Db } from './database.js'
import { openPayload } from './stripe-events.js'
import { openWriteValues } from './stripe-writes.js'
import { openConflictValues } from './sync-conflicts.js'
import type { PersonSeal, Vault } from './vault.js'

/** Whose data: the customer, those that were merged into it, and the Stripe customers that any of them ever had. */
export interface Person {
  tenantId: string
  customerIds: string[]
  stripeCustomerIds: string[]
}

/** One kind of record about a person, read page by page. */
interface Section {
  /**
   * Selects `at` and `id`, by which the pages go, `data`, the record, and, where that has sealed parts, its `owner`. $1 tenant, $2 customers, $3 their Stripe customers, $4
   * and $5 the place behind which the page begins, $6 how many.
   */
  sql: string
  /** The record with its sealed parts open. */
  open?: (data: Record<string, unknown>, seal: PersonSeal | undefined, cipher: Cipher, tenantId: string) => object
}

/** Rows of a page. Events may be long: a page of them is what is in memory at once. */
const PAGE = 50

const BEHIND = (at: string, id: string) => `($4::timestamptz is null or (${at}, ${id}::text) > ($4, $5))`
const ENDING = (at: string, id: string) => `order by ${at}, ${id}::text limit $6`

/**
 * All that is held about a person beyond the row itself, in the order of the export. A table that comes to hold something about
 * people belongs here.
 */
export const PERSONAL_SECTIONS = {
  stripeLinks: {
    sql: `select linked_at as at, stripe_customer_id as id, jsonb_build_object(
        'stripeCustomerId', stripe_customer_id, 'how', how, 'stripeCreated', stripe_created, 'linkedAt', linked_at,
        'unlinkedAt', unlinked_at, 'deletedAt', deleted_at) as data
      from stripe_links where tenant_id = $1 and user_id = any($2::uuid[]) and $3::text[] is not null
        and ${BEHIND('linked_at', 'stripe_customer_id')} ${ENDING('linked_at', 'stripe_customer_id')}`,
  },
  stripeWrites: {
    sql: `select started_at as at, idempotency_key as id, user_id as owner, jsonb_build_object(
        'stripeCustomerId', stripe_customer_id, 'kind', kind, 'held', held, 'sent', sent, 'outcome', outcome,
        'startedAt', started_at, 'settledAt', settled_at) as data
      from stripe_writes where tenant_id = $1 and user_id = any($2::uuid[]) and $3::text[] is not null
        and ${BEHIND('started_at', 'idempotency_key')} ${ENDING('started_at', 'idempotency_key')}`,
    open: (data, seal) => ({ ...data, ...openWriteValues(seal, { held: data.held, sent: data.sent }) }),
  },
  events: {
    sql: `select created as at, id, jsonb_build_object(
        'id', id, 'type', type, 'stripeCustomerId', stripe_customer_id, 'source', source, 'status', status,
        'outcome', outcome, 'created', created, 'receivedAt', received_at, 'payload', payload) as data
      from stripe_events where tenant_id = $1 and $2::uuid[] is not null and stripe_customer_id = any($3)
        and ${BEHIND('created', 'id')} ${ENDING('created', 'id')}`,
    open: (data, _seal, cipher, tenantId) => ({
      ...data,
      payload: openPayload(cipher, tenantId, String(data.id), data.payload),
    }),
  },
  conflicts: {
    sql: `select detected_at as at, id, user_id as owner, jsonb_build_object(
        'id', id, 'field', field, 'reason', reason, 'policy', policy, 'base', base, 'local', local, 'remote', remote,
        'localAt', local_at, 'remoteAt', remote_at, 'winner', winner, 'status', status, 'detectedAt', detected_at,
        'resolvedAt', resolved_at) as data
      from sync_conflicts where tenant_id = $1 and user_id = any($2::uuid[]) and $3::text[] is not null
        and ${BEHIND('detected_at', 'id')} ${ENDING('detected_at', 'id')}`,
    open: (data, seal) => ({ ...data, ...openConflictValues(seal, data) }),
  },
  duplicates: {
    sql: `select detected_at as at, id, jsonb_build_object(
        'id', id, 'stripeCustomerId', stripe_customer_id, 'reason', reason, 'matchedBy', matched_by, 'status', status,
        'detectedAt', detected_at) as data
      from duplicate_customers where tenant_id = $1
        and (user_id = any($2::uuid[]) or candidates ?| $2::uuid[]::text[] or stripe_customer_id = any($3))
        and ${BEHIND('detected_at', 'id')} ${ENDING('detected_at', 'id')}`,
  },
  // Of an order only the person's own part: the others who came are other people.
  orders: {
    sql: `select o.created_at as at, o.id || '/' || a.position as id, a.customer_id as owner, jsonb_build_object(
        'id', o.id, 'reference', o.reference, 'status', o.status, 'currency', o.currency, 'total', o.total,
        'orderedAt', o.ordered_at, 'position', a.position, 'matchedBy', a.matched_by, 'isFirstVisit', a.first_visit,
        'snapshot', a.snapshot) as data
      from order_attendees a join orders o on o.id = a.order_id
      where a.tenant_id = $1 and a.customer_id = any($2::uuid[]) and $3::text[] is not null
        and ${BEHIND('o.created_at', `(o.id || '/' || a.position)`)} ${ENDING('o.created_at', `(o.id || '/' || a.position)`)}`,
    open: (data, seal) => ({ ...data, snapshot: openSnapshot(seal, data.snapshot as StoredSnapshot) }),
  },
  consents: {
    sql: `select recorded_at as at, id, jsonb_build_object(
        'purpose', purpose, 'status', status, 'source', source, 'version', version, 'text', text, 'evidence', evidence,
        'at', at, 'recordedAt', recorded_at, 'mergedFrom', merged_from) as data
      from consent_changes where tenant_id = $1 and customer_id = any($2::uuid[]) and $3::text[] is not null
        and ${BEHIND('recorded_at', 'id')} ${ENDING('recorded_at', 'id')}`,
  },
  states: {
    sql: `select at, id, jsonb_build_object('customerId', customer_id, 'from', from_state, 'to', to_state, 'actor', actor, 'reason', reason, 'at', at) as data
      from customer_state_changes where tenant_id = $1 and customer_id = any($2::uuid[]) and $3::text[] is not null
        and ${BEHIND('at', 'id')} ${ENDING('at', 'id')}`,
  },
  merges: {
    sql: `select created_at as at, id, jsonb_build_object(
        'survivorId', survivor_id, 'loserId', loser_id, 'survivorStripeCustomerId', survivor_stripe_customer_id,
        'loserStripeCustomerId', loser_stripe_customer_id, 'filled', filled, 'conflicts', conflicts, 'moved', moved,
        'createdAt', created_at) as data
      from customer_merges where tenant_id = $1 and (survivor_id = any($2::uuid[]) or loser_id = any($2::uuid[])) and $3::text[] is not null
        and ${BEHIND('created_at', 'id')} ${ENDING('created_at', 'id')}`,
  },
  answers: {
    sql: `select created_at as at, key as id, jsonb_build_object('status', status, 'body', body, 'createdAt', created_at) as data
      from idempotency_keys where tenant_id = $1 and body ->> 'id' = any($2::uuid[]::text[]) and $3::text[] is not null
        and ${BEHIND('created_at', 'key')} ${ENDING('created_at', 'key')}`,
  },
  // Without where the request came from: that is data about whoever sent it.
  audit: {
    sql: `select at, id, case when entity = 'customer' then entity_id end as owner, jsonb_build_object(
        'actor', actor, 'action', action, 'entity', entity, 'entityId', entity_id, 'changes', changes, 'at', at) as data
      from audit_log where tenant_id = $1 and $3::text[] is not null
        and (entity = 'customer' and entity_id = any($2::uuid[]::text[])
          or entity = 'conflict' and entity_id in (
            select c.id::text from sync_conflicts c where c.tenant_id = $1 and c.user_id = any($2::uuid[]))
          or entity = 'duplicate' and entity_id in (
            select d.id::text from duplicate_customers d where d.tenant_id = $1 and d.user_id = any($2::uuid[])))
        and ${BEHIND('at', 'id')} ${ENDING('at', 'id')}`,
    open: (data, seal) => ({ ...data, changes: openChanges(seal ?? null, data.changes) }),
  },
} as const satisfies Record<string, Section>

export type PersonalSection = keyof typeof PERSONAL_SECTIONS

/** The records of one section, oldest first, a page at a time, with what is sealed in them open. */
export async function* readSection(
  db: Db,
  vault: Vault,
  section: PersonalSection,
  person: Person,
): AsyncGenerator<unknown[]> {
  const { tenantId, customerIds, stripeCustomerIds } = person
  const { sql, open = (data) => data }: Section = PERSONAL_SECTIONS[section]
  let after: { at: string | null; id: string | null } = { at: null, id: null }
  for (;;) {
    // To the microsecond: rows of one millisecond would else be read twice or not at all.
    const rows: { at: string; id: string; owner: string | null; data: Record<string, unknown> }[] = await db.query(
      `select to_json(page.at) #>> '{}' as at, page.id::text as id, to_jsonb(page) ->> 'owner' as owner, page.data
       from (${sql}) as page order by page.at, page.id::text`,
      [tenantId, customerIds, stripeCustomerIds, after.at, after.id, PAGE],
    )
    const seals = await vault.people(
      db,
      tenantId,
      rows.flatMap(({ owner }) => owner ?? []),
    )
    if (rows.length > 0) {
      yield rows.map(({ owner, data }) => open(data, seals.get(owner ?? ''), vault.cipher, tenantId))
    }
    const last = rows.at(-1)
    if (rows.length < PAGE || last === undefined) return
    after = { at: last.at, id: last.id }
  }
}

/** Every Stripe customer that these customers ever had, and those that were found to be them. */
export async function findStripeCustomerIds(db: Db, tenantId: string, customerIds: string[]): Promise<string[]> {
  const rows = await db.query<{ id: string }>(
    `select stripe_customer_id as id from stripe_links where tenant_id = $1 and user_id = any($2::uuid[])
     union
     select stripe_customer_id from duplicate_customers
     where tenant_id = $1 and user_id = any($2::uuid[]) and status in ('linked', 'merged')
     union
     select loser_stripe_customer_id from customer_merges
     where tenant_id = $1 and survivor_id = any($2::uuid[]) and loser_stripe_customer_id is not null`,
    [tenantId, customerIds],
  )
  return rows.map(({ id }) => id)
}

/** How the customer stands with Stripe, all of it, as the table has it; null when there is nothing. */
export async function findWholeState(db: Db, tenantId: string, customerId: string): Promise<unknown> {
  const rows = await db.query<{ data: unknown }>(
    `select jsonb_build_object('status', status, 'base', base, 'remote', remote, 'remoteAsOf', remote_as_of,
       'remoteTimes', remote_times, 'lastError', last_error, 'rejected', rejected, 'createParams', create_params,
       'syncedAt', synced_at) as data
     from sync_state where tenant_id = $1 and user_id = $2`,
    [tenantId, customerId],
  )
  return rows[0]?.data ?? null
}
