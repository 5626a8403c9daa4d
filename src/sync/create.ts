import type Stripe from 'stripe'
import { LockstepError } from '../lib/errors.js'
import type { CreateStripeCustomerDto } from '../models/dtos/stripe-customer.dto.js'
import type { CreateIntent } from '../models/sync-state.js'
import type { FieldPatch, FieldPath, RemoteState, SyncedFields } from '../models/synced-fields.js'
import { sealFields } from '../repositories/audit-log.js'
import type { Db } from '../repositories/database.js'
import { findJudged, recordDuplicate } from '../repositories/duplicate-customers.js'
import { findLinks } from '../repositories/stripe-links.js'
import { findWrite, insertWrite, settleWrite } from '../repositories/stripe-writes.js'
import { clearIntent, saveIntent } from '../repositories/sync-states.js'
import { findUsersByEmail, lockUser } from '../repositories/users.js'
import type { PersonSeal } from '../repositories/vault.js'
import { answeredAt, isReplayed } from '../stripe/account.js'
import { StripeIdempotencyError, StripeUnavailableError, StripeValidationError } from '../stripe/errors.js'
import type { Step, View } from './decide.js'
import { explain, recordDeed } from './deeds.js'
import { OVERLAP_MS } from './event-types.js'
import { fieldValue, localTime, NO_FIELDS, pathsOf, remoteState, stripeParams, withPatch } from './fields.js'
import { join, partFromDeleted } from './join.js'
import { DONE, KEY_PREFIX, type StepContext, type StepResult } from './step-context.js'

/**
 * Stripe keeps a failed answer (500) under its key and repeats it for a day. Once it does so, the create is over, and whether it
 * made the customer shows in the list at once, in the events within minutes: this long after the first attempt that is
 * certain, and nobody has to wait for the day to end. Milliseconds.
 */
const OUTCOME_SHOWS_MS = 2 * OVERLAP_MS

/** Stripe repeats that it failed to make the customer, and it is too early to know whether it made it all the same. */
export class CreateUnclearError extends LockstepError {
  /** Until it is known, in milliseconds: asking sooner is no use. */
  readonly waitMs: number

  constructor(waitMs: number, cause: unknown) {
    super(
      'Stripe failed while it made the customer, and repeats that for a day. Whether it was made all the same is looked up ' +
        `${OUTCOME_SHOWS_MS / 60_000} minutes after the first try, when it is certain to show.`,
      { code: 'stripe_create_unclear', retryable: true, cause },
    )
    this.waitMs = waitMs
  }
}

/** What is known of a customer when it is met. */
interface Met {
  remote: RemoteState | null
  asOf: Date | null
  needsFetch: boolean
  stripeCreated: Date | null
}

