import { once } from 'node:events'
import { appendFileSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Stripe from 'stripe'
import t from 'tap'
import { openJournal } from '../../src/simulator/journal.js'
import { startSimulator } from '../../src/simulator/server.js'
import { spawnSource } from '../helpers/source-process.js'
import { receive, simulate } from './harness.js'

const file = 'simulator.ndjson'

t.test('all of it is there again after a restart', async (t) => {
  const dataDir = t.testdir()
  const hook = await receive(t)
  const options = { dataDir, customers: 3, webhookUrl: hook.url, searchLagMs: 1000 }
  const before = await simulate(t, options)
  const endpoint = await before.stripe.webhookEndpoints.create({ url: hook.url, enabled_events: ['*'] })
  const gone = await before.stripe.webhookEndpoints.create({ url: hook.url, enabled_events: ['payout.paid'] })
  await before.stripe.webhookEndpoints.del(gone.id)
  const key = { idempotencyKey: 'lockstep-1' }
  const made = await before.stripe.customers.create({ name: 'Ada', invoice_prefix: 'ADA' }, key)
  const deleted = await before.stripe.customers.create({})
  await before.stripe.customers.del(deleted.id)
  const seed = (await before.stripe.customers.list({ email: 'customer1@example.com' })).data[0]?.id ?? ''
  await before.stripe.customers.update(seed, { email: 'new@b.co' })
  hook.answers.push(500)
  await before.controls.deliverDue()
  await before.stripe.customers.update(made.id, { name: 'Grace' })
  const dump = before.controls.dump()
  const events = before.controls.events()
  const pending = before.controls.pendingDeliveries()
  t.equal(pending.length, 3, 'a retry and two new ones')
  await before.simulator.close()
  await before.simulator.close()
  appendFileSync(join(dataDir, file), '[{"k":"customer","a":"acct')

  for (const round of ['after a torn line', 'again']) {
    const after = await simulate(t, { ...options, customers: 7 })
    t.strictSame(after.controls.dump(), dump, round)
    t.strictSame(after.controls.events(), events)
    t.strictSame(after.controls.pendingDeliveries(), pending)
    t.strictSame(await after.stripe.customers.create({ name: 'Ada', invoice_prefix: 'ADA' }, key), made, 'keys replay')
    t.match(await after.stripe.customers.retrieve(deleted.id), { deleted: true })
    t.equal((await after.stripe.webhookEndpoints.list()).data[0]?.id, endpoint.id)
    if (round === 'again') {
      hook.received.length = 0
      t.equal((await after.controls.flush()).filter(({ delivered }) => delivered).length, 3)
      const { id } = await after.stripe.customers.create({})
      t.equal((await after.stripe.customers.list({ limit: 1 })).data[0]?.id, id, 'what is new is newest')
    }
    await after.simulator.close()
  }
})

t.test('a moved clock stays moved', async (t) => {
  const dataDir = t.testdir()
  const options = { dataDir, clock: { now: () => 1000 } }
  const before = await simulate(t, options)
  before.controls.advanceClock(5000)
  await before.simulator.close()
  t.equal((await simulate(t, options)).controls.now(), 6000)
})

t.test('a journal is for its owner’s eyes', async (t) => {
  const dataDir = t.testdir()
  openJournal(dataDir).close()
  t.equal(statSync(join(dataDir, file)).mode & 0o777, 0o600)
})

t.test('a journal of superseded lines is rewritten short', async (t) => {
  const dataDir = t.testdir()
  const path = join(dataDir, file)
  const before = await simulate(t, { dataDir, webhookUrl: 'http://127.0.0.1:1/' })
  const { id } = await before.stripe.customers.create({ name: 'Ada' })
  before.controls.advanceClock(1)
  await before.simulator.close()
  const line = readFileSync(path, 'utf8').split('\n')[0]
  writeFileSync(path, `${line}\n`.repeat(600))
  const size = statSync(path).size
  const after = await simulate(t, { dataDir })
  t.ok(statSync(path).size < size / 100)
  t.match(after.controls.dump(), { total: 1, data: [{ id, name: 'Ada' }] })
  t.equal(after.controls.events().length, 1)
  await after.simulator.close()
  t.equal((await simulate(t, { dataDir })).controls.dump().total, 1)
})

t.test('a damaged line stops the start rather than losing what follows', async (t) => {
  const dataDir = t.testdir({ [file]: '[]\nnonsense\n[]\n' })
  await t.rejects(startSimulator({ dataDir }), /damaged at byte 3/)
})

t.test('kill -9 loses nothing that was answered', async (t) => {
  const dataDir = t.testdir()
  const server = fileURLToPath(new URL('../../src/simulator/server.ts', import.meta.url))
  const script = `import(${JSON.stringify(server)}).then(async ({ startSimulator }) => {
    const { port } = await startSimulator({ dataDir: ${JSON.stringify(dataDir)}, webhookUrl: 'http://127.0.0.1:1/' })
    process.stdout.write(String(port))
  })`
  const child = spawnSource(['--eval', script])
  t.teardown(() => child.kill('SIGKILL'))
  const [port] = await once(child.stdout, 'data')
  const config = {
    host: '127.0.0.1',
    port: Number(port),
    protocol: 'http',
    telemetry: false,
    maxNetworkRetries: 0,
  } as const
  const stripe = new Stripe('sk_test_1', config)
  const answered: string[] = []
  const calls = Array.from({ length: 200 }, async () => {
    const { id } = await stripe.customers.create({})
    answered.push(id)
    if (answered.length === 50) child.kill('SIGKILL')
  })
  await Promise.allSettled(calls)
  t.ok(answered.length >= 50)
  const { controls } = await simulate(t, { dataDir })
  const { data, total } = controls.dump({ limit: 10_000 })
  const kept = new Set(data.map(({ id }) => id))
  t.strictSame(
    answered.filter((id) => !kept.has(id)),
    [],
    `all ${answered.length} answered are among the ${total} kept`,
  )
  t.equal(controls.events().length, total)
  t.ok(controls.pendingDeliveries().length >= answered.length)
})
