import type Stripe from 'stripe'
import { newId } from '../lib/ids.js'
import type { FieldChanges } from '../models/audit.js'
import type { UpdateStripeCustomerDto } from '../models/dtos/stripe-customer.dto.js'
import type { FieldPatch, FieldPath } from '../models/synced-fields.js'
import type { User } from '../models/user.js'
import type { Db } from '../repositories/database.js'
import { LeaseLostError } from '../repositories/errors.js'
import { disownUnsettled, insertWrite, settleWrite } from '../repositories/stripe-writes.js'
import { lockState, markForFetch, saveBase, saveObserved, savePushed } from '../repositories/sync-states.js'
import { type UserChanges, updateUser } from '../repositories/users.js'
import { StripeCustomerDeletedError } from '../services/stripe-customer.service.js'
import { answeredAt, isReplayed } from '../stripe/account.js'
import { StripeNotFoundError, StripeValidationError } from '../stripe/errors.js'
import type { Step, View } from './decide.js'
import { explain, explainBilling, recordDeed, sealedFields } from './deeds.js'
import {
  fieldValue,
  isRedacted,
  localFields,
  localTime,
  metadataKey,
  patchEntries,
  remoteState,
  sameRemote,
  splitName,
  stripeParams,
  timeKeys,
  withPatch,
} from './fields.js'
import { observedTimes } from './observe.js'
import { DONE, KEY_PREFIX, type StepContext, type StepResult } from './step-context.js'

/** A request that had no answer may reach Stripe this much later, but no more. Milliseconds. */
const WANDERS_MS = 10 * 60_000

type Apply = Extract<Step, { do: 'apply' }>
type Push = Extract<Step, { do: 'push' }>

/** The steps about a user that has its Stripe customer: read it, write home, write there. */
export function makeUpdateSteps(context: StepContext) {
  const { db, vault, lease, tenant, customers } = context
  const foreign = tenant.settings.foreignMetadataPrefixes

  async function fetch(stripeCustomerId: string, view: View): Promise<StepResult> {
    context.countCall()
    try {
      const customer = await customers.getCustomer(stripeCustomerId)
      if (isRedacted(customer)) {
        await context.part(stripeCustomerId, { isRedacted: true })
        return DONE
      }
      const remote = remoteState(customer, foreign)
      const asOf = answeredAt(customer)
      const times = observedTimes(view.state, remote, asOf)
      await saveObserved(db, lease, view.state.remoteRevision, { remote, asOf, times })
    } catch (error) {
      if (!(error instanceof StripeCustomerDeletedError)) throw error
      await context.part(stripeCustomerId)
    }
    return DONE
  }

  async function apply(step: Apply, view: View): Promise<StepResult> {
    const { user, patch, base, conflicts } = step
    const { changes, times, fields, causedAt } = effectOf(step, view, foreign)
    await db.transaction(async (tx) => {
      // Where the row has moved on since it was read, what was decided may be wrong now: nothing is written, it is read again.
      const revision = await updateUser(tx, tenant.id, user.id, user.revision, changes, times)
      if (revision === null) return
      await saveBase(tx, lease, view.state, base)
      await disownUnsettled(tx, tenant.id, user.id, Object.keys(patch), 0, view.state.remoteAsOf)
      await context.recordConflicts(tx, conflicts)
      await recordDeed(tx, tenant.id, user.id, {
        action: 'sync.apply',
        changes: { ...(await sealedFields(tx, vault, tenant.id, user.id, fields)), revision },
        causedAt,
      })
    })
    return DONE
  }

  async function push(step: Push, view: View): Promise<StepResult> {
    const { stripeCustomerId, patch, facts, base, held } = step
    const idempotencyKey = `${KEY_PREFIX}update-${lease.userId}-${newId()}`
    await db.transaction(async (tx) => {
      await saveBase(tx, lease, view.state, base)
      await insertWrite(tx, await vault.person(tx, tenant.id, lease.userId), {
        idempotencyKey,
        tenantId: tenant.id,
        userId: lease.userId,
        stripeCustomerId,
        kind: 'update',
        leaseToken: lease.token,
        held: Object.fromEntries(patchEntries(patch).map(([path]) => [path, fieldValue(held, path)])),
        sent: Object.fromEntries(patchEntries(patch)),
      })
      // Before the call, since after it both sides agree and a crash in between would hide that they had not.
      await context.recordConflicts(tx, step.conflicts)
      if (Object.keys(patch).length > 0) await recordPush(tx, step, view)
    })
    context.countCall()
    let answer: Stripe.Response<Stripe.Customer>
    try {
      const params = stripeParams(patch, facts, view.state.remote?.locales) as UpdateStripeCustomerDto
      answer = await customers.updateCustomer(stripeCustomerId, params, idempotencyKey)
    } catch (error) {
      return refused(error, idempotencyKey, patch, view)
    }
    if (isRedacted(answer)) await context.part(stripeCustomerId, { isRedacted: true })
    else await takeIn(step, view, answer, idempotencyKey)
    return DONE
  }

  async function recordPush(tx: Db, { patch, held, conflicts, stripeCustomerId }: Push, view: View): Promise<void> {
    const timeOf = (path: string) => (view.user === null ? null : localTime(view.user.fieldTimes, path as FieldPath))
    const fields = explain(patch, { winner: 'local', held, base: view.state.base, conflicts, timeOf })
    await recordDeed(tx, tenant.id, lease.userId, {
      action: 'sync.push',
      changes: { ...(await sealedFields(tx, vault, tenant.id, lease.userId, fields)), stripeCustomerId },
    })
  }

  async function refused(error: unknown, idempotencyKey: string, patch: FieldPatch, view: View): Promise<StepResult> {
    const isRefusal = error instanceof StripeValidationError || error instanceof StripeNotFoundError
    if (!isRefusal) throw error
    await settleWrite(db, tenant.id, idempotencyKey, 'refused')
    // Whether the customer was deleted only the customer itself says.
    if (error instanceof StripeNotFoundError) {
      await markForFetch(db, tenant.id, lease.userId)
      return DONE
    }
    if (await context.reject(error, patch, view)) return DONE
    throw error
  }

  /**
   * The answer is the customer as our write left it. If other news came in during the call it is unclear which is later,
   * unless both say the same: then the customer is read once more.
   */
  async function takeIn(
    step: Push,
    view: View,
    answer: Stripe.Response<Stripe.Customer>,
    idempotencyKey: string,
  ): Promise<void> {
    const remote = remoteState(answer, foreign)
    await db.transaction(async (tx) => {
      const now = await lockState(tx, tenant.id, lease.userId)
      if (now === null || now.leaseToken !== lease.token) throw new LeaseLostError(`user ${lease.userId}`)
      const isUndisturbed = now.remoteRevision === view.state.remoteRevision
      const isSame = now.remote !== null && sameRemote(now.remote, remote)
      const canTake = (isUndisturbed || isSame) && !isReplayed(answer)
      await savePushed(tx, lease, {
        base: withPatch(now.base ?? step.base, step.patch),
        remote: canTake ? remote : null,
        asOf: canTake ? answeredAt(answer) : null,
        needsFetch: !canTake,
      })
      await settleWrite(tx, tenant.id, idempotencyKey, 'answered')
      await disownUnsettled(tx, tenant.id, lease.userId, Object.keys(step.patch), WANDERS_MS)
    })
  }

  return { fetch, apply, push }
}

