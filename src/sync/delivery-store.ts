import type { Cipher } from '../lib/cipher.js'
import type { Clock } from '../lib/clock.js'
import { makeGroupCommit } from '../lib/group-commit.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { type NewDelivery, storeDeliveries } from '../repositories/delivery-batches.js'
import { isOutage } from '../repositories/errors.js'
import { findAddressees } from '../repositories/tenants.js'

/** Stores one delivery; resolves once it is durable. */
export type StoreDelivery = (delivery: NewDelivery) => Promise<void>

/**
 * The tenant that a delivery is for: the one with this id, the default one for null. Null: there is none. With `isFresh` as it is now,
 * else it may be a second old.
 */
export type FindAddressee = (tenantId: string | null, how?: { isFresh: boolean }) => Promise<Tenant | null>

/** Deliveries in one statement: bounds what one of them waits for the others. */
const MOST = 100
/** Characters of JSON in one statement, from which on the next one begins: events are small, but may be large. */
const MOST_TEXT = 4 * 1024 * 1024
/** Statements under way at once: one is sealed and sent while the other is written to the disk. */
const LANES = 2

/** How long a tenant that was found counts as it was then, in milliseconds. */
const FRESH_MS = 1_000

/** Stores what comes in at the same time in one row, and so with one write to the disk. */
export function makeDeliveryStore({ db, cipher }: { db: Db; cipher: Cipher }): StoreDelivery {
  const group = makeGroupCommit<NewDelivery, undefined>({
    async work(deliveries) {
      await storeDeliveries(db, cipher, deliveries)
      return deliveries.map(() => undefined)
    },
    limit: MOST,
    size: { of: ({ text }) => text.length, limit: MOST_TEXT },
    lanes: LANES,
    hitsAll: isOutage,
  })
  return (delivery) => group.add(delivery)
}

/**
 * Finds the tenants of the deliveries that come in at the same time in one statement, and keeps them for a second: so long a signing
 * secret that was taken away still counts.
 */
export function makeAddressees(db: Db, clock: Clock): FindAddressee {
  const known = new Map<string | null, { tenant: Tenant; until: number }>()
  const group = makeGroupCommit<string | null, Tenant | null>({
    work: async (tenantIds) => {
      const tenants = await findAddressees(db, tenantIds)
      return tenantIds.map((id) => tenants.get(id) ?? null)
    },
    limit: MOST,
    lanes: LANES,
    hitsAll: isOutage,
  })
  return async (tenantId, { isFresh } = { isFresh: false }) => {
    const recent = known.get(tenantId)
    if (!isFresh && recent !== undefined && clock.now() < recent.until) return recent.tenant
    const tenant = await group.add(tenantId)
    if (tenant === null) known.delete(tenantId)
    else known.set(tenantId, { tenant, until: clock.now() + FRESH_MS })
    return tenant
  }
}
