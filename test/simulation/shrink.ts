import type { Config, Plan } from './config.js'
import type { RunResult } from './run.js'

/** Tries of a shrink, at the most: each is a run. */
const MOST_TRIES = 300

/** Simpler worlds, each tried in turn. */
const SIMPLER: readonly ((config: Config) => Partial<Config>)[] = [
  () => ({ crash: 0 }),
  () => ({ databaseFailure: 0 }),
  () => ({ slowStripe: 0 }),
  () => ({ skewMs: 0 }),
  () => ({ tenants: 1 }),
  () => ({ delivery: { drop: 0, duplicate: 0, twin: 0, reorder: false, delayMs: 0 } }),
  () => ({
    simulator: { noopEvents: false, deletedEventStub: false, omitPreviousAttributes: false, eventVisibilityLagMs: 0 },
  }),
  () => ({ isSwept: true }),
  () => ({ healBy: 'catch-up' }),
]

/**
 * A shorter plan that breaks the same rule: ddmin over the actions (Zeller and Hildebrandt, IEEE TSE 28, 2002), then the world
 * without this feature and that. Each action chooses by its own index, so leaving one out does not change the others.
 */
export async function shrink(
  plan: Plan,
  rule: string,
  run: (plan: Plan) => Promise<RunResult>,
  onProgress: (actions: number) => void,
): Promise<Plan> {
  let tries = 0
  const stillBreaks = async (candidate: Plan): Promise<boolean> => {
    tries += 1
    if (tries > MOST_TRIES) return false
    const { violations } = await run(candidate)
    return violations.some((violation) => violation.rule === rule)
  }
  let best = plan
  const simplify = async () => {
    for (const simpler of SIMPLER) {
      const candidate = { ...best, config: { ...best.config, ...simpler(best.config) } }
      if (await stillBreaks(candidate)) best = candidate
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
  return best
}
