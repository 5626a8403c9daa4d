import t from 'tap'
import { startSimulator } from '../../src/simulator/server.js'
import { errorOf, simulate } from './harness.js'

t.test('a taken port is an error, and so is a call after closing', async (t) => {
  const { simulator, client } = await simulate(t)
  t.equal(simulator.url, `http://127.0.0.1:${simulator.port}`)
  await t.rejects(startSimulator({ port: simulator.port }), { code: 'EADDRINUSE' })
  await client().customers.list()
  await Promise.all([simulator.close(), simulator.close()])
  t.match(await errorOf(client().customers.list()), { type: 'StripeConnectionError' })
})

t.test('closing ends calls that hang and deliveries that nobody answers', async (t) => {
  const { simulator, stripe, controls } = await simulate(t, { latencyMs: 60_000, delivery: 'auto' })
  const slow = errorOf(stripe.customers.list({}, { timeout: 30_000 }))
  controls.faults.add({ kind: 'timeout_before', times: 1 })
  while (simulator.core.calls['customers.list'] === undefined && controls.faults.rules.length > 0) {
    await new Promise((resolve) => setImmediate(resolve))
  }
  await simulator.close()
  t.match(await slow, { type: 'StripeConnectionError' })
})
