/** The middle of several runs, and how far they lie apart. */
export interface Spread {
  min: number
  median: number
  max: number
}

/** The figures of one subject. Each figure is taken over the runs. */
export type Figures = Record<string, Spread>

/** What has to hold, as a ratio within one run on one machine. */
export interface Goal {
  what: string
  value: number
  atLeast?: number
  atMost?: number
}

/** A row of the benchmark: the same work done by Lockstep and by what it is held against. */
export interface Row {
  name: string
  unit: string
  results: Record<string, Figures>
  goals: Goal[]
}

export function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 === 1 ? sorted[middle] : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2
  return { min: sorted[0] ?? Number.NaN, median: median ?? Number.NaN, max: sorted.at(-1) ?? Number.NaN }
}

/**
 * Runs the subjects in turn, once to warm up and then so often, each time beginning with another one: what else the machine
 * does hits all of them alike. Subjects that begin anew each time need no warm-up.
 */
export async function alternate<Name extends string>(
  runs: number,
  // biome-ignore lint/suspicious/noExplicitAny: any record of numbers
  subjects: Record<Name, () => Promise<any>>,
  { warmUp = true }: { warmUp?: boolean } = {},
): Promise<Record<Name, { [figure: string]: Spread } & { perSecond: Spread; p99: Spread }>> {
  const names = Object.keys(subjects) as Name[]
  const samples = new Map<Name, Record<string, number>[]>(names.map((name) => [name, []]))
  if (warmUp) for (const name of names) await subjects[name]()
  for (let run = 0; run < runs; run += 1) {
    for (let turn = 0; turn < names.length; turn += 1) {
      const name = names[(run + turn) % names.length] as Name
      samples.get(name)?.push(await subjects[name]())
    }
  }
  return Object.fromEntries(
    names.map((name) => {
      const taken = samples.get(name) ?? []
      const figures = Object.keys(taken[0] ?? {})
      return [
        name,
        Object.fromEntries(figures.map((figure) => [figure, spreadOf(taken.map((one) => one[figure] ?? 0))])),
      ]
    }),
  ) as Record<Name, { [figure: string]: Spread } & { perSecond: Spread; p99: Spread }>
}

export function isMet({ value, atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY }: Goal): boolean {
  return value >= atLeast && value <= atMost
}
