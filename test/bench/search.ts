/**
 * How long searches and lists take on many users, over HTTP through the service in a process of its own.
 *
 *   npm run bench:search                         a million users in a throw-away Postgres
 *   npm run bench:search -- --users 100000 --requests 50 --only name
 *   npm run bench:search -- --bare               beside bare pg that is asked the same statements
 *   npm run bench:search -- --database-url …     in that database, which it fills up to as many users: not yours (or DATABASE_URL)
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import pg from 'pg'
import { pino } from 'pino'
import { startApp } from '../../src/app.js'
import { loadConfig } from '../../src/config.js'
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { makeLifecycle } from '../../src/lib/lifecycle.js'
import { makeDb } from '../../src/repositories/database.js'
import { migrate } from '../../src/repositories/migrate.js'
import { makeZoneKeeper } from '../../src/repositories/search-zones.js'
import { loadPeople } from '../helpers/people.js'
import { startLockstep } from './processes.js'
import { DEEP, filledIn, QUERIES } from './search-queries.js'
import { recordStatements } from './statements.js'

/** One kind of query, over pages that differ in what they ask for. Times in milliseconds. */
export interface SearchFigures {
  query: string
  page: number
  p50: number
  p99: number
  slowest: number
  /** Whether p99 is within the goal. */
  isMet: boolean
  /** What the same statements take by bare pg, if that was asked for. */
  bare?: { p50: number; p99: number }
}

/** Users per second, without and with what search and lists add to every write. */
export interface WriteFigures {
  withoutSearch: number
  withSearch: number
}

export interface SearchBenchOptions {
  users: number
  /** Absent: a throw-away embedded Postgres. */
  databaseUrl?: string | undefined
  /** Requests of each kind. */
  requests?: number
  /** Only queries with this in them. */
  only?: string | undefined
  /** Measures the statements of some requests by bare pg too. */
  withBare?: boolean
  say?: (line: string) => void
}

/** 99 of 100 requests take no longer, in milliseconds. */
export const GOAL_MS = 50

/** A request that asks the database for next to nothing: what HTTP, keys and the load of the machine cost by themselves. */
const BASELINE = '/health/ready'

/** Requests of each kind before those that count: what is asked for all day is not asked for the first time. */
const WARM_UP = 20

/** Rows on a page. */
const PAGE = 20
const DEEP_PAGE = 10_000
/** Requests of each kind whose statements are asked by bare pg. */
const BARE_REQUESTS = 100
/** Statements of lists and searches: what else the process asks meanwhile is not theirs. */
const OF_LISTS = /\b(user_list|user_search|search_words)\b/

