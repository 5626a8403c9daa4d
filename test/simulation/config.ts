import type { Policy, TenantSettings } from '../../src/models/tenant.js'
import { type Choices, choicesFor } from './random.js'

/** What may happen in a run. Edits come from people; the rest is what the world does to the service. */
export const ACTIONS = {
  insertSql: 6,
  insertService: 4,
  editSql: 16,
  editService: 10,
  editBadly: 2,
  collide: 14,
  erase: 1,
  archive: 2,
  restore: 2,
  deleteRow: 1,
  dashboardCreate: 4,
  dashboardEdit: 18,
  dashboardDelete: 2,
  dashboardForeign: 4,
  dashboardCopy: 1,
  deliver: 22,
  drain: 16,
  relay: 14,
  work: 26,
  tick: 16,
  stripeFault: 8,
  databaseFault: 4,
  crash: 4,
  flushQueue: 2,
  catchUp: 4,
  sweep: 3,
  stuckWork: 2,
  syncRequest: 3,
  resolveConflict: 4,
  replayEvent: 2,
  rotateSecret: 2,
  overtake: 4,
  calmEdit: 8,
  namesakes: 3,
  newcomers: 3,
} as const

export type ActionKind = keyof typeof ACTIONS

/** One action of a plan. What exactly it does it chooses by its own index, from the world as it finds it. */
export interface Action {
  index: number
  kind: ActionKind
}

/** The kind of world that a seed makes: which features it has, how rough it is. */
export interface Config {
  length: number
  /** The fields that people edit: the fewer, the more often two meet in one. */
  fields: EditedField[]
  mostUsers: number
  /** Whether there is a user in step with its customer from the start. */
  isWarm: boolean
  tenants: 1 | 2
  settings: Omit<TenantSettings, 'defaultRegion'>
  /** Whether a sweep has seen all of Stripe before the first edit. */
  isSwept: boolean
  /** Stripe's clock is ahead of ours by so many milliseconds. */
  skewMs: number
  simulator: {
    noopEvents: boolean
    deletedEventStub: boolean
    omitPreviousAttributes: boolean
    eventVisibilityLagMs: number
  }
  delivery: { drop: number; duplicate: number; twin: number; reorder: boolean; delayMs: number }
  /** How often a request to Stripe takes its time instead of being answered at once. */
  slowStripe: number
  /** How often a point is passed with a failure of the database, or the death of the process. */
  databaseFailure: number
  crash: number
  /** How often the scheduler goes on with the task that it let on last. */
  stickiness: number
  /** How many steps the tasks make after each action, at the most. */
  stepsPerAction: number
  /** What is left to find what was missed, once all is quiet: only the sweep finds what Stripe's events don't tell. */
  healBy: 'catch-up' | 'sweep'
  enabled: ActionKind[]
}

/** All that a run is made of: the same plan gives the same run. */
export interface Plan {
  seed: number
  config: Config
  actions: Action[]
}

const POLICIES: readonly Policy[] = ['latest', 'local', 'stripe', 'manual']
const FIELDS = ['email', 'phone', 'name', 'description', 'locale', 'address', 'shipping', 'metadata'] as const

/** A field, or all metadata keys together. */
export type EditedField = (typeof FIELDS)[number]

/**
 * Makes the plan of a seed. Each run has only some of the features (swarm testing, Groce et al., ISSTA 2012): a fault that
 * hides another one is absent from many runs.
 */
export function planFor(seed: number): Plan {
  const choices = choicesFor(seed, 'plan')
  const config = configFor(choices)
  const weighted = config.enabled.map((kind) => [ACTIONS[kind], kind] as const)
  const actions = Array.from(
    { length: config.length },
    (_, index): Action => ({ index, kind: choices.weighted(weighted) }),
  )
  // What is lost by being overtaken comes back with the next event of the customer: it shows where there is none.
  const last = actions.at(-1)
  if (last !== undefined && config.enabled.includes('overtake') && choices.chance(0.3)) last.kind = 'overtake'
  return { seed, config, actions }
}

const ALWAYS: readonly ActionKind[] = [
  'insertSql',
  'editSql',
  'dashboardEdit',
  'deliver',
  'drain',
  'relay',
  'work',
  'tick',
]

function configFor(choices: Choices): Config {
  const { chance, pick, int } = choices
  const sometimes = (probability: number, value: number) => (chance(probability) ? value : 0)
  const policies: Record<string, Policy> = { default: pick(POLICIES) }
  for (const field of FIELDS) if (chance(0.5)) policies[field] = pick(POLICIES)
  return {
    length: 20 + int(50),
    fields: chance(0.25) ? [...FIELDS] : [pick(FIELDS), pick(FIELDS), pick(FIELDS)],
    mostUsers: pick([1, 2, 2, 4]),
    isWarm: chance(0.75),
    tenants: chance(0.25) ? 2 : 1,
    settings: {
      policies,
      onRemoteCreate: pick(['import', 'import', 'import', 'link-only', 'ignore']),
      onRemoteDelete: pick(['detach', 'archive', 'recreate']),
      foreignMetadataPrefixes: ['other_'],
      retention: {},
    },
    isSwept: chance(0.7),
    skewMs: pick([0, 0, 400, -400, 1_700, -1_700, 5_000, -5_000]),
    simulator: {
      noopEvents: chance(0.2),
      deletedEventStub: chance(0.3),
      omitPreviousAttributes: chance(0.15),
      eventVisibilityLagMs: sometimes(0.3, 20_000),
    },
    delivery: {
      drop: sometimes(0.3, 0.4),
      duplicate: sometimes(0.4, 0.3),
      twin: sometimes(0.2, 0.3),
      reorder: chance(0.5),
      delayMs: sometimes(0.2, 3_000),
    },
    slowStripe: pick([0, 0.1, 0.3, 0.6]),
    databaseFailure: sometimes(0.3, 0.004),
    crash: sometimes(0.35, 0.006),
    stickiness: pick([0, 0.5, 0.9]),
    stepsPerAction: pick([4, 12, 30]),
    healBy: chance(0.6) ? 'catch-up' : 'sweep',
    enabled: (Object.keys(ACTIONS) as ActionKind[]).filter((kind) => ALWAYS.includes(kind) || chance(0.7)),
  }
}
