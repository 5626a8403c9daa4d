import type { Metrics } from '../lib/metrics.js'
import { isConnected, type Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import {
  type LinkedState,
  lockLinkedStates,
  lookUpByKeys,
  saveAgreedStates,
  saveEventsApplied,
  updateAgreedUsers,
} from '../repositories/plain-edits.js'
import { lockPendingEvents, type PendingEvent, type PendingEventId } from '../repositories/stripe-events.js'
import { findTenant } from '../repositories/tenants.js'
import type { Vault } from '../repositories/vault.js'
import { editDeed, recordDeeds, sealDeedFields } from './deeds.js'
import { kindOf } from './event-types.js'
import { isRedacted } from './fields.js'
import { eventChanges, snapshotOf } from './observe.js'
import { type PlainEdit, planPlainEdit } from './plain-edit.js'
import { KEY_PREFIX } from './step-context.js'

/** One plain edit on its way through the batch. */
interface Found {
  event: PendingEvent
  linked: LinkedState
  edit: PlainEdit
}

/**
 * Carries through, in one transaction and a fixed number of statements, those events of a batch that are plain edits. Answers them; all
 * others are left as they are.
 *
 * @param batch events of different customers
 */
export async function settlePending(
  db: Db,
  { vault, metrics }: { vault: Vault; metrics: Metrics },
  batch: readonly PendingEventId[],
): Promise<PendingEventId[]> {
  const settled = await db.transaction(async (tx) => {
    const done: PendingEventId[] = []
    for (const tenantId of new Set(batch.map((event) => event.tenantId))) {
      const theirs = batch.filter((event) => event.tenantId === tenantId)
      await lookUpByKeys(tx)
      const events = await lockPendingEvents(
        tx,
        vault.cipher,
        tenantId,
        theirs.map(({ id }) => id),
      )
      const ids = await settlePlainEdits(tx, vault, tenantId, events)
      await saveEventsApplied(tx, tenantId, [...ids])
      done.push(...theirs.filter(({ id }) => ids.has(id)))
    }
    return done
  })
  countPlainEdits(metrics, settled.length)
  return settled
}

/** Counts plain edits, once their transaction is through. */
export function countPlainEdits(metrics: Metrics, count: number): void {
  metrics.plainEdits.inc(count)
  metrics.eventsSettled.inc({ outcome: 'applied' }, count)
  for (let left = count; left > 0; left -= 1) {
    metrics.settleLatency.observe(0)
    metrics.stripeCallsPerChange.observe(0)
  }
}

/**
 * Carries plain edits through, in a fixed number of statements: what came from Stripe stands in `users` and both sides agree, without a
 * job and without a reconcile. Answers the ids of the events that were; that they took effect is for the caller to write down, in the
 * same transaction.
 *
 * It never waits for a row while it holds others: a row that someone else has is passed by. Else, beside an application that updates
 * many users at once, the two would deadlock.
 *
 * @param events of this tenant, each of another customer
 */
export async function settlePlainEdits(
  tx: Db,
  vault: Vault,
  tenantId: string,
  events: readonly PendingEvent[],
): Promise<ReadonlySet<string>> {
  const candidates = new Map<string, PendingEvent>()
  for (const event of events) {
    if (event.stripeCustomerId !== null && mayBePlain(event)) candidates.set(event.stripeCustomerId, event)
  }
  if (candidates.size === 0) return new Set()
  const tenant = await findTenant(tx, tenantId)
  if (tenant === null || !isConnected(tenant)) return new Set()
  await lookUpByKeys(tx)
  const found = await findPlainEdits(tx, tenant, candidates)
  if (found.length === 0) return new Set()
  const seals = await vault.ensure(
    tx,
    tenant.id,
    found.map(({ linked }) => linked.user.id),
  )
  const effects = found.flatMap(({ event, linked, edit }) =>
    edit.effect === null ? [] : [{ event, userId: linked.user.id, ...edit.effect }],
  )
  const revisions = await updateAgreedUsers(
    tx,
    tenant.id,
    effects.map(({ userId, changes, times }) => ({ userId, changes, times })),
  )
  const foreign = tenant.settings.foreignMetadataPrefixes
  const edits = found.flatMap(({ event, linked }) => {
    const changes = eventChanges(snapshotOf(event), foreign)
    return Object.keys(changes).length === 0
      ? []
      : [editDeed(event, linked.user.id, sealDeedFields(seals, linked.user.id, changes))]
  })
  await recordDeeds(tx, tenant.id, edits)
  const recorded = new Set(edits.map(({ cause }) => cause))
  await recordDeeds(
    tx,
    tenant.id,
    effects.map(({ event, userId, fields, causedAt }) => {
      // Mostly it is this very edit that the row takes over, so that nobody has to look for it.
      const isOfThis = recorded.has(event.id) && causedAt.includes(event.created.toISOString())
      return {
        userId,
        action: 'sync.apply',
        changes: { ...sealDeedFields(seals, userId, fields), revision: revisions.get(userId) },
        ...(isOfThis ? { cause: event.id } : { causedAt }),
      }
    }),
  )
  await saveAgreedStates(
    tx,
    tenant.id,
    found.map(({ linked, edit: { news, base } }) => ({
      userId: linked.user.id,
      remote: news.remote,
      asOf: news.asOf,
      times: news.times,
      base,
      revision: revisions.get(linked.user.id) ?? null,
    })),
  )
  return new Set(found.map(({ event }) => event.id))
}

async function findPlainEdits(tx: Db, tenant: Tenant, candidates: ReadonlyMap<string, PendingEvent>): Promise<Found[]> {
  const states = await lockLinkedStates(tx, tenant.id, [...candidates.keys()])
  return states.flatMap((linked): Found[] => {
    const event = candidates.get(linked.stripeCustomerId)
    if (event === undefined || linked.isBusy) return []
    const edit = planPlainEdit({ tenant, unsettled: [], ...linked }, snapshotOf(event))
    return edit === null ? [] : [{ event, linked, edit }]
  })
}

function mayBePlain(event: PendingEvent): boolean {
  if (kindOf(event.type) !== 'snapshot' || event.idempotencyKey?.startsWith(KEY_PREFIX) === true) return false
  return !isRedacted(snapshotOf(event).customer)
}