/** What an apply does. */
export interface Effect {
  changes: UserChanges
  /** When each value came about, by key of `users.field_times`, ISO 8601. */
  times: Record<string, string>
  /** What the audit log says of it, and the times of the edits that brought it. */
  fields: FieldChanges
  causedAt: string[]
}

/** What an apply writes to the row, and why. Pure. */
export function effectOf(
  { user, patch, conflicts, billing }: Apply,
  { state }: Pick<View, 'state'>,
  foreignPrefixes: readonly string[],
): Effect {
  const timeOf = (path: string) => state.remoteTimes[path] ?? null
  const paths = patchEntries(patch).map(([path]) => path)
  const times = paths.flatMap((path) => {
    const time = timeOf(path)
    return time === null ? [] : timeKeys(path).map((key): [string, string] => [key, time])
  })
  const held = localFields(user, foreignPrefixes)
  return {
    changes: { ...localChanges(user, patch), ...(billing === null ? {} : { billing }) },
    times: Object.fromEntries(times),
    fields: {
      ...explain(patch, { winner: 'stripe', held, base: state.base, conflicts, timeOf }),
      ...(billing === null ? {} : explainBilling(user, billing)),
    },
    causedAt: paths.flatMap((path) => timeOf(path) ?? []),
  }
}

/** The columns that a patch of two-way fields changes. Metadata keys that are not synced stay as the row has them. */
export function localChanges(user: Pick<User, 'firstName' | 'lastName' | 'metadata'>, patch: FieldPatch): UserChanges {
  const changes: UserChanges = {}
  const metadata = new Map(Object.entries(user.metadata))
  let touchesMetadata = false
  for (const [path, value] of patchEntries(patch)) {
    const key = metadataKey(path)
    if (key !== null) {
      touchesMetadata = true
      if (typeof value === 'string') metadata.set(key, value)
      else metadata.delete(key)
    } else if (path === 'name') {
      Object.assign(changes, splitName(typeof value === 'string' ? value : null, user))
    } else {
      Object.assign(changes, { [path as FieldPath]: value })
    }
  }
  return touchesMetadata ? { ...changes, metadata: Object.fromEntries(metadata) } : changes
}
