import { newId } from '../lib/ids.js'
import type { Metrics } from '../lib/metrics.js'
import type { Rejection } from '../models/sync-state.js'
import type { FieldPatch, FieldPath } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import { MovedOnError } from '../repositories/errors.js'
import { insertWrite, settleWrite } from '../repositories/stripe-writes.js'
import { recordConflicts } from '../repositories/sync-conflicts.js'
import { type Lease, saveRejected } from '../repositories/sync-states.js'
import type { Vault } from '../repositories/vault.js'
import type { StripeCustomerService } from '../services/stripe-customer.service.js'
import { StripeNotFoundError } from '../stripe/errors.js'
import { makeCreateSteps } from './create.js'
import type { Step, View } from './decide.js'
import { fieldOfStripeParam, metadataKey } from './fields.js'
import { partFromDeleted } from './join.js'
import { DONE, KEY_PREFIX, type StepContext, type StepResult } from './step-context.js'
import { makeUpdateSteps } from './update.js'

/** Carries out the steps of one reconcile. */
export interface Steps {
  /** Each step writes what it is about to do before, and what came of it after. */
  take(step: Exclude<Step, { do: 'settle' } | { do: 'forget' }>, view: View): Promise<StepResult>
  /** Calls to Stripe made so far. */
  calls(): number
}

/**
 * The effects of a reconcile, under its lease. What Stripe finds wrong with a field is noted and ends the step; anything
 * else that fails is thrown for the loop to judge.
 */
export function makeSteps(options: {
  db: Db
  vault: Vault
  lease: Lease
  tenant: Tenant
  customers: StripeCustomerService
  metrics: Metrics
}): Steps {
  const { db, vault, lease, tenant, customers, metrics } = options
  let calls = 0
  const context: StepContext = {
    db,
    vault,
    lease,
    tenant,
    customers,
    countCall() {
      calls += 1
    },
    async reject(error, patch, view) {
      const paths = refusedPaths(error.param, patch)
      const refusals = paths.map((path): [string, Rejection] => [
        path,
        { value: patch[path] ?? null, code: error.stripeCode ?? error.code, message: error.message },
      ])
      if (paths.length > 0) await saveRejected(db, lease, { ...view.state.rejected, ...Object.fromEntries(refusals) })
      return paths.length > 0
    },
    async recordConflicts(tx, conflicts) {
      const added = await recordConflicts(tx, vault, tenant.id, lease.userId, conflicts)
      for (const { reason, winner } of added) metrics.conflicts.inc({ reason, winner: winner ?? 'open' })
    },
    async part(stripeCustomerId, options) {
      const isParted = await db.transaction((tx) =>
        partFromDeleted(tx, tenant, lease.userId, stripeCustomerId, options),
      )
      if (!isParted) throw new MovedOnError(`user ${lease.userId}`)
    },
  }
  const update = makeUpdateSteps(context)
  const create = makeCreateSteps(context)

  return {
    calls: () => calls,
    take(step, view) {
      switch (step.do) {
        case 'fetch':
          return update.fetch(step.stripeCustomerId, view)
        case 'apply':
          return update.apply(step, view)
        case 'push':
          return update.push(step, view)
        case 'look-up':
          return create.lookUp(step.email)
        case 'intend':
          return create.intend(step, view)
        case 'create':
          return create.create(view)
        case 'find-created':
          return create.findCreated(view)
        case 'delete':
          return deleteCustomer(context, step.stripeCustomerId)
        default: {
          const never: never = step
          return never
        }
      }
    },
  }
}

async function deleteCustomer(context: StepContext, stripeCustomerId: string): Promise<StepResult> {
  const { db, vault, lease, tenant, customers } = context
  const idempotencyKey = `${KEY_PREFIX}delete-${lease.userId}-${newId()}`
  await insertWrite(db, await vault.person(db, tenant.id, lease.userId), {
    idempotencyKey,
    tenantId: tenant.id,
    userId: lease.userId,
    stripeCustomerId,
    kind: 'delete',
    leaseToken: lease.token,
    held: null,
    sent: {},
  })
  context.countCall()
  try {
    await customers.deleteCustomer(stripeCustomerId)
  } catch (error) {
    // Deleting is final and ours to want: a customer that is not there any more is as good as deleted.
    if (!(error instanceof StripeNotFoundError)) throw error
  }
  await context.part(stripeCustomerId)
  await settleWrite(db, tenant.id, idempotencyKey, 'answered')
  return DONE
}

/** The fields of the patch that a complaint about `param` means. About metadata as a whole: every key of it. */
function refusedPaths(param: string | null, patch: FieldPatch): FieldPath[] {
  const about = param === null ? null : fieldOfStripeParam(param)
  const paths = Object.keys(patch) as FieldPath[]
  if (about === 'metadata') {
    const keys = paths.filter((path) => metadataKey(path) !== null)
    const unfit = keys.filter((path) => !/^metadata\.[^[\]]{1,40}$/.test(path))
    return unfit.length > 0 ? unfit : keys
  }
  return paths.filter((path) => path === about)
}
