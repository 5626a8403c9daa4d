import { type Figures, type Row, spreadOf } from './rows.js'
import { benchSearch, GOAL_MS, type SearchFigures } from './search.js'
import type { Stage } from './stage.js'

const USERS = 1_000_000
const REQUESTS = 100

/** Lists and searches of a million users over HTTP, beside bare pg that is asked the same statements. */
export async function searchRow(stage: Stage, { customers = USERS }: { customers?: number }): Promise<Row> {
  const { url } = await stage.database('search')
  const say = (line: string) => process.stderr.write(`# ${line}\n`)
  const { searches } = await benchSearch({
    users: customers,
    databaseUrl: url,
    requests: REQUESTS,
    withBare: true,
    say,
  })
  const [, ...kinds] = searches
  const ratios = kinds.flatMap(({ p50, bare }) => (bare === undefined ? [] : [p50 / bare.p50]))
  return {
    name: `lists and searches of ${customers.toLocaleString('en')} users`,
    unit: 'milliseconds of a request; of its statements by bare pg',
    results: Object.fromEntries(
      kinds.map((kind) => [`${kind.query}${kind.page > 1 ? `, page ${kind.page}` : ''}`, figuresOf(kind)]),
    ),
    goals: [
      {
        what: `share of the kinds with p99 within ${GOAL_MS} ms`,
        value: kinds.filter(({ isMet }) => isMet).length / kinds.length,
        atLeast: 1,
      },
      { what: 'p50 / bare, median of the kinds', value: spreadOf(ratios).median, atMost: 3 },
    ],
  }
}

function figuresOf({ p50, p99, bare }: SearchFigures): Figures {
  const figures = { p50, p99, ...(bare === undefined ? {} : { bareP50: bare.p50, bareP99: bare.p99 }) }
  return Object.fromEntries(Object.entries(figures).map(([name, value]) => [name, spreadOf([value])]))
}
