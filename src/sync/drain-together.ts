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
 * Carries through, in one transaction and a fixed number of statements, the events of a batch that are plain edits: what came from
 * Stripe stands in `users` and both sides agree, without a job and without a reconcile. Answers them; all others are left as they
 * are.
 *
 * It never waits for a row while it holds others: a row that someone else has is passed by. Else, beside an application that updates
 * many users at once, the two would deadlock.
 *
 * @param batch events of different customers
 */
export async function settlePlainEdits(
  db: Db,
  { vault, metrics }: { vault: Vault; metrics: Metrics },
  batch: readonly PendingEventId[],
): Promise<PendingEventId[]> {
  const settled = await db.transaction(async (tx) => {
    await lookUpByKeys(tx)
    const done: PendingEventId[] = []
    for (const tenantId of new Set(batch.map((event) => event.tenantId))) {
      const tenant = await findTenant(tx, tenantId)
      if (tenant === null || !isConnected(tenant)) continue
      const theirs = batch.filter((event) => event.tenantId === tenantId)
      const ids = await settleOfTenant(tx, vault, tenant, theirs)
      done.push(...theirs.filter(({ id }) => ids.has(id)))
    }
    return done
  })
  metrics.plainEdits.inc(settled.length)
  metrics.eventsSettled.inc({ outcome: 'applied' }, settled.length)
  for (const _ of settled) {
    metrics.settleLatency.observe(0)
    metrics.stripeCallsPerChange.observe(0)
  }
  return settled
}

async function settleOfTenant(
  tx: Db,
  vault: Vault,
  tenant: Tenant,
  batch: PendingEventId[],
): Promise<ReadonlySet<string>> {
  const found = await findPlainEdits(tx, vault, tenant, batch)
  if (found.length === 0) return new Set()
  const foreign = tenant.settings.foreignMetadataPrefixes
  const seals = await vault.ensure(
    tx,
    tenant.id,
    found.map(({ linked }) => linked.user.id),
  )
  const edits = found.flatMap(({ event, linked }) => {
    const changes = eventChanges(snapshotOf(event), foreign)
    return Object.keys(changes).length === 0
      ? []
      : [editDeed(event, linked.user.id, sealDeedFields(seals, linked.user.id, changes))]
  })
  await recordDeeds(tx, tenant.id, edits)

  const effects = found.flatMap(({ linked, edit }) =>
    edit.effect === null ? [] : [{ userId: linked.user.id, ...edit.effect }],
  )
  const revisions = await updateAgreedUsers(
    tx,
    tenant.id,
    effects.map(({ userId, changes, times }) => ({ userId, changes, times })),
  )
  await recordDeeds(
    tx,
    tenant.id,
    effects.map(({ userId, fields, causedAt }) => ({
      userId,
      action: 'sync.apply',
      changes: { ...sealDeedFields(seals, userId, fields), revision: revisions.get(userId) },
      causedAt,
    })),
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
  const ids = found.map(({ event }) => event.id)
  await saveEventsApplied(tx, tenant.id, ids)
  return new Set(ids)
}

async function findPlainEdits(tx: Db, vault: Vault, tenant: Tenant, batch: PendingEventId[]): Promise<Found[]> {
  const events = await lockPendingEvents(
    tx,
    vault.cipher,
    tenant.id,
    batch.map(({ id }) => id),
  )
  const candidates = new Map<string, PendingEvent>()
  for (const event of events) {
    if (event.stripeCustomerId !== null && mayBePlain(event)) candidates.set(event.stripeCustomerId, event)
  }
  if (candidates.size === 0) return []
  const states = await lockLinkedStates(tx, tenant.id, [...candidates.keys()])
  return states.flatMap((linked): Found[] => {
    const event = candidates.get(linked.stripeCustomerId)
    if (event === undefined || linked.isBusy) return []
    const edit = planPlainEdit({ tenant, unsettled: [], ...linked }, snapshotOf(event))
    return edit === null ? [] : [{ event, linked, edit }]
  })
}

function mayBePlain(event: PendingEvent): boolean {
  if (kindOf(event.type) === 'deleted' || event.idempotencyKey?.startsWith(KEY_PREFIX) === true) return false
  return !isRedacted(snapshotOf(event).customer)
}
