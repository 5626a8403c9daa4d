import t from 'tap'
import type { HealthCheck } from '../../src/http/health.js'
import { LockstepError } from '../../src/lib/errors.js'
import { openApi } from '../helpers/api.js'

t.test('parts', async (t) => {
  let database: () => Promise<undefined> = async () => undefined
  let queue: () => Promise<undefined> = async () => undefined
  let inbox: Record<string, string | number> = { pending: 3 }
  const health: HealthCheck[] = [
    { name: 'database', critical: true, check: () => database() },
    { name: 'queue', critical: false, check: () => queue() },
    { name: 'inbox', critical: false, check: async () => inbox },
  ]
  const api = await openApi(t, () => ({ health }))
  const get = (path: string) => api.call('GET', path, { key: null })

  t.match(await get('/health'), {
    status: 200,
    body: {
      status: 'ok',
      version: '0.0.0-test',
      parts: { database: { status: 'ok', critical: true }, inbox: { pending: 3 } },
    },
  })
  t.match(await get('/health/ready'), { status: 200, body: { status: 'ok' } })

  inbox = { pending: 9, code: 'inbox_behind' }
  t.match(await get('/health'), {
    status: 200,
    body: { status: 'degraded', parts: { inbox: { status: 'degraded', pending: 9, code: 'inbox_behind' } } },
  })
  t.equal((await get('/health/ready')).status, 200, 'it works, only late')
  inbox = { pending: 3 }

  queue = async () => {
    throw new LockstepError('secret', { code: 'queue_unavailable' })
  }
  const degraded = await get('/health')
  t.match(degraded, {
    status: 200,
    body: { status: 'degraded', parts: { queue: { status: 'down', code: 'queue_unavailable' } } },
  })
  t.notMatch(JSON.stringify(degraded.body), 'secret')
  t.equal((await get('/health/ready')).status, 200, 'it can do without')

  database = () => new Promise(() => {})
  const started = Date.now()
  t.match(await get('/health/ready'), { status: 503, body: { status: 'down' } })
  t.ok(Date.now() - started < 5_000, 'a check that hangs is down')
  database = async () => {
    throw new Error('secret')
  }
  t.match(await get('/health'), { status: 503, body: { status: 'down', parts: { database: { code: 'failed' } } } })
  t.match(await get('/health/live'), { status: 200, body: { status: 'ok' } }, 'a restart would not mend the database')
})
