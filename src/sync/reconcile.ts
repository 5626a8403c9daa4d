import type { Logger } from 'pino'
import { LockstepError, messageOf } from '../lib/errors.js'
import type { Metrics } from '../lib/metrics.js'
import { backoffDelay } from '../lib/retry.js'
import type { SyncError, SyncStatus } from '../models/sync-state.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { breaksUsersRule, LeaseLostError, MovedOnError } from '../repositories/errors.js'
import { closeAgreedConflicts, recordConflicts } from '../repositories/sync-conflicts.js'
import {
  acquireLease,
  deleteState,
  type Lease,
  releaseLease,
  renewLease,
  saveFailure,
  saveSettled,
} from '../repositories/sync-states.js'
import { type LoadedView, loadView } from '../repositories/sync-views.js'
import { pauseLane, resumeLane, takeLaneProbe } from '../repositories/tenants.js'
import type { Vault } from '../repositories/vault.js'
import type { StripeCustomerService } from '../services/stripe-customer.service.js'
import { CALL_TIMEOUT_MS } from '../stripe/account.js'
import { StripeAuthError } from '../stripe/errors.js'
import { CreateUnclearError } from './create.js'
import { decide, type Step, type View } from './decide.js'
import { recordDeed } from './deeds.js'
import { fieldValue, NO_FIELDS } from './fields.js'
import { partFromForgotten } from './join.js'
import { DONE } from './step-context.js'
import { makeSteps } from './steps.js'

/**
 * A lease outlives the wait for a place and one call to Stripe, so that nobody else starts while an answer may still come.
 * It is also how long the user of a worker that was killed waits for another.
 */
const LEASE_MS = 3 * CALL_TIMEOUT_MS
/** A lease is renewed when this much of it is used up, always before a call. */
const RENEW_AFTER_MS = CALL_TIMEOUT_MS / 2
/** More steps than any honest case needs: both sides settle in three or four. */
const MAX_STEPS = 20
/** Tries of a user before it is `failed`, within four to nine minutes. The stuck-work sweep takes it up again an hour later. */
const MAX_ATTEMPTS = 10
/** What whoever reads the error of such a user can expect, and do. */
const LEFT_FOR_NOW = ' It rests for an hour now; POST /customers/:id/sync tries at once.'
const BACKOFF = { first: 1_000, max: 10 * 60_000 }
/** How long a Stripe account whose key was refused is left alone, in milliseconds. */
const LANE_RETRY_MS = 60_000

/** How a reconcile ended. */
export type ReconcileOutcome =
  /** Both sides agree, or it is settled why they don't (`status`). */
  | { outcome: 'settled'; status: SyncStatus; stripeCustomerId: string | null }
  /** The user's row is gone and nothing is left to do. */
  | { outcome: 'forgotten' }
  /** Someone else is at it, and will see what we would have seen. */
  | { outcome: 'busy' }
  /** Stripe refuses the account's key; the work is kept. */
  | { outcome: 'paused' }
  /** It will be tried again; the state says when. */
  | { outcome: 'retry'; error: LockstepError }
  /** Given up until something changes. */
  | { outcome: 'failed'; error: LockstepError }

/** The world of a reconcile. */
export interface ReconcileOptions {
  db: Db
  vault: Vault
  customersOf(tenant: Tenant): StripeCustomerService
  metrics: Metrics
  log: Logger
  random: () => number
}

/** What a reconcile sees at one step. */
type Seen = View & LoadedView

/** Brings one user into step with Stripe. */
export type Reconcile = (userId: string) => Promise<ReconcileOutcome>

/**
 * Makes the one function with an effect: `reconcile(userId)`. It is level-triggered (it looks at the state, never at what
 * woke it), idempotent, serial per user (by a lease), and safe to run at any time, any number of times. Between two
 * steps everything is in Postgres, so a process may die anywhere. No database transaction is open during a call to Stripe.
 *
 * It throws only when Postgres itself fails; what Stripe does wrong is in the outcome and in `sync_state`.
 */
