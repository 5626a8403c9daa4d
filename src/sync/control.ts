import type { Timer } from '../lib/clock.js'
import { ConflictError, NotFoundError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import type { SyncState } from '../models/sync-state.js'
import type { FieldPath, FieldValue } from '../models/synced-fields.js'
import type { User } from '../models/user.js'
import { type Actor, recordAudit } from '../repositories/audit-log.js'
import type { Db } from '../repositories/database.js'
import type { DuplicateRow } from '../repositories/duplicate-customers.js'
import { reopenEvent } from '../repositories/stripe-events.js'
import {
  type ConflictRow,
  findConflict,
  findConflictsOfUser,
  resolveConflictRow,
} from '../repositories/sync-conflicts.js'
import {
  findState,
  lockState,
  markDirty,
  markForFetch,
  reattachDetached,
  releaseLease,
  saveBase,
} from '../repositories/sync-states.js'
import { findTenant } from '../repositories/tenants.js'
import { findUser } from '../repositories/users.js'
import type { Vault } from '../repositories/vault.js'
import { recordDeed, sealedFields } from './deeds.js'
import { fieldValue, localFields, NO_FIELDS, withPatch } from './fields.js'
import { waitForLease } from './lease.js'
import type { Reconcile } from './reconcile.js'
import { type DuplicateDecision, resolveDuplicate } from './resolve-duplicate.js'

/** Waiting looks at the state this often, in milliseconds: first quickly, since most users settle at once. */
const POLL_MS = { first: 15, most: 250 }
/** Whom the queue has not served by then its own process serves, if somebody waits for it, in milliseconds. */
const HELP_AFTER_MS = 300
/** Users that one process serves so at a time. */
const MOST_HELPED = 16

/** What people may ask of the sync of one user, beyond editing it. */
export interface SyncControl {
  /** Tells the relay of this process that there may be dirty users. */
  wake(): void
  /** The user, how it stands and its latest conflicts; null when the tenant has no such user. */
  getSync(tenantId: string, userId: string): Promise<{ user: User; state: SyncState; conflicts: ConflictRow[] } | null>
  /** Has the next reconcile read the Stripe customer; takes up a failed user again. False: there is no such user. */
  markForSync(tenantId: string, userId: string, by: Actor): Promise<boolean>
  /** Lets a user whose Stripe customer was deleted have a new one. */
  reattach(tenantId: string, userId: string): Promise<void>
  /**
   * Waits until nothing is left to be carried either way. A user that is given up on ends the wait. Where the queue has much to do,
   * the user is reconciled here, past the queue and ahead of other calls to Stripe.
   */
  waitUntilSettled(
    tenantId: string,
    userId: string,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<'settled' | 'timeout'>
  /** Decides an open conflict. Throws NotFoundError, or ConflictError when it is decided already. */
  resolveConflict(tenantId: string, conflictId: string, winner: 'local' | 'stripe', by: Actor): Promise<ConflictRow>
  /** Decides about a Stripe customer that looks like someone; see {@link resolveDuplicate} for what it throws. */
  resolveDuplicate(tenantId: string, id: string, decision: DuplicateDecision, by: Actor): Promise<DuplicateRow>
  /** Puts an event back into the inbox. Throws NotFoundError. */
  replayEvent(tenantId: string, eventId: string, by: Actor): Promise<void>
}

/**
 * Makes the controls. `wake` tells drain and relay of this process that there is work; `reconcileNow` reconciles for somebody who
 * waits. Without it the queue alone does.
 */
export function makeSyncControl({
  db,
  vault,
  timer,
  wake,
  reconcileNow,
}: {
  db: Db
  vault: Vault
  timer: Timer
  wake(): void
  reconcileNow?: Reconcile
}): SyncControl {
  let helped = 0

  /** Whether somebody else is at the user, so that it may be tried again. */
  async function help(userId: string): Promise<boolean> {
    if (reconcileNow === undefined || helped >= MOST_HELPED) return true
    helped += 1
    try {
      return (await reconcileNow(userId)).outcome === 'busy'
    } catch {
      // Postgres failed: whoever waits notices by itself, and the queue tries again.
      return false
    } finally {
      helped -= 1
    }
  }

  return {
    wake,

    async getSync(tenantId, userId) {
      if (!isId(userId)) return null
      const state = await findState(db, tenantId, userId)
      const user = await findUser(db, tenantId, userId)
      if (user === null || state === null) return null
      return { user, state, conflicts: await findConflictsOfUser(db, vault, tenantId, userId) }
    },

    async markForSync(tenantId, userId, by) {
      if (!isId(userId)) return false
      const isThere = await db.transaction(async (tx) => {
        if (!(await markForFetch(tx, tenantId, userId))) return false
        const entityId = userId.toLowerCase()
        await recordAudit(tx, by, { action: 'customer.sync', entity: 'customer', entityId, changes: null })
        return true
      })
      if (isThere) wake()
      return isThere
    },

    async reattach(tenantId, userId) {
      if (await reattachDetached(db, tenantId, userId)) wake()
    },

    async waitUntilSettled(tenantId, userId, timeoutMs, signal) {
      const helpAt = timer.now() + HELP_AFTER_MS
      const deadline = timer.now() + timeoutMs
      let mayHelp = true
      for (let pause = POLL_MS.first; ; pause = Math.min(pause * 1.5, POLL_MS.most)) {
        const state = await findState(db, tenantId, userId)
        if (state === null || (!state.dirty && state.status !== 'failed')) return 'settled'
        if (state.status === 'failed' || signal?.aborted === true || timer.now() + pause > deadline) return 'timeout'
        if (mayHelp && timer.now() >= helpAt && (state.nextAttemptAt?.getTime() ?? 0) <= timer.now()) {
          mayHelp = false
          // Not awaited: it may take longer than the wait.
          void help(userId).then((again) => {
            mayHelp = again
          })
        }
        await timer.sleep(pause)
      }
    },

    /**
     * Deciding is moving the base: to what the losing side holds, so that only the winner has changed since. Under the
     * lease, since a reconcile that is under way would write its own base over it.
     */
    async resolveConflict(tenantId, conflictId, winner, by) {
      const conflict = isId(conflictId) ? await findConflict(db, vault, tenantId, conflictId) : null
      if (conflict === null) throw new NotFoundError('conflict', conflictId)
      if (conflict.status !== 'open') {
        throw new ConflictError(
          `The conflict was decided already, for '${conflict.winner}'.`,
          'conflict_already_resolved',
        )
      }
      const held = await waitForLease(db, timer, conflict.userId)
      await db.transaction(async (tx) => {
        const tenant = await findTenant(tx, tenantId)
        const state = await lockState(tx, tenantId, conflict.userId)
        const user = await findUser(tx, tenantId, conflict.userId)
        if (tenant === null || state === null || user === null) {
          await resolveConflictRow(tx, tenantId, conflictId, winner, by.actor)
        } else {
          const path = conflict.field as FieldPath
          // One of them may have been changed since it was shown: what loses is kept as it was when it lost.
          const local = fieldValue(localFields(user, tenant.settings.foreignMetadataPrefixes), path)
          const remote = fieldValue(state.remote?.fields ?? NO_FIELDS, path)
          const seal = await vault.person(tx, tenantId, user.id)
          const values = { seal, local, remote }
          const isOurs = await resolveConflictRow(tx, tenantId, conflictId, winner, by.actor, values)
          const loser = winner === 'local' ? remote : local
          if (isOurs) {
            await saveBase(tx, held, state, withPatch(state.base ?? NO_FIELDS, { [path]: loser }))
            await recordDecision(tx, vault, by, conflict, { winner, local, remote })
          }
        }
        await recordAudit(tx, by, {
          action: 'conflict.resolve',
          entity: 'conflict',
          entityId: conflictId,
          changes: { field: conflict.field, winner },
        })
        await markDirty(tx, tenantId, conflict.userId)
        await releaseLease(tx, held)
      })
      wake()
      return (await findConflict(db, vault, tenantId, conflictId)) ?? conflict
    },

    async resolveDuplicate(tenantId, id, decision, by) {
      if (!isId(id)) throw new NotFoundError('duplicate', id)
      const resolved = await db.transaction((tx) => resolveDuplicate(tx, tenantId, id, decision, by))
      wake()
      return resolved
    },

    async replayEvent(tenantId, eventId, by) {
      await db.transaction(async (tx) => {
        if (!(await reopenEvent(tx, tenantId, eventId))) throw new NotFoundError('event', eventId)
        await recordAudit(tx, by, { action: 'event.replay', entity: 'event', entityId: eventId, changes: null })
      })
      wake()
    },
  }
}

/** The decision as part of the field's story, beside the entry about the conflict itself. */
async function recordDecision(
  tx: Db,
  vault: Vault,
  by: Actor,
  { id, userId, field, base }: ConflictRow,
  { winner, local, remote }: { winner: 'local' | 'stripe'; local: FieldValue; remote: FieldValue },
): Promise<void> {
  const [from, to] = winner === 'local' ? [remote, local] : [local, remote]
  const change = { from, to, base, winner, why: 'manual' }
  const changes = await sealedFields(tx, vault, by.tenantId, userId, { [field]: change })
  await recordDeed(tx, by.tenantId, userId, { action: 'conflict.resolve', changes, cause: `conflict:${id}` }, by)
}
