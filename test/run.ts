/**
 * Runs the tests: starts what they need, spawns tap, passes its exit code on, and leaves nothing behind.
 *
 *   npm test                              all, with coverage
 *   npm test -- test/config.test.ts …     some, without
 *   TEST_DATABASE_URL=… TEST_REDIS_URL=…  servers of your own instead of throw-away ones
 *   TEST_KEEP=1                           leaves the throw-away Postgres running, to look into a failed test's database
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { freePort } from './helpers/free-port.js'
import { makeDatabase, startTestPostgres } from './helpers/postgres-server.js'
import { answers } from './helpers/redis.js'

const isKept = Boolean(process.env.TEST_KEEP)
const say = (line: string) => process.stdout.write(`# ${line}\n`)

/** What to undo at the end, last opened first. */
const closers: (() => Promise<unknown>)[] = []

async function startPostgres(): Promise<string> {
  const server = await startTestPostgres({ keep: isKept })
  if (isKept) closers.push(async () => say(`TEST_KEEP: Postgres stays at ${server.url}`))
  else closers.push(() => server.close())
  return server.url
}

/** A migrated database that every test copies. */
async function makeTemplate(serverUrl: string): Promise<string> {
  const database = await makeDatabase(serverUrl, 'lockstep_template')
  if (!isKept) closers.push(() => database.drop())
  return database.name
}

/** A Redis: the given one; else a throw-away one, since a test flushes it; else database 15 of one on the usual port. */
async function findRedis(): Promise<string | undefined> {
  if (process.env.TEST_REDIS_URL) return process.env.TEST_REDIS_URL
  if (spawnSync('redis-server', ['--version']).status === 0) {
    const port = await freePort()
    const options = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
    const server = spawn('redis-server', options, { stdio: 'ignore', detached: true, cwd: tmpdir() })
    closers.push(async () => {
      if (server.exitCode !== null) return
      server.kill('SIGKILL')
      await once(server, 'exit')
    })
    const url = `redis://127.0.0.1:${port}`
    for (let attempt = 0; attempt < 100; attempt += 1) {
      if (await answers(url)) return url
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  const usual = 'redis://127.0.0.1:6379/15'
  return (await answers(usual)) ? usual : undefined
}

async function runTap(args: string[], env: NodeJS.ProcessEnv): Promise<number> {
  const isPartial = args.some((arg) => !arg.startsWith('-'))
  const options = isPartial ? ['--disable-coverage'] : []
  const child = spawn('tap', [...options, ...args], { stdio: 'inherit', env, shell: process.platform === 'win32' })
  // A Ctrl-C reaches tap from the terminal; this process must outlive it to clean up.
  process.on('SIGINT', () => {})
  for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal))
  const [code] = (await once(child, 'exit')) as [number | null]
  return code ?? 1
}

async function main(): Promise<number> {
  const serverUrl = await startPostgres()
  const [template, redisUrl] = await Promise.all([makeTemplate(serverUrl), findRedis()])
  if (!redisUrl) {
    say('no Redis: install redis-server or set TEST_REDIS_URL; tests of the Redis queue are skipped')
  }
  return runTap(process.argv.slice(2), {
    ...process.env,
    TEST_DATABASE_URL: serverUrl,
    TEST_TEMPLATE: template,
    ...(redisUrl ? { TEST_REDIS_URL: redisUrl } : {}),
  })
}

let code = 1
try {
  code = await main()
} finally {
  for (const close of closers.reverse()) {
    await close().catch((error: unknown) => say(`while cleaning up: ${String(error)}`))
  }
}
process.exitCode = code
