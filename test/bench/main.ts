/**
 * The benchmark: `npm run bench`. Each row beside its peer or ceiling, in turn, in one run on one machine, so that ratios
 * mean something where absolute figures do not.
 */
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { Command } from 'commander'
import { apiRows } from './api.js'
import { cacheRow } from './cache.js'
import { chartOf } from './chart.js'
import { coldStartRow } from './cold-start.js'
import { eventToRowRows } from './event-to-row.js'
import { importRows } from './import.js'
import { isolationRows } from './isolation.js'
import { memoryRow } from './memory.js'
import { queueRow } from './queue.js'
import type { Row } from './rows.js'
import { searchRow } from './search-row.js'
import { openStage, type Stage } from './stage.js'
import { sweepRows } from './sweep.js'
import { sweepMillionRow } from './sweep-million.js'
import { tableOf } from './table.js'
import { webhookRow } from './webhook.js'

interface Options {
  /** Absent: as often as the row finds right. */
  runs?: number
  seconds: number
  customers?: number
  json?: string
  chart?: string
}

interface Choice {
  about: string
  measure(stage: Stage, options: Options): Promise<Row | Row[]>
  /** Takes so long that it runs only when it is named. */
  isLong?: true
}

/** Runs of a row that takes seconds. */
const RUNS = 3
const often = (options: Options) => ({ ...options, runs: options.runs ?? RUNS })

const CHOICES: Record<string, Choice> = {
  webhook: {
    about: 'deliveries accepted per second, each after a durable commit',
    measure: (stage, options) => webhookRow(stage, often(options)),
  },
  events: {
    about: 'events from the webhook into `users`: rate, and latency at 1,000/s',
    measure: (stage, options) => eventToRowRows(stage, often(options)),
  },
  api: {
    about: 'reading and making one customer over HTTP',
    measure: (stage, options) => apiRows(stage, often(options)),
  },
  isolation: {
    about: 'what row-level security costs',
    measure: (stage, options) => isolationRows(stage, often(options)),
  },
  start: {
    about: 'cold start with all embedded',
    measure: (stage, options) => coldStartRow(stage, often(options)),
  },
  sweep: {
    about: "all customers compared at Stripe's default limit, with 100 and 300 ms per call, and at a raised limit",
    measure: sweepRows,
  },
  import: {
    about: 'the first sync: Stripe customers into an empty database, users into an empty Stripe',
    measure: importRows,
  },
  queue: {
    about: 'the cost of a job on Postgres and on Redis',
    measure: (stage, options) => queueRow(stage, often(options)),
  },
  cache: {
    about: 'one customer read from Postgres, and what Redis would take: why there is no cache',
    measure: (stage, options) => cacheRow(stage, often(options)),
  },
  memory: {
    about: 'resident memory idle and under load',
    measure: (stage, options) => memoryRow(stage, { ...options, runs: options.runs ?? 1 }),
  },
  'sweep-million': {
    about: 'memory of the worker while it compares 1,000,000 customers',
    measure: sweepMillionRow,
    isLong: true,
  },
  search: {
    about: 'lists and searches of 1,000,000 users (more of it: npm run bench:search)',
    measure: searchRow,
    isLong: true,
  },
}
const names = Object.keys(CHOICES)

const program = new Command('bench')
  .description('Measures Lockstep beside its peers and ceilings.')
  .argument('[rows...]', 'which; without, all but the long ones')
  .option('--runs <n>', `runs of each subject, after one to warm up (${RUNS}; long runs once, without)`, Number)
  .option('--seconds <n>', 'length of a run that goes by time', Number, 5)
  .option('--customers <n>', 'customers of the rows that go by customers, instead of what suits each', Number)
  .option('--json <file>', 'writes the figures there')
  .option('--chart <file>', 'draws the goals there, as SVG')
  .addHelpText('after', () => {
    const lines = names.map((name) => {
      const { about, isLong } = CHOICES[name] as Choice
      return `  ${name.padEnd(15)}${about}${isLong ? ' (long: only when named)' : ''}`
    })
    return `\nRows:\n${lines.join('\n')}`
  })
  .parse()
const options = program.opts<Options>()
const chosen = program.args.length > 0 ? program.args : names.filter((name) => CHOICES[name]?.isLong !== true)
const unknown = chosen.find((name) => CHOICES[name] === undefined)
if (unknown !== undefined) program.error(`No row '${unknown}'; there are ${names.join(', ')}.`)

const rows: Row[] = []
const stage = await openStage()
// A signal may come more than once: from the terminal, and handed on by whatever started this.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => void stage.close().finally(() => process.exit(1)))
}
try {
  for (const name of chosen) {
    process.stderr.write(`# ${name}\n`)
    for (const row of [(await CHOICES[name]?.measure(stage, options)) ?? []].flat()) {
      rows.push(row)
      process.stdout.write(tableOf(row))
    }
  }
} finally {
  await stage.close()
}
if (options.json !== undefined) {
  const machine = {
    node: process.version,
    cpus: cpus().length,
    model: cpus()[0]?.model ?? '',
    at: new Date().toISOString(),
  }
  writeFileSync(options.json, `${JSON.stringify({ machine, rows }, null, 2)}\n`)
}
if (options.chart !== undefined) writeFileSync(options.chart, chartOf(rows))
