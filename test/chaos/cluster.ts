import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import pg from 'pg'
import { pino } from 'pino'
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { freePort } from '../helpers/free-port.js'
import { TEST_KEY } from '../helpers/vault.js'

export type Backend = 'postgres' | 'redis'

/** What can be killed. */
export const VICTIMS = ['api', 'worker-1', 'worker-2', 'simulator', 'postgres', 'redis'] as const
export type Victim = (typeof VICTIMS)[number]

const KEY = 'lsk_chaos_0123456789abcdef0123456789abcdef'
const SECRET = 'whsec_chaos'
const CLI = fileURLToPath(new URL('../../dist/cli.js', import.meta.url))

/** The service as it is run in earnest: each part a process of its own. */
export interface Cluster {
  backend: Backend
  victims: readonly Victim[]
  pool: pg.Pool
  /** Calls the API; throws when no answer came. */
  api(method: string, path: string, body?: unknown): Promise<{ status: number; body: Json }>
  /** Uses a switch of the simulator; throws when no answer came. */
  simulator(method: string, path: string, body?: unknown): Promise<Json>
  /** kill -9, and a new process after `downMs`. */
  kill(victim: Victim, downMs: number): Promise<void>
  /** Stops a process where it stands for a while, as a machine does that swaps or moves. */
  freeze(victim: Victim, milliseconds: number): Promise<void>
  /** An orderly restart of Postgres, which ends all connections. */
  restartPostgres(): Promise<void>
  flushRedis(): Promise<void>
  /** What the processes said last, for when something is wrong. */
  lastWords(): string
  close(): Promise<void>
}

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape are looked into
export type Json = any