/** The steps about a user without a Stripe customer: look for one, then make one, never two. */
export function makeCreateSteps(context: StepContext) {
  const { db, vault, lease, tenant, customers } = context
  const foreign = tenant.settings.foreignMetadataPrefixes
  /** The create that this reconcile stored: what is in Postgres need not be read and opened again. */
  let intended: { key: string; sent: FieldPatch; seal: PersonSeal } | null = null

  /** Links the one free customer with this e-mail, if it is one and nobody else here could be meant. */
  async function lookUp(email: string): Promise<StepResult> {
    context.countCall()
    const found = await customers.findCustomersByEmail(email, 10)
    const links = await findLinks(
      db,
      tenant.id,
      found.data.map((customer) => customer.id),
    )
    const ids = found.data.map((customer) => customer.id)
    const { ignored, asked } = await findJudged(db, tenant.id, ids)
    const free = found.data.filter((customer) => {
      const owner = customer.metadata.lockstep_user_id
      if (ignored.includes(customer.id)) return false
      return !links.has(customer.id) && (owner === undefined || owner === '' || owner === lease.userId)
    })
    const own = free.find((customer) => customer.metadata.lockstep_user_id === lease.userId)
    const rivals = (await findUsersByEmail(db, tenant.id, email, 3))
      .filter((user) => user.stripeCustomerId === null && user.state === 'active')
      .map((user) => user.id)
    // Once it is asked, that the others were ruled out is no answer yet: the next one may be ruled out too.
    const isUnclear = free.length > 1 || rivals.length !== 1 || free.some((customer) => asked.includes(customer.id))
    const match = own ?? (isUnclear ? undefined : free[0])
    if (match !== undefined) {
      await db.transaction((tx) =>
        join(tx, tenant, lease.userId, match.id, {
          how: own === undefined ? 'email' : 'lockstep_id',
          base: NO_FIELDS,
          remote: remoteState(match, foreign),
          asOf: answeredAt(found),
          needsFetch: false,
          stripeCreated: new Date(match.created * 1000),
        }),
      )
      return { lookedUp: true, ambiguous: false }
    }
    for (const customer of free) {
      await recordDuplicate(db, {
        tenantId: tenant.id,
        stripeCustomerId: customer.id,
        userId: lease.userId,
        reason: 'ambiguous',
        matchedBy: 'email',
        candidates: rivals,
      })
    }
    return { lookedUp: true, ambiguous: free.length > 0 }
  }

  /** Stores the create, word for word, before the first attempt at it. */
  async function intend(step: Extract<Step, { do: 'intend' }>, view: View): Promise<StepResult> {
    const key = `${KEY_PREFIX}create-${lease.userId}-${view.state.createGeneration + 1}`
    const patch = presentFields(step.fields)
    intended = await db.transaction(async (tx) => {
      const user = await lockUser(tx, tenant.id, lease.userId)
      // Something linked the user since it was read; a create would be a second customer.
      if (user === null || user.stripeCustomerId !== null) return null
      await saveIntent(tx, lease, { key, params: stripeParams(patch, step.facts) })
      const seal = await newSeal(tx)
      await insertWrite(tx, seal, {
        idempotencyKey: key,
        tenantId: tenant.id,
        userId: lease.userId,
        stripeCustomerId: null,
        kind: 'create',
        leaseToken: lease.token,
        held: null,
        sent: patch as Record<string, never>,
      })
      const timeOf = (path: string) => localTime(user.fieldTimes, path as FieldPath)
      const fields = explain(patch, { winner: 'local', held: NO_FIELDS, base: null, conflicts: [], timeOf })
      const changes = { fields: sealFields(seal, fields) }
      await recordDeed(tx, tenant.id, lease.userId, { action: 'sync.push', changes })
      return { key, sent: patch, seal }
    })
    return DONE
  }

  /** Who gets a Stripe customer has mostly no key yet, so none is looked for first. */
  async function newSeal(tx: Db): Promise<PersonSeal> {
    const seal = (await vault.create(tx, tenant.id, [lease.userId])).get(lease.userId)
    if (seal === undefined) throw new Error('A key is neither made nor found.')
    return seal
  }

  async function create(view: View): Promise<StepResult> {
    const intent = view.state.createIntent
    if (intent === null) return DONE
    context.countCall()
    let answer: Stripe.Response<Stripe.Customer>
    try {
      answer = await customers.createCustomer(intent.params as CreateStripeCustomerDto, intent.key)
    } catch (error) {
      if (error instanceof StripeIdempotencyError) return findCreated(view)
      if (error instanceof StripeUnavailableError && error.isReplay) {
        const waitMs = Math.ceil(intent.startedAt.getTime() + OUTCOME_SHOWS_MS - view.now)
        if (waitMs > 0) throw new CreateUnclearError(waitMs, error)
        return findCreated(view)
      }
      if (!(error instanceof StripeValidationError)) throw error
      // Refused for good: nothing was made, and the same words would meet the same refusal. The next try is a new create.
      const sent = await giveUp(intent)
      if (await context.reject(error, sent, view)) return DONE
      throw error
    }
    await meet(intent, answer.id, {
      remote: remoteState(answer, foreign),
      asOf: answeredAt(answer),
      // A replayed answer is the customer as it was first made, which may be long ago.
      needsFetch: isReplayed(answer),
      stripeCreated: new Date(answer.created * 1000),
    })
    return DONE
  }

  /** The key may be forgotten by now, so sending it again could make a second customer: look for the one that it made. */
  async function findCreated(view: View): Promise<StepResult> {
    const intent = view.state.createIntent
    if (intent === null) return DONE
    context.countCall()
    const found = await customers.findCreatedCustomer({
      idempotencyKey: intent.key,
      userId: lease.userId,
      email: typeof intent.params.email === 'string' ? intent.params.email : null,
      since: intent.startedAt,
    })
    if (found === null) await giveUp(intent)
    else await meet(intent, found, { remote: null, asOf: null, needsFetch: true, stripeCreated: null })
    return DONE
  }

  async function giveUp(intent: CreateIntent): Promise<FieldPatch> {
    return db.transaction(async (tx) => {
      await clearIntent(tx, lease)
      await settleWrite(tx, tenant.id, intent.key, 'refused')
      return ((await findWrite(tx, vault, tenant.id, intent.key))?.sent ?? {}) as FieldPatch
    })
  }

  async function meet(intent: CreateIntent, stripeCustomerId: string, met: Met): Promise<void> {
    const own = intended?.key === intent.key ? intended : null
    await db.transaction(async (tx) => {
      const sent = own?.sent ?? (((await findWrite(tx, vault, tenant.id, intent.key))?.sent ?? {}) as FieldPatch)
      const base = withPatch(NO_FIELDS, sent)
      const outcome = await join(tx, tenant, lease.userId, stripeCustomerId, {
        how: 'created',
        base,
        ...met,
        lease,
        ...(own === null || met.needsFetch ? {} : { seal: own.seal }),
      })
      if (outcome === 'dead') await partFromDeleted(tx, tenant, lease.userId, stripeCustomerId)
      if (outcome === 'taken') {
        await recordDuplicate(tx, {
          tenantId: tenant.id,
          stripeCustomerId,
          userId: lease.userId,
          reason: 'lockstep_id',
          matchedBy: 'lockstep_id',
          candidates: [],
        })
        await clearIntent(tx, lease)
      }
      await settleWrite(tx, tenant.id, intent.key, 'answered', stripeCustomerId)
    })
  }

  return { lookUp, intend, create, findCreated }
}

/** The fields that have a value: what a create has to say. */
function presentFields(fields: SyncedFields): FieldPatch {
  return Object.fromEntries(
    pathsOf(fields)
      .map((path) => [path, fieldValue(fields, path)] as const)
      .filter(([, value]) => value !== null),
  )
}
