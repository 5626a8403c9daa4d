import t from 'tap'
import { isProblem, openApi } from '../helpers/api.js'

const ago = (minutes: number) => new Date(Date.now() - minutes * 60_000).toISOString()

t.test('what holds is what was said last', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const put = (body: object, purpose = 'marketing.email', key = api.keys.admin) =>
    api.call('PUT', `/customers/${id}/consents/${purpose}`, { body: { source: 'web.checkout', ...body }, key })
  const history = async (query = '') => (await api.call('GET', `/customers/${id}/consents/history${query}`)).body

  t.strictSame((await api.call('GET', `/customers/${id}/consents`)).body, { data: [] })
  const granted = await put({
    status: 'granted',
    at: ago(60),
    version: '2026-05',
    text: 'Send me news.',
    evidence: { ip: '203.0.113.7' },
  })
  t.match(granted, { status: 200, body: { purpose: 'marketing.email', status: 'granted', version: '2026-05' } })
  t.match(granted.body.actor, /^key:/)
  t.match((await put({ status: 'withdrawn', at: ago(30), source: 'mail.footer' })).body, { status: 'withdrawn' })

  t.match((await put({ status: 'granted', at: ago(45) })).body, { status: 'withdrawn' }, 'a late word takes its place')
  t.match((await put({ status: 'granted', at: ago(90) })).body, { status: 'withdrawn' })
  t.equal((await history()).data.length, 4, 'and is kept')

  const moment = ago(20)
  t.match((await put({ status: 'withdrawn', at: moment })).body, { status: 'withdrawn' })
  t.match((await put({ status: 'granted', at: moment })).body, { status: 'withdrawn' }, 'at one moment, the withdrawal')
  t.match((await put({ status: 'granted' })).body, { status: 'granted' }, 'later, anew')
  await put({ status: 'granted' })
  await put({ status: 'granted', at: moment })
  t.equal((await history()).data.length, 7, 'the same again is no news')
  await put({ status: 'granted', at: new Date(Date.now() + 40_000).toISOString() })
  t.match((await put({ status: 'withdrawn' })).body, { status: 'withdrawn' }, 'a clock ahead hides nothing')

  await put({ status: 'granted' }, 'analytics')
  const { data } = (await api.call('GET', `/customers/${id}/consents`)).body
  t.match(data, [
    { purpose: 'analytics', status: 'granted' },
    { purpose: 'marketing.email', status: 'withdrawn' },
  ])
  t.equal((await history('?purpose=analytics')).data.length, 1)

  const seen: string[] = []
  let cursor: string | null = null
  do {
    const page: { data: { id: string }[]; nextCursor: string | null } = await history(
      `?limit=2${cursor === null ? '' : `&cursor=${cursor}`}`,
    )
    seen.push(...page.data.map((entry) => entry.id))
    cursor = page.nextCursor
  } while (cursor !== null)
  t.equal(new Set(seen).size, 10)
  t.equal(seen.length, 10)

  const { rows } = await api.pool.query("select changes from audit_log where action = 'consent.record'")
  t.equal(rows.length, 10)
  t.notMatch(JSON.stringify(rows), /203\.0|Send me/)
  t.match((await api.call('GET', `/customers/${id}/consents`, { key: api.keys.viewer })).status, 200)
  const viewed = await api.call('GET', `/customers/${id}/consents/history`, { key: api.keys.viewer })
  t.match(viewed.body.data.at(-1), { text: 'Send me news.', evidence: { ip: '***' } })
})