export function makeReconcile(options: ReconcileOptions): Reconcile {
  const { db, vault, metrics, log, random } = options

  return async function reconcile(userId) {
    const end = metrics.reconcileDuration.startTimer()
    const lease = await acquireLease(db, userId, LEASE_MS)
    const result: ReconcileOutcome = lease === null ? { outcome: 'busy' } : await underLease(lease)
    const outcome = result.outcome === 'settled' ? result.status : result.outcome
    metrics.reconciles.inc({ outcome })
    end({ outcome })
    return result
  }

  async function underLease(lease: Lease): Promise<ReconcileOutcome> {
    let view: Seen | null = null
    try {
      const loaded = await loadView(db, vault, lease)
      if (loaded === null) return { outcome: 'forgotten' }
      view = { ...loaded, lookedUp: false }
      if (!(await mayCall(view.tenant, view.now))) {
        await releaseLease(db, lease)
        return { outcome: 'paused' }
      }
      return await run(lease, view, (latest) => {
        view = latest
      })
    } catch (error) {
      if (error instanceof LeaseLostError) return { outcome: 'busy' }
      if (!(error instanceof LockstepError) || error.code.startsWith('database_') || view === null) throw error
      return fail(lease, view, error)
    }
  }

  async function run(lease: Lease, first: Seen, onView: (view: Seen) => void): Promise<ReconcileOutcome> {
    let isPaused = first.tenant.lanePausedAt !== null
    const steps = makeSteps({
      db,
      vault,
      lease,
      tenant: first.tenant,
      customers: options.customersOf(first.tenant),
      metrics,
    })
    let view = first
    let leasedAt = view.now
    for (let count = 0; count < MAX_STEPS; count += 1) {
      const step = decide(view)
      metrics.reconcileSteps.inc({ step: step.do })
      if (step.do === 'forget') return forget(lease, view.tenant, step.stripeCustomerId)
      if (view.now - leasedAt > RENEW_AFTER_MS) {
        await renewLease(db, lease, LEASE_MS)
        leasedAt = view.now
      }
      let done = DONE
      try {
        if (step.do === 'settle') return await settle(lease, view, step, steps.calls())
        done = await steps.take(step, view)
      } catch (error) {
        // An event came in between, and changed what this was decided on: nothing was written, and it is decided anew.
        if (!(error instanceof MovedOnError)) throw error
      }
      if (isPaused && steps.calls() > 0) {
        await resumeLane(db, lease.tenantId)
        isPaused = false
      }
      const next = await loadView(db, vault, lease)
      if (next === null) return { outcome: 'forgotten' }
      view = { ...next, lookedUp: view.lookedUp || done.lookedUp }
      onView(view)
      // Someone may have linked it meanwhile.
      if (done.ambiguous && view.stripeCustomerId === null) return settleAmbiguous(lease, view, steps.calls())
    }
    throw new LockstepError(
      `User ${lease.userId} did not come to rest in ${MAX_STEPS} steps: the two sides do not accept each other's value.`,
      { code: 'no_agreement', retryable: true },
    )
  }

  async function settle(
    lease: Lease,
    view: Seen,
    step: Extract<Step, { do: 'settle' }>,
    calls: number,
  ): Promise<ReconcileOutcome> {
    const settled = {
      status: step.status,
      base: step.base,
      error: refusalOf(step, view),
      rejected: step.rejected,
      hasNothingToFetch: view.stripeCustomerId === null,
    }
    const waited =
      step.open.length === 0 && !view.hasOpenConflicts
        ? await saveSettled(db, lease, view.state, settled)
        : await settleConflicts(lease, view, step, settled)
    if (waited !== null) metrics.settleLatency.observe(waited)
    metrics.stripeCallsPerChange.observe(calls)
    return { outcome: 'settled', status: step.status, stripeCustomerId: view.stripeCustomerId }
  }

  /** The same where there are conflicts, open or to be closed. */
  async function settleConflicts(
    lease: Lease,
    view: Seen,
    step: Extract<Step, { do: 'settle' }>,
    settled: Parameters<typeof saveSettled>[3],
  ): Promise<number | null> {
    return db.transaction(async (tx) => {
      const seconds = await saveSettled(tx, lease, view.state, settled)
      const added = await recordConflicts(tx, vault, lease.tenantId, lease.userId, step.open)
      for (const { reason } of added) metrics.conflicts.inc({ reason, winner: 'open' })
      const open = step.open.map((conflict) => conflict.field)
      const base = step.base ?? NO_FIELDS
      await closeAgreedConflicts(tx, vault, lease.tenantId, lease.userId, open, (field) =>
        fieldValue(base, field as Parameters<typeof fieldValue>[1]),
      )
      return seconds
    })
  }

  async function settleAmbiguous(lease: Lease, view: View, calls: number): Promise<ReconcileOutcome> {
    await saveSettled(db, lease, view.state, {
      status: 'conflict',
      base: view.state.base,
      error: {
        code: 'ambiguous_match',
        message: 'More than one Stripe customer or user has this e-mail; see GET /duplicates. None was linked or made.',
        field: 'email',
        retryable: false,
        at: new Date(view.now).toISOString(),
      },
      rejected: view.state.rejected,
      hasNothingToFetch: true,
    })
    metrics.stripeCallsPerChange.observe(calls)
    return { outcome: 'settled', status: 'conflict', stripeCustomerId: null }
  }

  async function forget(lease: Lease, tenant: Tenant, stripeCustomerId: string | null): Promise<ReconcileOutcome> {
    await db.transaction(async (tx) => {
      if (stripeCustomerId !== null) {
        await partFromForgotten(tx, tenant, stripeCustomerId)
        const fields = { stripeCustomerId: { from: stripeCustomerId, to: null, why: 'row_deleted' } }
        await recordDeed(tx, tenant.id, lease.userId, { action: 'sync.forget', changes: { fields } })
      }
      await deleteState(tx, lease)
    })
    return { outcome: 'forgotten' }
  }

  async function fail(lease: Lease, view: View, error: LockstepError): Promise<ReconcileOutcome> {
    const { tenant, state } = view
    // Neither a full bucket nor a refused key says anything about this user, and an outcome that only time shows is awaited: no try counts.
    const isAuth = error instanceof StripeAuthError
    const waitMs = error instanceof CreateUnclearError ? error.waitMs : null
    const countAttempt = !isAuth && waitMs === null && error.code !== 'stripe_rate_limited'
    const attempts = state.attempts + (countAttempt ? 1 : 0)
    // What a rule of the application's stands against may pass once another row has changed, or the rule: but not in seconds.
    const mayPass = error.retryable || breaksUsersRule(error)
    const mayRetry = error.retryable && attempts < MAX_ATTEMPTS
    const retryAfterMs = mayRetry ? (waitMs ?? backoffDelay(BACKOFF, Math.max(1, attempts), random)) : null
    if (isAuth) await pauseLane(db, tenant.id, error.message, LANE_RETRY_MS)
    log.warn({ userId: lease.userId, code: error.code, attempts, retryAfterMs }, `reconcile: ${error.message}`)
    metrics.errors.inc({ part: 'reconcile' })
    const outlook = mayPass && !mayRetry ? LEFT_FOR_NOW : ''
    const failure = {
      error: {
        code: error.code,
        message: `${messageOf(error)}${outlook}`,
        field: null,
        retryable: mayPass,
        at: new Date(view.now).toISOString(),
      },
      retryAfterMs,
      countAttempt,
    }
    try {
      await saveFailure(db, lease, state, failure)
    } catch (lost) {
      if (lost instanceof LeaseLostError) return { outcome: 'busy' }
      throw lost
    }
    if (isAuth) return { outcome: 'paused' }
    return { outcome: retryAfterMs === null ? 'failed' : 'retry', error }
  }

  /** Whether the tenant's Stripe account may be called: always, but for one probe at a time while its lane is paused. */
  async function mayCall(tenant: Tenant, now: number): Promise<boolean> {
    if (tenant.lanePausedAt === null) return true
    if (tenant.laneRetryAt !== null && tenant.laneRetryAt.getTime() > now) return false
    return takeLaneProbe(db, tenant.id, LANE_RETRY_MS)
  }
}

/** What operators see of a field that Stripe refused, while everything else is in step. */
function refusalOf(step: Extract<Step, { do: 'settle' }>, view: View): SyncError | null {
  const [field, refusal] = Object.entries(step.rejected)[0] ?? []
  if (field === undefined || refusal === undefined) return null
  return { code: refusal.code, message: refusal.message, field, retryable: false, at: new Date(view.now).toISOString() }
}
