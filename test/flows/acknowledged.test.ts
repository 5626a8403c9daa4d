import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import Stripe from 'stripe'
import t from 'tap'
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { startSimulator } from '../../src/simulator/server.js'
import { freePort } from '../helpers/free-port.js'
import { countEvents } from '../helpers/inbox.js'
import { testLog as log } from '../helpers/log.js'
import { spawnSource } from '../helpers/source-process.js'
import { TEST_KEY } from '../helpers/vault.js'
import { eventually } from '../helpers/wait.js'
import { eventOf } from '../helpers/webhooks.js'

// Processes that compile what they run take seconds to start, several of them on a busy machine much longer.
t.setTimeout(580_000)

const SECRET = 'whsec_acknowledged'
const CONNECTIONS = 16
const ENOUGH = 300

t.test('what was answered with 2xx is there after kill -9 of the API and of Postgres', async (t) => {
  const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-acknowledged-'))
  let postgres = await startEmbeddedPostgres({ dataDir, log })
  const simulator = await startSimulator({ delivery: 'manual' })
  const port = await freePort()
  const env = {
    PATH: process.env.PATH,
    HOME: process.env.HOME,
    DATABASE_URL: postgres.url,
    PORT: String(port),
    STRIPE_SECRET_KEY: 'sk_test_acknowledged',
    STRIPE_WEBHOOK_SECRET: SECRET,
    STRIPE_API_BASE: simulator.url,
    LOCKSTEP_ENCRYPTION_KEY: TEST_KEY.toString('base64'),
    LOG_LEVEL: 'warn',
  }
  const children = new Set<ReturnType<typeof spawnSource>>()
  t.teardown(async () => {
    for (const child of children) child.kill('SIGKILL')
    await simulator.close()
    await postgres.close()
    await rm(dataDir, { recursive: true, force: true })
  })
  async function start(command: 'api' | 'worker') {
    const child = spawnSource(['src/cli.ts', command], env)
    children.add(child)
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
    await eventually(
      () => {
        if (child.exitCode !== null) throw new Error(output)
        return output.includes('is running')
      },
      { timeout: 60_000, what: `the banner of ${command}` },
    )
    return child
  }

  const api = await start('api')
  const acknowledged = new Set<string>()
  /** Delivers until nobody answers any more. */
  async function deliverOn(): Promise<void> {
    for (;;) {
      const event = eventOf({ id: 'in_1', object: 'invoice' }, { type: 'invoice.paid' })
      const payload = JSON.stringify(event)
      const response = await fetch(`http://127.0.0.1:${port}/webhooks/stripe`, {
        method: 'POST',
        headers: { 'stripe-signature': Stripe.webhooks.generateTestHeaderString({ payload, secret: SECRET }) },
        body: payload,
      }).catch(() => null)
      if (response === null) return
      if (response.ok) acknowledged.add(event.id)
    }
  }
  const senders = Promise.all(Array.from({ length: CONNECTIONS }, deliverOn))
  await eventually(() => acknowledged.size >= ENOUGH, { timeout: 60_000, what: `${ENOUGH} answers` })
  // Postgres first, so that nothing that the API has in hand can still be written; then the API, in the middle of it.
  const [postmaster] = (await readFile(join(dataDir, 'postgres', 'data', 'postmaster.pid'), 'utf8')).split('\n')
  process.kill(Number(postmaster), 'SIGKILL')
  api.kill('SIGKILL')
  await once(api, 'exit')
  await senders

  const { url } = postgres
  await eventually(
    () => {
      try {
        process.kill(Number(postmaster), 0)
        return false
      } catch {
        return true
      }
    },
    { what: 'the end of Postgres' },
  )
  postgres = await startEmbeddedPostgres({ dataDir, log })
  t.equal(postgres.url, url)
  const pool = new pg.Pool({ connectionString: url })
  t.teardown(() => pool.end())
  t.match((await pool.query('show synchronous_commit')).rows, [{ synchronous_commit: 'on' }])
  await start('worker')
  t.ok((await countEvents(pool)) >= acknowledged.size)
  const { rows } = await pool.query('select id from stripe_events where id = any($1)', [[...acknowledged]])
  t.equal(rows.length, acknowledged.size, `all of ${acknowledged.size} are there`)
})
