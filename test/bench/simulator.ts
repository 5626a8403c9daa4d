import { type Subject, startSimulatorProcess } from './processes.js'

/** How many calls an operation got, by status. */
export type Calls = Record<string, { total: number; byStatus: Record<string, number> }>

/** What can be changed while it runs; null lifts a limit. */
export interface SimulatorSettings {
  latencyMs?: number
  /** Calls per second in all. */
  rateLimit?: number | null
  /** Calls per second of each operation. */
  operationRateLimit?: number | null
}

/** The simulator in its own process, with its switches. */
export interface Simulator extends Subject {
  url: string
  set(settings: SimulatorSettings): Promise<void>
  /** Counts calls from here on. */
  resetCalls(): Promise<void>
  /** Calls since then, as Stripe would count them: refused ones too. */
  calls(): Promise<Calls>
  /** How many customers it has. */
  size(): Promise<number>
  /** All of its customers, oldest first, so that none of a million need be held. */
  customers(): AsyncGenerator<Record<string, unknown>[]>
}

/** Customers that are taken from the simulator at once. */
const DUMP = 5_000

/** Starts it; `args` are those of `lockstep simulator`. */
export async function startSimulator(args: readonly string[], cwd: string): Promise<Simulator> {
  const subject = await startSimulatorProcess(args, cwd)
  const url = `http://127.0.0.1:${subject.port}`

  async function ask<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await fetch(`${url}/_simulator${path}`, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    if (!response.ok) throw new Error(`${method} /_simulator${path}: ${response.status} ${await response.text()}`)
    return (await response.json()) as T
  }

  return {
    ...subject,
    url,
    set: (settings) => ask('PUT', '/settings', settings),
    resetCalls: () => ask('DELETE', '/calls'),
    calls: async () => (await ask<{ calls: Calls }>('GET', '/state')).calls,
    size: async () => (await ask<{ total: number }>('GET', '/customers?limit=1')).total,
    async *customers() {
      for (let after: string | null = null; ; ) {
        const page: { data: Record<string, unknown>[]; has_more: boolean } = await ask(
          'GET',
          `/customers?limit=${DUMP}${after === null ? '' : `&after=${after}`}`,
        )
        if (page.data.length > 0) yield page.data
        if (!page.has_more) return
        after = String(page.data.at(-1)?.id)
      }
    },
  }
}

/** Calls of the operations that match, those refused for their rate apart. */
export function countCalls(calls: Calls, operations: RegExp): { made: number; refused: number } {
  let made = 0
  let refused = 0
  for (const [operation, { total, byStatus }] of Object.entries(calls)) {
    if (!operations.test(operation)) continue
    made += total
    refused += byStatus['429'] ?? 0
  }
  return { made, refused }
}
