import type { Action, ActionKind } from './config.js'
import { dashboardActions } from './dashboard-actions.js'
import type { Ledger } from './ledger.js'
import { machineActions } from './machine-actions.js'
import { makeMoves } from './moves.js'
import { peopleActions } from './people-actions.js'
import type { World } from './world.js'

/** Does the actions of a plan. */
export function makeActions(world: World, ledger: Ledger) {
  const moves = makeMoves(world, ledger)
  const actions: Record<ActionKind, (action: Action) => Promise<void>> = {
    ...peopleActions(world, ledger, moves),
    ...dashboardActions(world, ledger, moves),
    ...machineActions(world, moves),
  }
  const { tick, reconcile, execute, users } = moves
  return { actions, tick, reconcile, execute, users }
}

export type Actions = ReturnType<typeof makeActions>
