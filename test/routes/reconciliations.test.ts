import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('reconciliations', async (t) => {
  const api = await openApi(t)
  const started = await api.call('POST', '/reconciliations', { body: { kind: 'sweep', dryRun: true } })
  t.match(started, {
    status: 202,
    body: { kind: 'sweep', dryRun: true, trigger: 'api', status: 'queued', requestedBy: /^key:/ },
  })
  t.equal(started.headers.get('location'), `/reconciliations/${started.body.id}`)
  t.match((await api.call('GET', `/reconciliations/${started.body.id}`)).body, started.body)
  t.match((await api.call('GET', '/reconciliations')).body, { data: [started.body], hasMore: false, nextCursor: null })
  isProblem(t, await api.call('GET', `/reconciliations/${newId()}`), 404, 'not_found')
  t.match((await api.call('POST', '/reconciliations', { body: { kind: 'catch_up' } })).body, { dryRun: false })
})
