import type Stripe from 'stripe'
import type { Test } from 'tap'
import { insertEvents } from '../../src/repositories/stripe-events.js'
import type { StripeCustomerService } from '../../src/services/stripe-customer.service.js'
import { makeReconcile, type Reconcile } from '../../src/sync/reconcile.js'
import { newEvent } from '../../src/sync/stored-event.js'
import { openTestCore } from '../helpers/core.js'
import { testLog } from '../helpers/log.js'
import { eventsAbout, type StripeEvent } from './scene.js'

/** The parts without queue or loops: a test says when a user is reconciled and when an event comes in. */
export async function openParts(t: Test) {
  const { simulatorUrl, ...core } = await openTestCore(t)
  const { db, vault, tenant, metrics, pool, controls } = core
  return {
    ...core,
    url: simulatorUrl,
    eventsOf: (stripeId: string) => eventsAbout(controls, stripeId),
    async addUser(email: string): Promise<string> {
      return (await pool.query('insert into users (email) values ($1) returning id', [email])).rows[0].id
    },
    stateOf: async (id: string) => (await pool.query('select * from sync_state where user_id = $1', [id])).rows[0],
    /** Events come in, in this order, and are settled as far as they can be. */
    async comeIn(...events: StripeEvent[]): Promise<void> {
      await insertEvents(
        db,
        vault.cipher,
        events.map((event) => newEvent(tenant.id, event as unknown as Stripe.Event, 'webhook')),
      )
      while ((await core.drain.drainBatch()) > 0);
    },
    /** A worker whose calls to Stripe go through `change`. */
    workerWith(change: (customers: StripeCustomerService) => void): Reconcile {
      return makeReconcile({
        db,
        vault,
        metrics,
        log: testLog,
        random: Math.random,
        customersOf(owner) {
          const customers = core.customersOf(owner)
          change(customers)
          return customers
        },
      })
    },
    /** The worker that has the user is taken for dead. */
    expireLease: (id: string) =>
      pool.query("update sync_state set lease_expires_at = now() - interval '1 second' where user_id = $1", [id]),
  }
}