/** Loads the users if need be, asks, and answers the figures. */
export async function benchSearch(
  options: SearchBenchOptions,
): Promise<{ searches: SearchFigures[]; writes: WriteFigures | null }> {
  const { users, requests = 200, only, withBare = false, say = () => {} } = options
  const lifecycle = makeLifecycle((name, error) => say(`could not close ${name}: ${String(error)}`))
  const log = pino({ level: 'warn' })
  try {
    const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-bench-'))
    lifecycle.onClose('data', () => rm(dataDir, { recursive: true, force: true }))
    let url = options.databaseUrl
    if (url === undefined) {
      const server = await startEmbeddedPostgres({ dataDir, log })
      lifecycle.onClose('Postgres', () => server.close())
      url = server.url
    }
    await migrate(url, { log })
    const pool = new pg.Pool({ connectionString: url })
    lifecycle.onClose('pool', () => pool.end())
    const writes = await fill(pool, users, say)
    // As a worker does, which there is none of here; it waits for older transactions first.
    const keeper = makeZoneKeeper(makeDb(pool))
    await keeper.keep()
    const started = performance.now()
    const { drawn } = await keeper.keep()
    if (drawn > 0) say(`drawing the zone maps: ${((performance.now() - started) / 1_000).toFixed(0)} s`)
    const adminKey = `lsk_${randomBytes(24).toString('hex')}`
    const env = {
      DATABASE_URL: url,
      LOCKSTEP_DATA_DIR: dataDir,
      LOCKSTEP_SIMULATOR_PORT: '0',
      LOCKSTEP_ADMIN_KEY: adminKey,
      LOCKSTEP_API_RATE: '10000000',
    }
    const headers = { authorization: `Bearer ${adminKey}` }
    const service = await startLockstep('api', env, dataDir)
    lifecycle.onClose('API', () => service.stop())
    const get = async (query: string, apiUrl = `http://127.0.0.1:${service.port}`) => {
      const started = performance.now()
      const path = query === BASELINE ? BASELINE : `/customers?${query}`
      const response = await fetch(`${apiUrl}${path}`, { headers })
      const body = (await response.json()) as {
        data: { id: string; email: string; phone: string }[]
        nextCursor: string | null
      }
      if (!response.ok) throw new Error(`${query}: ${response.status} ${JSON.stringify(body)}`)
      return { body, ms: performance.now() - started }
    }
    // What it asks Postgres is seen in its process only.
    const inHere = withBare
      ? await startApp({
          config: loadConfig({ ...env, PORT: '0' }),
          log,
          lifecycle,
          roles: { api: true, worker: false },
        })
      : null

    const someone = (await get('limit=100')).body.data
    const measure = async (query: string, page: number, cursor: string | null): Promise<SearchFigures> => {
      const times: number[] = []
      for (let n = -WARM_UP; n < requests; n += 1) {
        const at = cursor === null ? '' : `&cursor=${cursor}`
        const { ms } = await get(`${filledIn(query, Math.abs(n), someone)}${at}`)
        if (n >= 0) times.push(ms)
      }
      const { p50, p99, slowest } = quantiles(times)
      const figures: SearchFigures = { query: query || '(none)', page, p50, p99, slowest, isMet: p99 <= GOAL_MS }
      if (inHere !== null && cursor === null) {
        figures.bare = await measureBare((n) => get(filledIn(query, n, someone), inHere.apiUrl ?? undefined))
      }
      const verdict = figures.isMet ? '' : `  more than ${GOAL_MS}`
      const bare = figures.bare === undefined ? '' : `  bare pg ${ms(figures.bare.p50)} ${ms(figures.bare.p99)}`
      say(
        `${figures.query.padEnd(84)} ${String(page).padStart(6)} ${ms(p50)} ${ms(p99)} ${ms(slowest)}${bare}${verdict}`,
      )
      return figures
    }
    /** Requests are made again to see what they ask the database, which is then asked the same. */
    const measureBare = async (request: (n: number) => Promise<unknown>) => {
      const client = await pool.connect()
      const times: number[] = []
      for (let n = 0; n < Math.min(requests, BARE_REQUESTS); n += 1) {
        const statements = await recordStatements(() => request(n), OF_LISTS)
        const started = performance.now()
        for (const statement of statements) await client.query(statement)
        times.push(performance.now() - started)
      }
      client.release()
      const { p50, p99 } = quantiles(times)
      return { p50, p99 }
    }
    say(
      `${'query'.padEnd(84)} ${'page'.padStart(6)} ${['p50', 'p99', 'max'].map((name) => name.padStart(8)).join(' ')}`,
    )
    const isAsked = (query: string) => only === undefined || query.includes(only)
    const searches: SearchFigures[] = [await measure(BASELINE, 1, null)]
    for (const query of QUERIES.filter(isAsked)) searches.push(await measure(query, 1, null))
    // Half of all users have what is searched for here.
    const deepPage = Math.min(DEEP_PAGE, Math.floor(users / 2 / PAGE))
    for (const query of (Object.keys(DEEP) as (keyof typeof DEEP)[]).filter(isAsked)) {
      searches.push(await measure(query, deepPage, await cursorAt(pool, get, query, deepPage)))
    }
    const missed = searches.filter(({ isMet, query }) => !isMet && query !== BASELINE)
    say(
      missed.length === 0
        ? `The goal is met: p99 of all ${searches.length - 1} is within ${GOAL_MS} ms.`
        : `The goal, p99 within ${GOAL_MS} ms, is missed by ${missed.length} of ${searches.length - 1}: ` +
            missed.map(({ query, page }) => `${query} (page ${page})`).join(', '),
    )
    const idle = searches[0]?.p99 ?? 0
    if (idle > GOAL_MS / 4)
      say(`The machine was busy: of requests that ask for nothing, p99 was ${idle.toFixed(1)} ms.`)
    return { searches, writes }
  } finally {
    await lifecycle.close()
  }
}

