/**
 * The simulation from the command line: `npm run simulate -- --seeds 5000 [--seed S]`. Runs seeds S, S+1, … on all cores and
 * prints what was exercised; the first seed that breaks a rule is shrunk, its trace printed, and the exit code is 1.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { Command, InvalidArgumentError } from 'commander'
import { makeDatabase, startTestPostgres } from '../helpers/postgres-server.js'
import { type Plan, planFor } from './config.js'
import { type Counts, describe, exercised, holesIn, sumOf } from './exercised.js'
import type { Violation } from './invariants.js'
import { Lab } from './lab.js'
import { runPlan } from './run.js'
import { SIMPLER, shrink, without } from './shrink.js'

interface Options {
  seeds: number
  seed: number
  jobs: number
  keep?: number[]
  without: string[]
  shrink: boolean
  explain: boolean
  goOn: boolean
  report?: string
  trace: boolean
}

/** What a child is told, and what it answers. */
type ToChild = { seed: number } | 'end'
type FromChild = 'ready' | { seed: number; violations: Violation[]; steps: number } | { counts: Counts }

/** Worlds side by side in one process: each waits for Postgres much of the time. */
const LABS = 3

const say = (line = '') => process.stdout.write(`${line}\n`)

function whole(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('a whole number is needed')
  return value
}

