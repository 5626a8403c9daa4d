import type { Config, Plan } from './config.js'
import type { RunResult } from './run.js'

/** Tries of a shrink, at the most: each is a run. */
const MOST_TRIES = 300

/** Simpler worlds, each by the name of what it is without. */
export const SIMPLER: Readonly<Record<string, Partial<Config>>> = {
  crashes: { crash: 0 },
  'database-failures': { databaseFailure: 0 },
  'slow-calls': { slowStripe: 0 },
  skew: { skewMs: 0 },
  'second-tenant': { tenants: 1 },
  'delivery-faults': { delivery: { drop: 0, duplicate: 0, twin: 0, reorder: false, delayMs: 0 } },
  switches: {
    simulator: { noopEvents: false, deletedEventStub: false, omitPreviousAttributes: false, eventVisibilityLagMs: 0 },
  },
  'unseen-customers': { isSwept: true },
  'healing-sweep': { healBy: 'catch-up' },
}

/** The plan in a world without these. */
export function without(plan: Plan, names: readonly string[]): Plan {
  return { ...plan, config: Object.assign({}, plan.config, ...names.map((name) => SIMPLER[name] ?? {})) }
}

/**
 * A shorter plan that breaks the same rule: ddmin over the actions (Zeller and Hildebrandt, IEEE TSE 28, 2002), then the world
 * without this feature and that. Each action chooses by its own index, so leaving one out does not change the others.
 */
export async function shrink(
  plan: Plan,
  rule: string,
  run: (plan: Plan) => Promise<RunResult>,
  onProgress: (actions: number) => void,
): Promise<{ plan: Plan; without: string[] }> {
  let tries = 0
  const stillBreaks = async (candidate: Plan): Promise<boolean> => {
    tries += 1
    if (tries > MOST_TRIES) return false
    const { violations } = await run(candidate)
    return violations.some((violation) => violation.rule === rule)
  }
  let best = plan
  const gone = new Set<string>()
  const simplify = async () => {
    for (const name of Object.keys(SIMPLER).filter((one) => !gone.has(one))) {
      const candidate = without(best, [name])
      if (!(await stillBreaks(candidate))) continue
      best = candidate
      gone.add(name)
    }
  }
  await simplify()
  for (let parts = 2; best.actions.length >= 2 && tries <= MOST_TRIES; ) {
    const size = Math.ceil(best.actions.length / parts)
    let isShorter = false
    for (let start = 0; start < best.actions.length; start += size) {
      const actions = best.actions.filter((_, at) => at < start || at >= start + size)
      if (await stillBreaks({ ...best, actions })) {
        best = { ...best, actions }
        onProgress(actions.length)
        isShorter = true
        break
      }
    }
    if (isShorter) parts = Math.max(2, parts - 1)
    else if (size === 1) break
    else parts = Math.min(best.actions.length, parts * 2)
  }
  await simplify()
  return { plan: best, without: [...gone] }
}
