import type { SyncedFields } from '../models/synced-fields.js'
import type { User } from '../models/user.js'
import type { UserView } from '../repositories/sync-views.js'
import { decide, type Step, type View } from './decide.js'
import { judge, type Snapshot, type Verdict } from './observe.js'
import { type Effect, effectOf } from './update.js'

/** What an edit at Stripe comes to that needs no word with Stripe. */
export interface PlainEdit {
  news: Extract<Verdict, { is: 'news' }>
  /** What the row takes over; null where it had that already. */
  effect: Effect | null
  /** What both sides agree on afterwards. */
  base: SyncedFields
}

/**
 * Whether a snapshot of a linked customer is a plain edit: certainly later than what we hold, none of our own writes in sight, no
 * conflict, and after it both sides agree. Most edits are; they can be carried through at once, without a reconcile. Null: a
 * reconcile has to see to it. Decides by the same rules as a reconcile does. Pure.
 */
export function planPlainEdit(view: UserView, snapshot: Snapshot): PlainEdit | null {
  const { state, user, tenant, unsettled } = view
  const foreign = tenant.settings.foreignMetadataPrefixes
  if (user === null || state.status === 'conflict' || state.createIntent !== null || unsettled.length > 0) return null
  const verdict = judge(state, snapshot, null, [], foreign, view.now)
  if (verdict.is !== 'news') return null
  const told: View = {
    ...view,
    lookedUp: false,
    state: { ...state, remote: verdict.remote, remoteAsOf: verdict.asOf, remoteTimes: verdict.times },
  }
  const step = decide(told)
  if (step.do !== 'apply') return atRest(step, verdict, null)
  if (step.conflicts.length > 0) return null
  const effect = effectOf(step, told, foreign)
  const after = { ...user, ...effect.changes } as User
  return atRest(decide({ ...told, user: after, state: { ...told.state, base: step.base } }), verdict, effect)
}

function atRest(step: Step, news: PlainEdit['news'], effect: Effect | null): PlainEdit | null {
  const isAgreed = step.do === 'settle' && step.status === 'in_sync' && Object.keys(step.rejected).length === 0
  return isAgreed && step.base !== null ? { news, effect, base: step.base } : null
}