/** Fills the database up; answers what writing cost if it had to be. */
async function fill(pool: pg.Pool, users: number, say: (line: string) => void): Promise<WriteFigures | null> {
  const { rows } = await pool.query<{ count: number }>('select count(*)::int as count from users')
  if ((rows[0]?.count ?? 0) >= users) return null
  if ((rows[0]?.count ?? 0) > 0) throw new Error('The database has users, but fewer: give it an empty one.')
  const sample = Math.min(20_000, users)
  const rateOf = async () => (sample / (await loadPeople(pool, sample, { isFollowed: true })).insertMs) * 1_000
  const empty = 'truncate users, sync_state, user_list, user_search, search_words'
  const triggers = (action: 'enable' | 'disable') =>
    ['insert', 'update', 'delete']
      .map((event) => `alter table users ${action} trigger users_960_list_${event}`)
      .join(';')
  const withSearch = await rateOf()
  await pool.query(`${empty}; ${triggers('disable')}`)
  const withoutSearch = await rateOf()
  await pool.query(`${empty}; ${triggers('enable')}`)
  say(`inserts by SQL: ${withoutSearch.toFixed(0)}/s without search and lists, ${withSearch.toFixed(0)}/s with them`)
  const { searchMs } = await loadPeople(pool, users, {
    onProgress: (done) => (done % 100_000 === 0 ? say(`${done} users`) : undefined),
  })
  say(`entering ${users} users into the search: ${(searchMs / 1_000).toFixed(0)} s`)
  await pool.query('vacuum analyze')
  return { withoutSearch, withSearch }
}

/**
 * The cursor of a page: the service's own, of page 1, but with the place of the row that really ends the page before. What it leads
 * to must be what the database has there.
 */
async function cursorAt(
  pool: pg.Pool,
  get: (query: string) => Promise<{ body: { data: { id: string }[]; nextCursor: string | null } }>,
  query: keyof typeof DEEP,
  page: number,
): Promise<string> {
  const [where, order] = DEEP[query]
  const [column = '', direction = 'asc'] = order.split(' ')
  const value = /_at/.test(column) ? `to_char(${column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')` : column
  const { rows } = await pool.query<{ id: string; value: string }>(
    `select l.user_id as id, ${value} as value from user_list l ${where.includes('s.') ? 'join user_search s using (user_id)' : ''}
     where ${where} order by ${column} ${direction}, l.user_id ${direction} offset $1 limit $2`,
    [(page - 1) * PAGE - 1, PAGE + 1],
  )
  const first: unknown[] = JSON.parse(Buffer.from((await get(query)).body.nextCursor ?? '', 'base64url').toString())
  const [last, ...next] = rows
  const cursor = Buffer.from(JSON.stringify([...first.slice(0, 3), last?.value, last?.id])).toString('base64url')
  const { data } = (await get(`${query}&cursor=${cursor}`)).body
  if (next.length < PAGE || data.map(({ id }) => id).join() !== next.map(({ id }) => id).join()) {
    throw new Error(`Page ${page} of '${query}' is not what the database has there.`)
  }
  return cursor
}

function quantiles(times: number[]): { p50: number; p99: number; slowest: number } {
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  return { p50: at(0.5), p99: at(0.99), slowest: sorted.at(-1) ?? 0 }
}

function ms(time: number): string {
  return time.toFixed(1).padStart(8)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const program = new Command('bench:search')
    .description('Measures how long lists and searches take on many users, over HTTP through the service.')
    .option('--users <n>', 'how many users there are', Number, 1_000_000)
    .option('--requests <n>', 'requests of each kind', Number, 200)
    .option('--only <text>', 'only queries with this in them')
    .option('--bare', 'ask bare pg the same statements too')
    .option(
      '--database-url <url>',
      'in this database, which is filled up to as many users: not yours; without it DATABASE_URL, else a throw-away Postgres',
    )
    .parse()
  const {
    databaseUrl = process.env.DATABASE_URL,
    bare = false,
    ...options
  } = program.opts<SearchBenchOptions & { bare?: boolean }>()
  await benchSearch({ ...options, withBare: bare, databaseUrl, say: (line) => process.stdout.write(`${line}\n`) })
}
