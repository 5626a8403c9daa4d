import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { attachEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { freePort } from '../helpers/free-port.js'
import { spawnSource } from '../helpers/source-process.js'
import { eventually } from '../helpers/wait.js'

// Processes that compile what they run take seconds to start, several of them on a busy machine much longer.
t.setTimeout(600_000)

const KEY = 'lsk_processtest_0123456789abcdef0123456789abcdef'

/** The service as a user has it: a process of its own, everything embedded, in an empty folder. */
async function makeInstallation(t: Test, extra: Record<string, string> = {}) {
  const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-process-'))
  const [port, simulatorPort] = [await freePort(), await freePort()]
  const env = {
    PATH: process.env.PATH,
    HOME: process.env.HOME,
    PORT: String(port),
    LOCKSTEP_SIMULATOR_PORT: String(simulatorPort),
    LOCKSTEP_DATA_DIR: dataDir,
    LOCKSTEP_ADMIN_KEY: KEY,
    LOG_LEVEL: 'warn',
    ...extra,
  }
  const url = `http://127.0.0.1:${port}`
  const simulatorUrl = `http://127.0.0.1:${simulatorPort}`
  let running: ChildProcess | undefined

  function command(...args: string[]) {
    const child = spawnSource(['src/cli.ts', ...args], env)
    const result = { child, output: '', code: once(child, 'exit').then(([code]) => code as number | null) }
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (result.output += chunk))
    return result
  }

  async function start() {
    const started = command('start')
    running = started.child
    await eventually(
      () => {
        if (started.child.exitCode !== null) throw new Error(started.output)
        return started.output.includes('is running')
      },
      { timeout: 60_000, what: 'the banner' },
    )
    return started
  }

  async function call(method: string, path: string, body?: unknown, base = url) {
    const response = await fetch(`${base}${path}`, {
      method,
      headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return { status: response.status, body: JSON.parse(await response.text()) }
  }

  t.teardown(async () => {
    if (running?.exitCode === null) {
      running.kill('SIGTERM')
      await once(running, 'exit')
    }
    // A test that failed may have left it to nobody.
    if ((await attachEmbeddedPostgres(dataDir)) !== null) t.comment(`Postgres is left running in ${dataDir}`)
    else await rm(dataDir, { recursive: true, force: true })
  })
  return { command, start, call, simulatorUrl, dataDir }
}

t.test('killed with -9 in the middle of a loop and started again: the same end state, no duplicate', async (t) => {
  const { start, call, simulatorUrl } = await makeInstallation(t)
  const first = await start()
  const posts = Promise.all(
    Array.from({ length: 120 }, (_, n) =>
      eventually(
        async () => {
          const response = await call('POST', '/customers', { email: `user${n}@example.com` })
          return response.status === 201
        },
        { timeout: 60_000, interval: 200 },
      ),
    ),
  )
  await eventually(
    async () =>
      (await call('GET', '/_simulator/state', undefined, simulatorUrl)).body.calls['customers.create']?.total > 10,
  )
  first.child.kill('SIGKILL')
  await first.code
  const second = await start()
  await posts
  await eventually(
    async () => {
      const { parts } = (await call('GET', '/health')).body
      return parts.sync.dirty === 0 && parts.inbox.pending === 0
    },
    { timeout: 60_000, what: 'quiet' },
  )
  const { data } = (await call('GET', '/_simulator/customers?limit=10000', undefined, simulatorUrl)).body
  const owners = data.map((customer: { metadata: { lockstep_user_id: string } }) => customer.metadata.lockstep_user_id)
  t.equal(new Set(owners).size, owners.length, 'no user has two customers')
  t.ok(owners.length >= 120, `${owners.length} customers`)
  const list = await call('GET', '/customers?syncStatus=in_sync&limit=100')
  t.equal(list.body.data.length, 100)
  second.child.kill('SIGTERM')
  t.equal(await second.code, 0, 'and a plain stop is clean')
})

t.test('the command line', async (t) => {
  const { command, start, call, simulatorUrl } = await makeInstallation(t)
  const service = await start()
  t.match((await call('POST', '/customers', { email: 'cli@example.com' })).status, 201)
  await eventually(async () => (await call('GET', '/health')).body.parts.sync.dirty === 0)

  const clean = command('reconcile', '--dry-run')
  t.equal(await clean.code, 0, clean.output)
  t.match(clean.output, 'No drift.')

  await call('POST', '/_simulator/faults', { operation: 'customers.list', kind: '403' }, simulatorUrl)
  const failed = command('reconcile')
  t.equal(await failed.code, 1, 'a failed part is a failed run')
  t.match(failed.output, /The run FAILED \(stripe_auth_failed\)/)
  await call('DELETE', '/_simulator/faults', undefined, simulatorUrl)

  const key = command('keys', 'create', '--name', 'test', '--role', 'viewer')
  const url = command('database-url')
  const migrated = command('migrate')
  t.strictSame(await Promise.all([key.code, url.code, migrated.code]), [0, 0, 0])
  t.match(key.output, /^lsk_[a-z0-9]{8}_\S+\n$/)
  t.match(url.output, /^postgresql:\/\/\S+\n$/)
  t.match(migrated.output, 'up to date')

  service.child.kill('SIGINT')
  t.equal(await service.code, 0)
})

t.test('wrong settings are named, all of them at once', async (t) => {
  const { command } = await makeInstallation(t, {
    PORT: 'http',
    STRIPE_SECRET_KEY: 'pk_live_secretpart',
    LOCKSTEP_TYPO: '1',
  })
  const { code, output } = await (async () => {
    const failed = command('start')
    return { code: await failed.code, output: failed.output }
  })()
  t.equal(code, 1)
  for (const name of ['PORT', 'STRIPE_SECRET_KEY', 'STRIPE_WEBHOOK_SECRET', 'LOCKSTEP_TYPO']) t.match(output, name)
  t.notMatch(output, 'secretpart')
})

t.test(
  'Redis is emptied in the middle of a loop: the same end state',
  { skip: process.env.TEST_REDIS_URL === undefined ? 'there is no Redis' : false },
  async (t) => {
    const redisUrl = new URL(process.env.TEST_REDIS_URL ?? '')
    redisUrl.pathname = '/9'
    const redis = new Redis(redisUrl.href)
    t.teardown(() => redis.disconnect())
    const { start, call, simulatorUrl } = await makeInstallation(t, { REDIS_URL: redisUrl.href })
    await start()
    for (let n = 0; n < 100; n += 1) {
      t.equal((await call('POST', '/customers', { email: `redis${n}@example.com` })).status, 201)
      if (n % 25 === 10) await redis.flushdb()
    }
    await eventually(async () => (await call('GET', '/health')).body.parts.sync.dirty === 0, {
      timeout: 60_000,
      what: 'quiet',
    })
    const { total } = (await call('GET', '/_simulator/customers', undefined, simulatorUrl)).body
    t.equal(total, 100)
    await eventually(async () => (await redis.keys('*schedule:repeat*')).length > 0, {
      timeout: 40_000,
      what: 'the crontab again',
    })
  },
)
