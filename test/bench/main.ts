/**
 * The benchmark: `npm run bench`. Each row beside its peer or ceiling, in turn, in one run on one machine, so that ratios
 * mean something where absolute figures do not.
 */
import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { Command } from 'commander'
import { apiRows } from './api.js'
import { coldStartRow } from './cold-start.js'
import { eventToRowRows } from './event-to-row.js'
import { isMet, type Row } from './rows.js'
import { openStage, type Stage } from './stage.js'
import { webhookRow } from './webhook.js'

interface Options {
  runs: number
  seconds: number
  json?: string
}

const ROWS: Record<string, (stage: Stage, options: Options) => Promise<Row | Row[]>> = {
  webhook: webhookRow,
  events: eventToRowRows,
  api: apiRows,
  start: coldStartRow,
}

const program = new Command('bench')
  .description('Measures Lockstep beside its peers and ceilings.')
  .argument('[rows...]', `which: ${Object.keys(ROWS).join(', ')}; all without`)
  .option('--runs <n>', 'runs of each subject, after one to warm up', Number, 3)
  .option('--seconds <n>', 'length of a run that goes by time', Number, 5)
  .option('--json <file>', 'writes the figures there')
  .parse()
const options = program.opts<Options>()
const chosen = program.args.length > 0 ? program.args : Object.keys(ROWS)
const say = (line: string) => process.stdout.write(`${line}\n`)

const rows: Row[] = []
const stage = await openStage()
try {
  for (const name of chosen) {
    const measure = ROWS[name]
    if (measure === undefined) throw new Error(`No row '${name}'; there are ${Object.keys(ROWS).join(', ')}.`)
    for (const row of [await measure(stage, options)].flat()) {
      rows.push(row)
      show(row)
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

function show({ name, unit, results, goals }: Row): void {
  say(`\n## ${name} (${unit})\n`)
  const figures = [...new Set(Object.values(results).flatMap(Object.keys))]
  say(`| | ${figures.join(' | ')} |`)
  say(`| --- | ${figures.map(() => '---').join(' | ')} |`)
  for (const [subject, taken] of Object.entries(results)) {
    const cells = figures.map((figure) => {
      const spread = taken[figure]
      return spread === undefined ? '' : `${short(spread.median)} (${short(spread.min)}–${short(spread.max)})`
    })
    say(`| ${subject} | ${cells.join(' | ')} |`)
  }
  say('')
  for (const goal of goals) {
    const wanted = goal.atLeast === undefined ? `at most ${goal.atMost}` : `at least ${goal.atLeast}`
    say(`${isMet(goal) ? 'met' : 'MISSED'}: ${goal.what} = ${short(goal.value)}, wanted ${wanted}`)
  }
}

function short(value: number): string {
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))
}
