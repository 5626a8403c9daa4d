import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { openApi } from '../helpers/api.js'

t.test('latency by route, behind a key', async (t) => {
  const api = await openApi(t)
  await api.call('GET', `/customers/${newId()}`)
  await api.call('GET', '/nowhere')
  t.equal((await api.call('GET', '/metrics', { key: null })).status, 401)
  const { status, headers, body } = await api.call('GET', '/metrics', { key: api.keys.viewer })
  t.equal(status, 200)
  t.match(headers.get('content-type'), /^text\/plain; version=/)
  t.match(body, 'lockstep_http_request_duration_seconds_count{method="GET",route="/customers/:id",status="404"} 1')
  t.match(body, 'route="none",status="404"')
})

t.test('open where only this machine can ask', async (t) => {
  const api = await openApi(t, ({ options }) => ({ options: { ...options, openMetrics: true } }))
  t.equal((await api.call('GET', '/metrics', { key: null })).status, 200)
})