function named(text: string): string[] {
  const names = text.split(',')
  const unknown = names.find((name) => SIMPLER[name] === undefined)
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no '${unknown}'.`)
  return names
}

const options = new Command('simulate')
  .description('Lives through random worlds of edits, faults and crashes, and holds each end state against the rules.')
  .option('--seeds <n>', 'how many worlds', whole, 200)
  .option('--seed <s>', 'the first one', whole, 1)
  .option('--jobs <n>', 'how many processes', whole, availableParallelism())
  .option('--keep <list>', 'only these actions of the one seed (as a shrunk run prints them)', (text) =>
    text.split(',').map(whole),
  )
  .option('--without <list>', `the one seed in a world without these: ${Object.keys(SIMPLER).join(', ')}`, named, [])
  .option('--no-shrink', 'leave a failing run as long as it is')
  .option('--no-explain', 'only count failing runs')
  .option('--go-on', 'live through all worlds, also after one that failed', false)
  .option('--report <file>', 'write the outcome to a file, as JSON')
  .option('--trace', 'print the trace of the one seed also when it passes', false)
  .parse()
  .opts<Options>()

if (process.send !== undefined) await beChild(process.env.SIMULATION_SERVER ?? '')
else process.exit(await main(options))

async function main({ seeds, seed, jobs, keep, without: left, trace, report }: Options): Promise<number> {
  const server = await startTestPostgres()
  try {
    if (keep !== undefined || left.length > 0 || trace) return await replay(server.url, seed, keep, left)
    const started = Date.now()
    const { failures, counts, steps, done } = await runAll(server.url, seed, seeds, Math.min(jobs, seeds))
    const seconds = (Date.now() - started) / 1000
    say()
    for (const line of describe(counts)) say(line)
    const holes = holesIn(counts)
    if (holes.length > 0) say(`\nNever reached, a hole in the simulation at ${seeds} seeds: ${holes.join('; ')}`)
    say(
      `\n${seeds} seeds from ${seed}, ${steps.toLocaleString('en')} steps in ${seconds.toFixed(0)} s: ${failures.length} broke a rule.`,
    )
    if (report !== undefined) writeFileSync(report, JSON.stringify({ done, seconds, failures }))
    const [first] = failures
    if (first === undefined) return 0
    say(`Seeds that broke a rule: ${failures.map((failure) => failure.seed).join(', ')}`)
    if (options.explain) await explain(server.url, planFor(first.seed), first.violations)
    return 1
  } finally {
    await server.close()
  }
}

async function withLab<T>(serverUrl: string, use: (lab: Lab) => Promise<T>): Promise<T> {
  const database = await makeDatabase(serverUrl, 'lockstep_simulation')
  const lab = await Lab.open(database.url)
  try {
    return await use(lab)
  } finally {
    await lab.close()
    await database.drop()
  }
}

/** Runs seeds until all are done; after a failure no new one is begun, unless it is to go on. */
async function runAll(serverUrl: string, first: number, count: number, jobs: number) {
  const failures: { seed: number; violations: Violation[] }[] = []
  const totals: Counts[] = []
  let next = first
  let done = 0
  let steps = 0
  const tell = (child: ChildProcess) => {
    const message: ToChild = next < first + count && (options.goOn || failures.length === 0) ? { seed: next++ } : 'end'
    child.send(message)
  }
  const isTerminal = process.stdout.isTTY
  const children = Array.from({ length: jobs }, () => {
    const child = fork(fileURLToPath(import.meta.url), [], {
      env: { ...process.env, SIMULATION_SERVER: serverUrl },
      execArgv: process.execArgv,
    })
    return new Promise<void>((resolve, reject) => {
      child.on('message', (message: FromChild) => {
        if (message === 'ready') return tell(child)
        if ('counts' in message) {
          totals.push(message.counts)
          return
        }
        done += 1
        steps += message.steps
        if (message.violations.length > 0) failures.push(message)
        if (isTerminal) process.stdout.write(`\r${done} of ${count} seeds, ${failures.length} failed `)
        else if (done % 100 === 0) say(`${done} of ${count} seeds, ${failures.length} failed`)
      })
      child.on('error', reject)
      child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`a child ended with ${code}`))))
    })
  })
  await Promise.all(children)
  return { failures, steps, done, counts: sumOf(totals) }
}

async function beChild(serverUrl: string): Promise<void> {
  const send = (message: FromChild) =>
    new Promise((resolve) => {
      process.send?.(message, resolve)
    })
  // Each lab asks for one seed at a time, and is told one, or that there is no other.
  const waiting: ((message: ToChild) => void)[] = []
  process.on('message', (message: ToChild) => waiting.shift()?.(message))
  process.on('disconnect', () => process.exit(1))
  const nextFor = async (): Promise<ToChild> => {
    const told = new Promise<ToChild>((resolve) => waiting.push(resolve))
    await send('ready')
    return told
  }
  async function runSeeds(lab: Lab): Promise<void> {
    for (let told = await nextFor(); told !== 'end'; told = await nextFor()) {
      const { seed } = told
      const { violations, steps } = await runPlan(planFor(seed), lab).catch(async (error: unknown) => {
        await lab.renew()
        const what = error instanceof Error ? (error.stack ?? error.message) : String(error)
        return { violations: [{ rule: 'harness', what }], steps: 0 }
      })
      await send({ seed, violations, steps })
    }
    await send({ counts: await exercised(lab) })
  }
  await Promise.all(Array.from({ length: LABS }, () => withLab(serverUrl, runSeeds)))
  process.exit(0)
}

/** Shows a failing run, shortened if wished, and how to see it again. */
async function explain(serverUrl: string, plan: Plan, violations: readonly Violation[]): Promise<void> {
  for (const { rule, what } of violations) say(`seed ${plan.seed} breaks (${rule}): ${what}`)
  const rule = violations[0]?.rule ?? ''
  await withLab(serverUrl, async (lab) => {
    const run = (candidate: Plan) => runPlan(candidate, lab)
    const short = options.shrink
      ? await shrink(plan, rule, run, (length) => say(`  shrinks to ${length} actions`))
      : { plan, without: [] }
    const { trace, violations: left } = await run(short.plan)
    say(`\nThe run, with ${short.plan.actions.length} of ${plan.actions.length} actions:`)
    for (const line of trace) say(line)
    for (const violation of left) say(`breaks (${violation.rule}): ${violation.what}`)
    const kept = short.plan.actions.map(({ index }) => index).join(',')
    const flags = [
      `--seed ${plan.seed}`,
      ...(options.shrink ? [`--keep ${kept}`] : []),
      ...(short.without.length > 0 ? [`--without ${short.without.join(',')}`] : []),
    ]
    say(`\nAgain: npm run simulate -- ${flags.join(' ')}`)
  })
}

async function replay(
  serverUrl: string,
  seed: number,
  keep: readonly number[] | undefined,
  left: readonly string[],
): Promise<number> {
  const plan = without(planFor(seed), left)
  const actions = plan.actions.filter(({ index }) => keep === undefined || keep.includes(index))
  return withLab(serverUrl, async (lab) => {
    const { trace, violations } = await runPlan({ ...plan, actions }, lab)
    say(JSON.stringify(plan.config))
    for (const line of trace) say(line)
    for (const { rule, what } of violations) say(`breaks (${rule}): ${what}`)
    if (violations.length === 0) say('No rule is broken.')
    return violations.length === 0 ? 0 : 1
  })
}