t.test('what is refused', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const before = await api.snapshot()
  const put = (body: object, purpose = 'marketing.email', key = api.keys.admin) =>
    api.call('PUT', `/customers/${id}/consents/${purpose}`, {
      body: { status: 'granted', source: 'web', ...body },
      key,
    })
  isProblem(t, await put({ status: 'maybe' }), 400, 'validation_failed', 'status')
  isProblem(t, await put({ source: 'My Shop' }), 400, 'validation_failed', 'source')
  isProblem(t, await put({}, 'Marketing!'), 400, 'validation_failed', 'purpose')
  isProblem(t, await put({ at: new Date(Date.now() + 3_600_000).toISOString() }), 400, 'validation_failed', 'at')
  isProblem(t, await put({ at: '0000-01-01T00:00:00Z' }), 400, 'validation_failed', 'at')
  isProblem(t, await put({ text: 'a\u0000' }), 400, 'validation_failed', 'text')
  isProblem(t, await put({ evidence: { ip: '\ud800' } }), 400, 'validation_failed', 'evidence.ip')
  isProblem(t, await put({ evidence: { ['k'.repeat(41)]: 'x' } }), 400, 'validation_failed')
  const many = Object.fromEntries(Array.from({ length: 21 }, (_, n) => [`k${n}`, 'v']))
  isProblem(t, await put({ evidence: many }), 400, 'validation_failed', 'evidence')
  isProblem(t, await put({}, 'a', api.keys.viewer), 403, 'permission_denied')
  isProblem(t, await put({}, 'a', api.keys.other), 404, 'not_found')
  t.equal(await api.snapshot(), before)
  await t.rejects(
    api.pool.query(
      `insert into consent_changes (tenant_id, customer_id, purpose, status, source, actor)
      values ($1, $2, 'a', 'perhaps', 'x', 'x')`,
      [api.tenantId, id],
    ),
    /consent_changes_status_check/,
  )
  for (let n = 0; n < 100; n += 1) t.equal((await put({}, `p${n}`)).status, 200)
  isProblem(t, await put({}, 'p100'), 409, 'too_many_purposes')
  t.equal((await put({ status: 'withdrawn' }, 'p1')).status, 200)
})

t.test('an erasure leaves the proof without the person; history is not rewritten', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const put = (status: string, evidence = {}) =>
    api.call('PUT', `/customers/${id}/consents/news`, { body: { status, source: 'web', text: 'News?', evidence } })
  await put('granted', { ip: '203.0.113.7', form: 'f-1' })
  await put('withdrawn')
  await t.rejects(api.pool.query("update consent_changes set status = 'granted'"), /append-only/)
  await t.rejects(api.pool.query("update consent_changes set at = now() - interval '1 day'"), /append-only/)
  await t.rejects(api.pool.query('delete from consent_changes'), /append-only/)
  await t.rejects(api.pool.query("update customer_state_changes set actor = 'me'"), /append-only/)
  await t.rejects(api.pool.query('delete from customer_state_changes'), /append-only/)

  t.equal((await api.call('DELETE', `/customers/${id}?erase=true`)).status, 200)
  const { rows } = await api.pool.query('select to_jsonb(c) as row from consent_changes c')
  t.notMatch(JSON.stringify(rows), /203\.0|"f-1"/)
  const { data } = (await api.call('GET', `/customers/${id}/consents/history`)).body
  t.match(data, [
    { status: 'withdrawn', source: 'web', text: 'News?', evidence: {} },
    { status: 'granted', evidence: { ip: null, form: null } },
  ])
  isProblem(t, await put('granted'), 409, 'customer_erased')
  await api.call('PUT', `/customers/${id}/consents/calls`, {
    body: { status: 'withdrawn', source: 'phone', evidence: { number: '+14155550100' } },
  })
  const { data: now } = (await api.call('GET', `/customers/${id}/consents`)).body
  t.match(now, [
    { purpose: 'calls', status: 'withdrawn', evidence: {} },
    { purpose: 'news', status: 'withdrawn' },
  ])
  t.notMatch(JSON.stringify(now), /4155550100/, 'a withdrawal is still taken, without evidence')
})

t.test('a grant and a withdrawal at once: each is kept', async (t) => {
  const api = await openApi(t)
  const { id } = (await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })).body
  const at = ago(1)
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, n) =>
      api.call('PUT', `/customers/${id}/consents/news`, {
        body: { status: n % 2 === 0 ? 'granted' : 'withdrawn', source: `s${n}`, at },
      }),
    ),
  )
  t.ok(answers.every(({ status }) => status === 200))
  t.equal((await api.call('GET', `/customers/${id}/consents/history`)).body.data.length, 20)
  t.match((await api.call('GET', `/customers/${id}/consents`)).body.data, [{ status: 'withdrawn' }])
})
