import type { Logger } from 'pino'
import type Stripe from 'stripe'
import { messageOf } from '../lib/errors.js'
import { sameJson } from '../lib/json.js'
import type { Metrics } from '../lib/metrics.js'
import { backoffDelay } from '../lib/retry.js'
import type { FieldChanges } from '../models/audit.js'
import type { StripeWrite } from '../models/sync-state.js'
import type { FieldPatch, FieldPath } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import type { User } from '../models/user.js'
import type { Db } from '../repositories/database.js'
import { breaksUsersRule, DatabaseError } from '../repositories/errors.js'
import {
  type EventOutcome,
  findEventsOfCustomer,
  findPendingEvents,
  lockPendingEvent,
  type PendingEvent,
  type PendingEventId,
  postponeEvent,
  quarantineEvent,
  saveEventFailure,
  saveEventSettled,
} from '../repositories/stripe-events.js'
import { buryLink, findLink } from '../repositories/stripe-links.js'
import { disownFields, findUnsettledWrites, findWrite, settleWrite } from '../repositories/stripe-writes.js'
import { type ConflictRecord, recordConflicts } from '../repositories/sync-conflicts.js'
import {
  lockState,
  markForFetch,
  saveRemoteNews,
  saveSettledBase,
  touchRemoteAsOf,
} from '../repositories/sync-states.js'
import { findTenant } from '../repositories/tenants.js'
import { isOfOtherTenant, lockUser, updateUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { adopt, withoutImports } from './adopt.js'
import { editDeed, recordDeed, recordDeeds, sealedFields } from './deeds.js'
import { settlePending } from './drain-together.js'
import { kindOf } from './event-types.js'
import { isRedacted, isWholeCustomer, localFields, localTime, remoteState, timeKeys } from './fields.js'
import type { Filing } from './filing.js'
import { type PartOptions, partFromDeleted } from './join.js'
import {
  ANSWER_PATIENCE_MS,
  changedFields,
  eventChanges,
  judge,
  overwrittenEdits,
  type Snapshot,
  snapshotOf,
  timeOfEdit,
  type Verdict,
} from './observe.js'
import { KEY_PREFIX } from './step-context.js'
import { withoutContents } from './stored-event.js'
import { localChanges } from './update.js'

/** Plain edits that share a transaction, at most. */
const BATCH = 100
const MAX_ATTEMPTS = 8
const BACKOFF = { first: 500, max: 5 * 60_000 }
/** How far back the edit that we overwrote is looked for among the customer's events, in milliseconds. */
const EDIT_WINDOW_MS = 3_600_000
/** How soon an event that waits for its own write's answer is looked at again, in milliseconds. */
const LOOK_AGAIN_MS = 1_000

/** Why an event is kept aside, to those who may know nothing of other tenants. */
const NOT_THEIRS = 'The Stripe customer is none of this tenant’s account, whoever signed for it.'

/** Empties the inbox into the sync state. */
export interface Drain {
  /** Files what was delivered and settles one batch; answers how many events it looked at. Safe in any number of processes at once. */
  drainBatch(): Promise<number>
}

/**
 * Files deliveries ({@link Filing}) and settles events: each becomes `remote`, a hint to read the customer, a link, a new user, or nothing. No call to Stripe is
 * made here. Plain edits are carried through together. Each other event has a transaction of its own, which locks one user at a
 * time: beside an application that updates many users at once, one that waited for several would deadlock with it.
 */
export function makeDrain(options: {
  db: Db
  vault: Vault
  metrics: Metrics
  log: Logger
  random: () => number
  wake(): void
  filing: Filing
  /** Batches under way at once: while Postgres works on one, the next one is prepared. */
  lanes: number
}): Drain {
  const { db, vault, metrics, log, random, filing, lanes } = options

  return {
    async drainBatch() {
      const filed = await filing.fileDeliveries()
      const batch = await findPendingEvents(db, BATCH * lanes)
      if (filed + batch.length === 0) return 0
      // Each is of another customer, so that no two transactions want the same row.
      const parts = Array.from({ length: lanes }, (_, lane) => batch.slice(lane * BATCH, (lane + 1) * BATCH))
      const settled = new Set((await Promise.all(parts.map(settleTogether))).flat())
      for (const event of batch) if (!settled.has(event)) await settle(event.tenantId, event.id)
      options.wake()
      return filed + batch.length
    },
  }

  /** If it fails, none of it was done, and each event is settled alone, which tells the one that it failed by from the others. */
  async function settleTogether(batch: readonly PendingEventId[]): Promise<PendingEventId[]> {
    if (batch.length === 0) return []
    try {
      return await settlePending(db, { vault, metrics }, batch)
    } catch (error) {
      log.warn(
        { err: messageOf(error) },
        'inbox: a batch could not be settled together; its events are settled one by one',
      )
      metrics.errors.inc({ part: 'inbox' })
      return []
    }
  }

  async function settle(tenantId: string, id: string): Promise<void> {
    let held: PendingEvent | null = null
    const settleIt = (refusal: DatabaseError | null) =>
      db.transaction(async (tx) => {
        held = await lockPendingEvent(tx, vault.cipher, tenantId, id)
        return held === null ? null : settleEvent(tx, vault, held, metrics, refusal)
      })
    try {
      const outcome = await settleIt(null).catch((error: unknown) => {
        if (breaksUsersRule(error)) return settleIt(error)
        throw error
      })
      if (outcome !== null) metrics.eventsSettled.inc({ outcome })
    } catch (error) {
      if (held === null) throw error
      if (await isForged(held, error)) await quarantine(held)
      else await noteFailure(held, error)
    }
  }

  /** Whoever knows a tenant's webhook secret can sign for it what is about another tenant's customer. */
  async function isForged({ tenantId, stripeCustomerId }: PendingEvent, error: unknown): Promise<boolean> {
    if (!(error instanceof DatabaseError && error.isUniqueViolation) || stripeCustomerId === null) return false
    return isOfOtherTenant(db, tenantId, stripeCustomerId)
  }

  async function quarantine(event: PendingEvent): Promise<void> {
    const { id, tenantId, stripeCustomerId, payload } = event
    log.warn({ eventId: id, tenantId }, 'inbox: an event about a Stripe customer of another tenant: quarantined')
    metrics.eventsSettled.inc({ outcome: 'quarantined' })
    await quarantineEvent(
      db,
      vault.cipher,
      event,
      withoutContents(payload as Stripe.Event, stripeCustomerId),
      NOT_THEIRS,
    )
  }

  async function noteFailure(event: PendingEvent, error: unknown): Promise<void> {
    const attempts = event.attempts + 1
    const isLeft = attempts >= MAX_ATTEMPTS || breaksUsersRule(error)
    const retryAfterMs = isLeft ? null : backoffDelay(BACKOFF, attempts, random)
    log.error(
      { eventId: event.id, attempts, retryAfterMs, err: messageOf(error) },
      'inbox: an event could not be settled',
    )
    metrics.errors.inc({ part: 'inbox' })
    await saveEventFailure(db, event, messageOf(error), retryAfterMs)
  }
}

/**
 * Settles one event; answers null when it has to wait.
 *
 * @param refusal why the application's rules do not let a user be made of the customer: then one that looks like somebody is reported
 */
async function settleEvent(
  tx: Db,
  vault: Vault,
  event: PendingEvent,
  metrics: Metrics,
  refusal: DatabaseError | null,
): Promise<EventOutcome | null> {
  const found = await findTenant(tx, event.tenantId)
  const tenant = found === null || refusal === null ? found : withoutImports(found)
  const { stripeCustomerId } = event
  const kind = kindOf(event.type)
  const outcome =
    tenant === null || stripeCustomerId === null || kind === null
      ? 'not_imported'
      : kind === 'deleted'
        ? await settleDeleted(tx, tenant, stripeCustomerId, { cause: event.id })
        : await settleSnapshot(tx, vault, tenant, stripeCustomerId, event, metrics)
  if (refusal !== null && outcome === 'not_imported') throw refusal
  if (outcome === null) await postponeEvent(tx, event, LOOK_AGAIN_MS)
  else await saveEventSettled(tx, event, outcome)
  return outcome
}

async function settleDeleted(
  tx: Db,
  tenant: Tenant,
  stripeCustomerId: string,
  options: PartOptions,
): Promise<EventOutcome> {
  // Again, where it was given to another user meanwhile.
  for (;;) {
    const link = await findLink(tx, tenant.id, stripeCustomerId)
    if (link?.deletedAt != null) return 'dead_customer'
    // An id that was given up before is no longer the user's: it may have another customer, or a create under way.
    const owner = link === null || link.unlinkedAt !== null ? null : link.userId
    const isDone =
      owner === null
        ? await buryLink(tx, tenant.id, stripeCustomerId, null)
        : await partFromDeleted(tx, tenant, owner, stripeCustomerId, options)
    if (isDone) return 'deleted'
  }
}

async function settleSnapshot(
  tx: Db,
  vault: Vault,
  tenant: Tenant,
  stripeCustomerId: string,
  event: PendingEvent,
  metrics: Metrics,
): Promise<EventOutcome | null> {
  const link = await findLink(tx, tenant.id, stripeCustomerId)
  if (link?.deletedAt != null || link?.unlinkedAt != null) return 'dead_customer'
  const foreign = tenant.settings.foreignMetadataPrefixes
  const snapshot = snapshotOf(event)
  // Redaction reaches into older events too, and has none of its own.
  if (isRedacted(snapshot.customer)) {
    return settleDeleted(tx, tenant, stripeCustomerId, { isRedacted: true, cause: event.id })
  }
  const key = event.idempotencyKey
  const isOurs = key?.startsWith(KEY_PREFIX) === true
  const ownWrite = key !== null && isOurs ? await findWrite(tx, vault, tenant.id, key) : null
  const now = await clock(tx)
  if (link?.userId == null) {
    const isAwaited = ownWrite?.outcome === null && now - ownWrite.startedAt.getTime() < ANSWER_PATIENCE_MS
    if (isAwaited) return null
    const adoption = await adopt(tx, vault, tenant, {
      stripeCustomerId,
      remote: remoteState(snapshot.customer, foreign),
      asOf: event.created,
      stripeCreated: createdOf(snapshot.customer),
      // Nothing can have happened to a customer before it was made; of any other event of a stranger something was missed.
      needsFetch: event.type !== 'customer.created' || !isWholeCustomer(snapshot.customer),
      idempotencyKey: key,
      cause: event.id,
    })
    return adoption === 'awaited' ? null : adoption
  }
  // The user before its state, as everywhere: a write of the application locks them in that order.
  const user = await lockUser(tx, tenant.id, link.userId)
  const state = await lockState(tx, tenant.id, link.userId)
  if (state === null) return 'dead_customer'
  const pending = await findUnsettledWrites(tx, vault, tenant.id, link.userId)
  const unsettled = isOurs ? pending : await disown(tx, tenant, pending, snapshot)
  const verdict = judge(state, snapshot, ownWrite, unsettled, foreign, now)
  if (verdict.is === 'in_flight') return null
  if (!isOurs && user !== null && user.state !== 'erased') await recordEdit(tx, vault, tenant, user.id, event, snapshot)
  if (ownWrite !== null) {
    if (user !== null) await settleOverwritten(tx, vault, tenant, user, ownWrite, event, metrics)
    // After a hint the write stays open: only the read that follows can tell what of it Stripe still holds.
    if (verdict.is !== 'hint') await settleWrite(tx, tenant.id, ownWrite.idempotencyKey, 'answered', stripeCustomerId)
  }
  return applyVerdict(tx, state, verdict)
}

/**
 * An event without our key says that someone else set these fields: what an unanswered write of ours sent for them, though it
 * be the same value, is not what Stripe holds now. Answers the writes with what is left of them.
 */
async function disown(tx: Db, tenant: Tenant, writes: StripeWrite[], snapshot: Snapshot): Promise<StripeWrite[]> {
  if (writes.length === 0) return writes
  const theirs = changedFields(snapshot, tenant.settings.foreignMetadataPrefixes)
  const left: StripeWrite[] = []
  for (const write of writes) {
    const paths = Object.keys(write.sent).filter(
      (path) => theirs.has(path as FieldPath) && sameJson(theirs.get(path as FieldPath), write.sent[path]),
    )
    if (paths.length > 0) await disownFields(tx, tenant.id, write.idempotencyKey, paths)
    left.push({ ...write, disowned: [...write.disowned, ...paths] })
  }
  return left
}

/** Records what someone changed in Stripe, once, however often its event is settled. */
async function recordEdit(
  tx: Db,
  vault: Vault,
  tenant: Tenant,
  userId: string,
  event: PendingEvent,
  snapshot: Snapshot,
): Promise<void> {
  const changes = eventChanges(snapshot, tenant.settings.foreignMetadataPrefixes)
  if (Object.keys(changes).length === 0) return
  const sealed = await sealedFields(tx, vault, tenant.id, userId, changes)
  await recordDeeds(tx, tenant.id, [editDeed(event, userId, sealed)])
}

/** Records what our own write overwrote unseen; where policy has it, their value is taken up here, and so goes back. */
async function settleOverwritten(
  tx: Db,
  vault: Vault,
  tenant: Tenant,
  user: User,
  write: StripeWrite,
  event: PendingEvent,
  metrics: Metrics,
): Promise<void> {
  const { settings } = tenant
  const snapshot = snapshotOf(event)
  const foreign = settings.foreignMetadataPrefixes
  const about = { write, snapshot, settings, local: localFields(user, foreign) }
  const known = { localTime: (path: FieldPath) => localTime(user.fieldTimes, path), remoteTime: () => null }
  // Most writes overwrite nothing: only when one did are the customer's events looked through for the time of that edit.
  if (overwrittenEdits({ ...about, ...known }).length === 0) return
  const since = new Date(snapshot.created - EDIT_WINDOW_MS)
  const events = await findEventsOfCustomer(tx, vault.cipher, tenant.id, write.stripeCustomerId ?? '', since)
  const snapshots = events.map(snapshotOf)
  const conflicts = overwrittenEdits({
    ...about,
    ...known,
    remoteTime: (path, value) => timeOfEdit(snapshots, foreign, path, value),
  })
  const added = await recordConflicts(tx, vault, tenant.id, user.id, conflicts)
  for (const { reason, winner } of added) metrics.conflicts.inc({ reason, winner: winner ?? 'open' })
  const theirs = conflicts.filter(({ winner }) => winner === 'stripe')
  const recordAs = async (revision: number | null) => {
    const fields = await sealedFields(tx, vault, tenant.id, user.id, overwriteChanges(conflicts))
    const changes = { ...fields, ...(revision === null ? {} : { revision }) }
    await recordDeed(tx, tenant.id, user.id, { action: 'sync.overwrite', changes, cause: event.id })
  }
  if (theirs.length === 0) {
    if (added.length > 0) await recordAs(null)
    return
  }
  const patch = Object.fromEntries(theirs.map(({ field, remote }) => [field, remote])) as FieldPatch
  // The value is as old as it was in Stripe: an edit there that is later still has to win over it.
  const times = theirs.flatMap(({ field, remoteAt }) =>
    remoteAt === null ? [] : timeKeys(field as FieldPath).map((key): [string, string] => [key, remoteAt]),
  )
  await recordAs(await updateUser(tx, tenant.id, user.id, null, localChanges(user, patch), Object.fromEntries(times)))
}

/** Seen from Stripe where our value stands, from here where theirs was taken up. */
function overwriteChanges(conflicts: readonly ConflictRecord[]): FieldChanges {
  return Object.fromEntries(
    conflicts.map(({ field, policy, base, local, remote, localAt, remoteAt, winner }) => {
      const [from, to] = winner === 'stripe' ? [local, remote] : [remote, local]
      return [field, { from, to, base, winner, why: 'overwritten', policy, localAt, remoteAt }]
    }),
  )
}

/** Writes down what a snapshot of a linked customer came to. Also the sweep's way of taking in what a list shows. */
export async function applyVerdict(
  tx: Db,
  state: { tenantId: string; userId: string },
  verdict: Exclude<Verdict, { is: 'in_flight' }>,
): Promise<EventOutcome> {
  switch (verdict.is) {
    case 'echo':
      return 'echo'
    case 'stale':
      if (verdict.base !== null) await saveSettledBase(tx, state, verdict.base)
      return 'stale'
    case 'no_news':
      await touchRemoteAsOf(tx, state.tenantId, state.userId, verdict.asOf)
      if (verdict.base !== null) await saveSettledBase(tx, state, verdict.base)
      return 'no_news'
    case 'news':
      await saveRemoteNews(tx, state, { ...verdict, isNews: true })
      return 'applied'
    case 'hint':
      await markForFetch(tx, state.tenantId, state.userId, verdict.times)
      return 'hint'
    default: {
      const never: never = verdict
      return never
    }
  }
}

function createdOf(customer: unknown): Date | null {
  const { created } = (customer ?? {}) as { created?: unknown }
  return typeof created === 'number' ? new Date(created * 1000) : null
}

async function clock(db: Db): Promise<number> {
  const [row] = await db.query<{ now: number }>('select (extract(epoch from lockstep_now()) * 1000)::float8 as now')
  return row?.now ?? Date.now()
}
