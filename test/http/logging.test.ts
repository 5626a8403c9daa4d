import { pino } from 'pino'
import t from 'tap'
import type { ServerDeps } from '../../src/http/server.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('logs hold no personal data and no keys', async (t) => {
  let written = ''
  const write = (line: string) => {
    written += line
  }
  const log = pino({ level: 'trace' }, { write })
  const broken: Partial<ServerDeps> = {
    settingsOf: async () => {
      const cause = Object.assign(new Error('duplicate key'), {
        code: '23505',
        detail: 'Key (email)=(ada@example.com)',
      })
      throw new Error('it broke', { cause })
    },
  }
  const api = await openApi(t, () => broken, log)
  await api.call('POST', '/customers', { body: { email: 'ada@example.com', firstName: 'Ada' } })
  await api.call('POST', '/customers', { body: { email: 'ada@example' } })
  await api.call('GET', '/customers?email=ada@example.com&q=Lovelace')
  const { id } = (await api.call('GET', '/customers')).body.data[0]
  const failed = await api.call('GET', `/customers/${id}/sync`)
  isProblem(t, failed, 500, 'internal_error')
  t.notMatch(JSON.stringify(failed.body), /broke|duplicate/, 'the client is told nothing of the inside')
  t.match(written, 'it broke')
  t.match(written, '23505')
  t.match(written, failed.body.requestId)
  t.match(written, '"route":"/customers/:id/sync"')
  t.notMatch(written, /ada@example|Lovelace|Ada/)
  t.notMatch(written, api.keys.admin)
  t.notMatch(written, /DEP\d+|deprecat/i)
})