/** Starts Postgres (durable, as in production), Redis if it has the queue, the simulator, the API and two workers. */
export async function startCluster(backend: Backend): Promise<Cluster> {
  if (!existsSync(CLI)) throw new Error('dist/ is missing: npm run build')
  const folder = await mkdtemp(join(tmpdir(), 'lockstep-chaos-'))
  const log = pino({ level: 'silent' })
  const [apiPort, simulatorPort, redisPort] = [await freePort(), await freePort(), await freePort()]
  const apiUrl = `http://127.0.0.1:${apiPort}`
  const simulatorUrl = `http://127.0.0.1:${simulatorPort}`
  let postgres = await startEmbeddedPostgres({ dataDir: folder, log })
  const pool = new pg.Pool({ connectionString: postgres.url, max: 8 })
  pool.on('error', () => {})

  const env: NodeJS.ProcessEnv = {
    PATH: process.env.PATH,
    HOME: process.env.HOME,
    PORT: String(apiPort),
    DATABASE_URL: postgres.url,
    STRIPE_SECRET_KEY: 'sk_test_chaos',
    STRIPE_WEBHOOK_SECRET: SECRET,
    STRIPE_API_BASE: simulatorUrl,
    LOCKSTEP_ADMIN_KEY: KEY,
    LOCKSTEP_STRIPE_RATE: '200',
    LOCKSTEP_ENCRYPTION_KEY: TEST_KEY.toString('base64'),
    LOG_LEVEL: 'warn',
    ...(backend === 'redis' ? { REDIS_URL: `redis://127.0.0.1:${redisPort}` } : {}),
  }
  const lockstep = (...args: string[]) => [process.execPath, [CLI, ...args]] as const
  const programs: Record<Exclude<Victim, 'postgres'>, readonly [string, readonly string[]]> = {
    simulator: lockstep(
      ...['simulator', '--port', String(simulatorPort), '--data-dir', join(folder, 'stripe')],
      ...['--webhook-url', `${apiUrl}/webhooks/stripe`, '--webhook-secret', SECRET],
    ),
    api: lockstep('api'),
    'worker-1': lockstep('worker'),
    'worker-2': lockstep('worker'),
    redis: ['redis-server', ['--port', String(redisPort), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']],
  }
  const running = new Map<Victim, ChildProcess>()
  const words: string[] = []
  let isClosing = false

  function start(victim: Exclude<Victim, 'postgres'>): void {
    const [program, args] = programs[victim]
    const child = spawn(program, args, { env, cwd: folder })
    running.set(victim, child)
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        words.push(
          ...chunk
            .toString()
            .trim()
            .split('\n')
            .map((line) => `${victim}: ${line}`),
        )
        if (words.length > 400) words.splice(0, 200)
      })
    }
    // A start while Postgres or Redis is away fails: whatever runs the service tries again, and so does this.
    child.on('exit', (code) => {
      if (isClosing || running.get(victim) !== child || code === null) return
      setTimeout(() => {
        if (!isClosing && running.get(victim) === child) start(victim)
      }, 500)
    })
  }

  async function answer(method: string, url: string, body?: unknown): Promise<{ status: number; body: Json }> {
    const response = await fetch(url, {
      method,
      headers: {
        authorization: `Bearer ${KEY}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(15_000),
    })
    const text = await response.text()
    return { status: response.status, body: text.startsWith('{') ? JSON.parse(text) : text }
  }

  async function postmaster(): Promise<number> {
    return Number((await readFile(join(folder, 'postgres', 'data', 'postmaster.pid'), 'utf8')).split('\n')[0])
  }

  async function endPostgres(signal: 'SIGKILL' | 'SIGINT', downMs: number): Promise<void> {
    const pid = await postmaster()
    process.kill(pid, signal)
    for (;;) {
      try {
        process.kill(pid, 0)
        await sleep(20)
      } catch {
        break
      }
    }
    await sleep(downMs)
    const before = postgres
    postgres = await startEmbeddedPostgres({ dataDir: folder, log })
    if (postgres.url !== before.url) throw new Error('Postgres came back at another address')
  }

  for (const victim of ['simulator', ...(backend === 'redis' ? ['redis'] : []), 'api'] as const) {
    start(victim as 'simulator')
    if (victim === 'redis')
      await untilUp(async () => (await redis(`redis://127.0.0.1:${redisPort}`, 'ping')) === 'PONG')
  }
  await untilUp(async () => (await answer('GET', `${apiUrl}/health`)).status === 200)
  start('worker-1')
  start('worker-2')

  return {
    backend,
    victims: VICTIMS.filter((victim) => victim !== 'redis' || backend === 'redis'),
    pool,
    api: (method, path, body) => answer(method, `${apiUrl}${path}`, body),
    async simulator(method, path, body) {
      const { status, body: result } = await answer(method, `${simulatorUrl}/_simulator${path}`, body)
      if (status >= 400) throw new Error(`the simulator answered ${status} to ${method} ${path}`)
      return result
    },
    async kill(victim, downMs) {
      if (victim === 'postgres') return endPostgres('SIGKILL', downMs)
      const child = running.get(victim)
      running.delete(victim)
      if (child !== undefined && child.exitCode === null && child.signalCode === null) {
        child.kill('SIGKILL')
        await once(child, 'exit')
      }
      await sleep(downMs)
      start(victim)
    },
    async freeze(victim, milliseconds) {
      const child = running.get(victim)
      if (child === undefined) return
      child.kill('SIGSTOP')
      await sleep(milliseconds)
      child.kill('SIGCONT')
    },
    restartPostgres: () => endPostgres('SIGINT', 200),
    async flushRedis() {
      await redis(`redis://127.0.0.1:${redisPort}`, 'flushall').catch(() => {})
    },
    lastWords: () => words.slice(-40).join('\n'),
    async close() {
      isClosing = true
      await pool.end()
      for (const child of running.values()) child.kill('SIGCONT')
      for (const child of running.values()) child.kill('SIGKILL')
      await postgres.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

async function redis(url: string, command: 'ping' | 'flushall'): Promise<string> {
  const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null, connectTimeout: 2_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    return command === 'ping' ? await client.ping() : await client.flushall()
  } finally {
    client.disconnect()
  }
}

/** Waits until the probe says yes; what it throws counts as no. */
export async function untilUp(probe: () => Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  const deadline = Date.now() + timeoutMs
  while (!(await probe().catch(() => false))) {
    if (Date.now() > deadline) throw new Error('a process did not come up')
    await sleep(100)
  }
}
