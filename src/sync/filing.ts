import type { Logger } from 'pino'
import type Stripe from 'stripe'
import { messageOf } from '../lib/errors.js'
import type { Metrics } from '../lib/metrics.js'
import { backoffDelay } from '../lib/retry.js'
import type { Db } from '../repositories/database.js'
import {
  type DeliveryBatch,
  findBatches,
  readBatch,
  removeBatch,
  saveBatchFailure,
  takeBatches,
  type WaitingBatch,
} from '../repositories/delivery-batches.js'
import { isOutage } from '../repositories/errors.js'
import { findKnownEvents, insertEvents, type NewEvent, type PendingEvent } from '../repositories/stripe-events.js'
import type { Vault } from '../repositories/vault.js'
import { countPlainEdits, settlePlainEdits } from './drain-together.js'
import { newEvent } from './stored-event.js'

/** Batches that are looked at in one go. */
const LOOK_AT = 200
/** Deliveries that share a transaction, and their bytes, more or less: a batch is filed whole. */
const TOGETHER = { count: 100, size: 8 * 1024 * 1024 }
const BACKOFF = { first: 500, max: 5 * 60_000 }

/** Files what was delivered. */
export interface Filing {
  /** Files some of what was delivered, oldest first; answers how many deliveries. Safe in any number of processes at once. */
  fileDeliveries(): Promise<number>
}

/** An event of a batch, as the inbox will have it, and as it is judged. */
interface Arrived {
  filed: NewEvent
  payload: PendingEvent['payload']
}

/**
 * Files deliveries as events of the inbox, each once, however often it was delivered. An event that is a plain edit is carried through
 * on the way, in the same transaction, so that it is written once, as what it came to; all others wait to be settled.
 *
 * @param options.lanes transactions under way at once
 */
export function makeFiling(options: {
  db: Db
  vault: Vault
  metrics: Metrics
  log: Logger
  random: () => number
  lanes: number
}): Filing {
  const { db, vault, metrics, log, random, lanes } = options

  async function fileTogether(part: readonly WaitingBatch[]): Promise<number> {
    try {
      const { filed, added, plain } = await db.transaction(async (tx) => {
        const ids = part.map(({ id }) => id)
        const arrived = (await takeBatches(tx, vault.cipher, ids)).flatMap(eventsOf)
        return { filed: arrived.length, ...(await fileAll(tx, vault, arrived)) }
      })
      metrics.webhooks.inc({ outcome: 'duplicate' }, filed - added)
      countPlainEdits(metrics, plain)
      return filed
    } catch (error) {
      if (isOutage(error)) throw error
      log.warn({ err: messageOf(error) }, 'inbox: deliveries could not be filed together; they are filed one by one')
      metrics.errors.inc({ part: 'inbox' })
      for (const batch of part) await fileAlone(batch)
      return part.reduce((sum, { count }) => sum + count, 0)
    }
  }

  /** Nothing is judged here, and what cannot be filed keeps nothing else from it. The batch is kept until all of it is. */
  async function fileAlone({ id, attempts }: WaitingBatch): Promise<void> {
    try {
      const batch = await readBatch(db, vault.cipher, id)
      if (batch === null) return
      let failure: unknown = null
      for (const { filed } of eventsOf(batch)) {
        await insertEvents(db, vault.cipher, [filed]).catch((error: unknown) => {
          if (isOutage(error)) throw error
          failure = error
        })
      }
      if (failure !== null) throw failure
      await removeBatch(db, id)
    } catch (error) {
      if (isOutage(error)) throw error
      log.error(
        { batchId: id, err: messageOf(error) },
        'inbox: deliveries could not be filed; they will be tried again',
      )
      metrics.errors.inc({ part: 'inbox' })
      await saveBatchFailure(db, id, messageOf(error), backoffDelay(BACKOFF, attempts + 1, random))
    }
  }

  return {
    async fileDeliveries() {
      const parts = partsOf(await findBatches(db, LOOK_AT)).slice(0, lanes)
      const filed = await Promise.all(parts.map(fileTogether))
      return filed.reduce((sum, count) => sum + count, 0)
    },
  }
}

/** Cuts the batches into parts, each of which fits into a transaction, in order. */
function partsOf(found: readonly WaitingBatch[]): WaitingBatch[][] {
  const parts: WaitingBatch[][] = []
  let room = { count: 0, size: 0 }
  for (const batch of found) {
    if (room.count < batch.count || room.size < batch.size) {
      parts.push([])
      room = { ...TOGETHER }
    }
    parts.at(-1)?.push(batch)
    room = { count: room.count - batch.count, size: room.size - batch.size }
  }
  return parts
}

function eventsOf({ deliveries, receivedAt }: DeliveryBatch): Arrived[] {
  return deliveries.map(({ tenantId, isQuarantined, event }) => ({
    filed: { ...newEvent(tenantId, event as Stripe.Event, 'webhook', isQuarantined), receivedAt },
    payload: event as PendingEvent['payload'],
  }))
}

/** Files the events that are not there yet; answers how many those were, and how many of them plain edits. */
async function fileAll(tx: Db, vault: Vault, arrived: readonly Arrived[]): Promise<{ added: number; plain: number }> {
  const sum = { added: 0, plain: 0 }
  for (const tenantId of new Set(arrived.map(({ filed }) => filed.tenantId))) {
    const theirs = arrived.filter(({ filed }) => filed.tenantId === tenantId)
    const known = await findKnownEvents(
      tx,
      tenantId,
      theirs.map(({ filed }) => filed.id),
    )
    const added = theirs.filter(({ filed }) => {
      const isNew = !known.has(filed.id)
      known.add(filed.id)
      return isNew
    })
    const plain = await settlePlainEdits(tx, vault, tenantId, firstOfEach(added))
    sum.added += added.length
    sum.plain += plain.size
    await insertEvents(
      tx,
      vault.cipher,
      added.map(({ filed }) => (plain.has(filed.id) ? { ...filed, status: 'processed', outcome: 'applied' } : filed)),
    )
  }
  return sum
}

/** The first event of each customer that is to be settled: what comes after it is judged by what it leaves. */
function firstOfEach(arrived: readonly Arrived[]): PendingEvent[] {
  const first = new Map<string, PendingEvent>()
  for (const { filed, payload } of [...arrived].sort(inOrder)) {
    const { stripeCustomerId, status } = filed
    if (status !== 'pending' || stripeCustomerId === null || first.has(stripeCustomerId)) continue
    first.set(stripeCustomerId, { ...filed, payload, attempts: 0 })
  }
  return [...first.values()]
}

/** As the inbox is drained. */
function inOrder({ filed: a }: Arrived, { filed: b }: Arrived): number {
  const times = (event: NewEvent) => [event.receivedAt?.getTime() ?? 0, event.created.getTime()] as const
  const [receivedA, createdA] = times(a)
  const [receivedB, createdB] = times(b)
  return receivedA - receivedB || createdA - createdB || (a.id < b.id ? -1 : 1)
}
