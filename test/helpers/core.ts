import type { Test } from 'tap'
import { loadConfig } from '../../src/config.js'
import { openCore } from '../../src/core.js'
import { makeLifecycle } from '../../src/lib/lifecycle.js'
import { startSimulator } from '../../src/simulator/server.js'
import { cloneDatabase } from './database.js'
import { testLog } from './log.js'
import { TEST_KEY } from './vault.js'

/**
 * The core without queue or loops, over a database and a simulator of its own: a test says when a user is reconciled and when
 * an event comes in. To it, a sweep has seen all of Stripe.
 */
export async function openTestCore(t: Test) {
  const { url, pool } = await cloneDatabase(t)
  await pool.query('update tenants set swept_at = now()')
  const simulator = await startSimulator({ delivery: 'manual' })
  const lifecycle = makeLifecycle(() => {})
  t.teardown(async () => {
    await lifecycle.close()
    await simulator.close()
  })
  const config = loadConfig({
    DATABASE_URL: url,
    STRIPE_SECRET_KEY: 'sk_test_core',
    STRIPE_WEBHOOK_SECRET: 'whsec_core',
    STRIPE_API_BASE: simulator.url,
    LOCKSTEP_STRIPE_RATE: '500',
    LOCKSTEP_ENCRYPTION_KEY: TEST_KEY.toString('base64'),
  })
  const core = await openCore({ config, log: testLog, lifecycle, webhookUrl: null, wake() {} })
  return { ...core, pool, controls: simulator.controls, simulatorUrl: simulator.url }
}
