/**
 * Starts the built service as a user would, in an empty folder for its data, and follows one customer to Stripe and back.
 * Prints `ok` or `not ok` per check, and last `N passed, N failed`; exits with 1 if any failed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const say = (line) => process.stdout.write(`${line}\n`)
let passed = 0
let failed = 0

function check(name, isOk, detail = '') {
  if (isOk) passed += 1
  else failed += 1
  say(`${isOk ? 'ok' : 'not ok'} - ${name}${isOk || !detail ? '' : `: ${detail}`}`)
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function eventually(probe, seconds) {
  const deadline = Date.now() + seconds * 1000
  for (;;) {
    const result = await Promise.resolve()
      .then(probe)
      .catch(() => undefined)
    if (result) return result
    if (Date.now() > deadline) return undefined
    await sleep(50)
  }
}

const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-round-trip-'))
const [port, simulatorPort] = [await freePort(), await freePort()]
const adminKey = 'lsk_roundtrip_0123456789abcdef0123456789abcdef'
const api = `http://127.0.0.1:${port}`
const simulator = `http://127.0.0.1:${simulatorPort}`

// Nothing of the caller's own configuration: this is the start with nothing set.
const kept = Object.entries(process.env).filter(
  ([name]) => !/^(LOCKSTEP_|STRIPE_|DATABASE_URL$|REDIS_URL$|NODE_ENV$|TEST_)/.test(name),
)
const env = {
  ...Object.fromEntries(kept),
  PORT: String(port),
  LOCKSTEP_SIMULATOR_PORT: String(simulatorPort),
  LOCKSTEP_DATA_DIR: dataDir,
  LOCKSTEP_ADMIN_KEY: adminKey,
}

const running = new Set()

/** In a process group of its own, so that a signal can go to all of it, as a terminal's Ctrl-C does. */
function start(command, args) {
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const service = { child, output: '' }
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      service.output += chunk
    })
  }
  running.add(child)
  child.on('exit', () => running.delete(child))
  return service
}

async function call(method, path, body, base = api, key = adminKey) {
  const headers = { authorization: `Bearer ${key}`, ...(body ? { 'content-type': 'application/json' } : {}) }
  const response = await fetch(`${base}${path}`, { method, headers, body: body && JSON.stringify(body) })
  return { status: response.status, body: await response.json() }
}

const isReady = () => fetch(`${api}/health/ready`).then((response) => response.ok)
const isDown = () =>
  fetch(`${api}/health/live`).then(
    () => false,
    () => true,
  )

async function stripeCustomers() {
  const { body } = await call('GET', '/v1/customers?limit=100', undefined, simulator, 'sk_test_roundtrip')
  return body.data ?? []
}

async function followOneCustomer() {
  const made = await call('POST', '/customers', {
    email: 'round.trip@example.com',
    firstName: 'Round',
    lastName: 'Trip',
  })
  check('POST /customers answers 201', made.status === 201, JSON.stringify(made))
  const id = made.body.id
  const sync = await eventually(async () => {
    const { body } = await call('GET', `/customers/${id}/sync`)
    return body.status === 'in_sync' && body
  }, 10)
  check('its sync status becomes in_sync', sync !== undefined)
  const found = (await stripeCustomers()).filter((customer) => customer.metadata?.lockstep_user_id === id)
  check('Stripe has exactly one customer for it', found.length === 1, `${found.length}`)
  check('with its name and e-mail', found[0]?.name === 'Round Trip' && found[0]?.email === 'round.trip@example.com')

  await fetch(`${simulator}/v1/customers/${found[0]?.id}`, {
    method: 'POST',
    headers: { authorization: 'Bearer sk_test_roundtrip', 'content-type': 'application/x-www-form-urlencoded' },
    body: 'email=changed.there%40example.com',
  })
  const returned = await eventually(async () => {
    const { body } = await call('GET', `/customers/${id}`)
    return body.email === 'changed.there@example.com'
  }, 10)
  check('an edit in Stripe comes back', returned === true)
  return id
}

async function main() {
  const began = Date.now()
  const first = start('npm', ['start'])
  const ready = await eventually(isReady, 30)
  check('npm start brings the service up', ready === true, first.output)
  if (!ready) return
  say(`# ready after ${Date.now() - began} ms`)
  const id = await followOneCustomer()

  process.kill(-first.child.pid, 'SIGINT')
  check('Ctrl-C stops it', (await eventually(isDown, 15)) === true, first.output)
  const stopped = await eventually(() => !existsSync(join(dataDir, 'postgres', 'data', 'postmaster.pid')), 20)
  check('and the embedded Postgres with it', stopped === true)

  const second = start(process.execPath, ['dist/cli.js', 'start'])
  check('it starts again', (await eventually(isReady, 30)) === true, second.output)
  const again = await call('GET', `/customers/${id}`)
  check('and finds its data', again.body.email === 'changed.there@example.com', JSON.stringify(again))
  const exited = once(second.child, 'exit')
  second.child.kill('SIGTERM')
  const [code] = await Promise.race([exited, sleep(20_000, ['did not exit'], { ref: false })])
  check('SIGTERM ends it with exit code 0', code === 0, `${code}\n${second.output}`)
}

try {
  await main()
} catch (error) {
  check('the round trip runs to its end', false, error.stack)
} finally {
  for (const child of running) {
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch {
      // It ended meanwhile.
    }
  }
  await rm(dataDir, { recursive: true, force: true }).catch(() => {})
}
say(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 ? 0 : 1)
