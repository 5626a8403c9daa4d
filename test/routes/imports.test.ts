import { once } from 'node:events'
import { request } from 'node:http'
import { parse } from 'csv-parse/sync'
import t, { type Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { makeImportWorker } from '../../src/services/import-worker.js'
import { type Answer, type CallOptions, isProblem, openApi } from '../helpers/api.js'
import { startService } from '../helpers/service.js'
import { testVault } from '../helpers/vault.js'
import { eventually } from '../helpers/wait.js'

/** The API, with a worker of imports that runs when it is asked to. */
async function open(t: Test) {
  const api = await openApi(t)
  const worker = makeImportWorker({
    prisma: api.prisma,
    vault: testVault(),
    settingsOf: async () => api.settings,
    wake() {},
  })
  const work = () => worker.executeNext(new AbortController().signal, (error) => t.fail(String(error)))
  async function send(
    file: string | Uint8Array,
    query = '',
    options: CallOptions & { type?: string } = {},
  ): Promise<Answer> {
    const { type = 'text/csv', headers = {}, ...rest } = options
    return api.call('POST', `/customers/import${query}`, {
      body: file,
      headers: { 'content-type': type, ...headers },
      ...rest,
    })
  }
  /** Sends a file, has it imported and answers how it ended. */
  async function run(file: string, query = '', options: CallOptions & { type?: string } = {}) {
    const sent = await send(file, query, options)
    t.equal(sent.status, 202, JSON.stringify(sent.body))
    while (await work()) {}
    return (await api.call('GET', sent.headers.get('location') ?? '', options)).body
  }
  return { ...api, send, run, work }
}

t.test('a file becomes customers', async (t) => {
  const { send, work, call, pool, keys, asked } = await open(t)
  const sent = await send('\ufeffemail,metadata.tier\r\nada@example.com,gold\r\nbob,\r\n', '?onMatch=fail', {
    key: keys.manager,
  })
  t.match(sent, {
    status: 202,
    body: { status: 'queued', format: 'csv', onMatch: 'fail', dryRun: false, source: 'api', lines: 0 },
  })
  t.match(sent.body.requestedBy, /^key:/)
  t.ok(asked.includes('imports'), 'the worker of this process is told')
  t.equal((await pool.query('select 1 from users')).rowCount, 0)
  await work()
  const done = await call('GET', sent.headers.get('location') ?? '')
  t.match(done.body, { status: 'succeeded', lines: 2, counts: { created: 1, failed: 1 }, error: null })
  t.match((await call('GET', '/customers')).body.data, [{ email: 'ada@example.com', metadata: { tier: 'gold' } }])
  t.match((await call('GET', `/imports/${sent.body.id}/errors`)).body, {
    data: [{ line: 3, errors: [{ path: 'email', code: 'invalid_email' }] }],
    hasMore: false,
    nextCursor: null,
  })
  t.equal((await pool.query('select 1 from import_chunks')).rowCount, 0, 'the file is not kept')
  const { rows } = await pool.query(
    "select actor, action, changes, request_id from audit_log where entity = 'import' order by at",
  )
  t.match(rows, [
    { action: 'import.create', actor: sent.body.requestedBy, changes: { format: 'csv' } },
    { action: 'import.finish', changes: { lines: 2, created: 1, failed: 1 } },
  ])
})

t.test('lists', async (t) => {
  const { run, call, keys } = await open(t)
  const ids: string[] = []
  for (let n = 0; n < 3; n += 1) ids.unshift((await run('{}\n{}\n[]\n', '', { type: 'application/x-ndjson' })).id)
  const first = (await call('GET', '/imports?limit=2')).body
  t.strictSame(
    first.data.map(({ id }: { id: string }) => id),
    ids.slice(0, 2),
  )
  const second = (await call('GET', `/imports?limit=2&cursor=${first.nextCursor}`)).body
  t.match(second, { data: [{ id: ids[2], counts: { failed: 3 } }], hasMore: false })
  const errors = (await call('GET', `/imports/${ids[0]}/errors?limit=2`)).body
  t.match(errors, { data: [{ line: 1 }, { line: 2 }], hasMore: true })
  t.match((await call('GET', `/imports/${ids[0]}/errors?limit=2&cursor=${errors.nextCursor}`)).body, {
    data: [{ line: 3 }],
    hasMore: false,
  })
  isProblem(t, await call('GET', `/imports/${ids[0]}/errors?cursor=x`), 400, 'invalid_cursor', 'cursor')
  isProblem(t, await call('GET', `/imports/${ids[0]}/errors`, { key: keys.other }), 404, 'not_found')
  isProblem(t, await call('GET', `/imports/${newId()}`), 404, 'not_found')
})

t.test('what is wrong at first sight is refused at once, and nothing is kept', async (t) => {
  const { send, snapshot, keys } = await open(t)
  const before = await snapshot()
  isProblem(t, await send('e-mail,email,email\n'), 400, 'invalid_file', 'e-mail', 'email')
  isProblem(t, await send(''), 400, 'invalid_file', 'body')
  isProblem(t, await send('\n'), 400, 'invalid_file', 'file')
  isProblem(t, await send(Buffer.from('\ufeffemail\n', 'utf16le')), 400, 'invalid_file', 'file')
  isProblem(t, await send('email\n', '?onMatch=x'), 400, 'validation_failed', 'onMatch')
  isProblem(t, await send('{}', '', { type: 'application/json' }), 415, 'unsupported_file')
  isProblem(t, await send('x', '', { headers: { 'content-encoding': 'gzip' } }), 415, 'unsupported_file')
  isProblem(t, await send('email\n', '', { key: keys.viewer }), 403, 'permission_denied')
  isProblem(t, await send(`email\n${'x'.repeat(1_000_000)}`), 413, 'file_too_large')
  t.equal(await snapshot(), before)
})

t.test('a file without a length is stopped at the limit', async (t) => {
  const { url, keys, snapshot } = await open(t)
  const before = await snapshot()
  const answer = await fetch(`${url}/customers/import`, {
    method: 'POST',
    headers: { authorization: `Bearer ${keys.admin}`, 'content-type': 'text/csv' },
    body: (async function* () {
      yield Buffer.from('email\n')
      for (let n = 0; n < 12; n += 1) yield Buffer.alloc(100_000, 'x\n')
    })() as unknown as ReadableStream,
    duplex: 'half',
  } as RequestInit).catch((error: Error) => error)
  // The answer may be lost: the server closes while the client still sends.
  if (!(answer instanceof Error)) t.equal(answer.status, 413)
  await eventually(async () => (await snapshot()) === before, { what: 'that nothing is kept' })
  t.equal(await snapshot(), before)
})

t.test('a client that goes away in the middle of its file', async (t) => {
  const { url, keys, pool, work, call } = await open(t)
  const outgoing = request(`${url}/customers/import`, {
    method: 'POST',
    headers: { authorization: `Bearer ${keys.admin}`, 'content-type': 'text/csv' },
  })
  outgoing.on('error', () => {})
  outgoing.write('email\nada@example.com\n')
  outgoing.write('x@example.com\n'.repeat(30_000))
  await eventually(async () => (await pool.query('select 1 from import_chunks')).rowCount, { what: 'a first piece' })
  t.match(await call('GET', '/imports'), { body: { data: [] } }, 'it is none yet')
  t.equal(await work(), false, 'and nobody works on it')
  outgoing.destroy()
  await eventually(async () => (await pool.query('select 1 from imports')).rowCount === 0, { what: 'its end' })
  t.equal((await pool.query('select 1 from import_chunks')).rowCount, 0)
  t.equal((await pool.query('select 1 from users')).rowCount, 0)
})

t.test('an upload that is cancelled while it waits, and while a worker goes on with it', async (t) => {
  const { send, work, call, pool, keys } = await open(t)
  const { body: waiting } = await send('email\nada@example.com\n')
  isProblem(t, await call('POST', `/imports/${waiting.id}/cancel`, { key: keys.other }), 404, 'not_found')
  t.match(await call('POST', `/imports/${waiting.id}/cancel`, { key: keys.manager }), {
    status: 200,
    body: { id: waiting.id, status: 'cancelled', lines: 0, counts: { created: 0 }, error: null, finishedAt: String },
  })
  t.equal((await pool.query('select 1 from import_chunks')).rowCount, 0, 'the file is not kept')
  t.equal(await work(), false, 'nobody works on it')
  t.match((await call('GET', '/imports')).body.data, [{ id: waiting.id, status: 'cancelled' }])

  // It goes on near the end of the file, which goes before it gets there: no error of anybody's.
  const lines = Array.from({ length: 600 }, (_, n) => `u${n}@example.com,${'x'.repeat(600)}`).join('\n')
  const { body: half } = await send(`email,description\n${lines}`)
  await pool.query("update imports set status = 'running', lines = 590, digest = 'x' where id = $1", [half.id])
  await pool.query(`create function cancel_it() returns trigger language plpgsql as $$ begin
      delete from import_chunks where import_id = new.id and position > 0;
      new.status := 'cancelled';
      return new;
    end $$`)
  await pool.query(
    `create trigger cancel_it before update of lease_token on imports for each row execute function cancel_it()`,
  )
  t.equal(await work(), true)
  await pool.query('drop trigger cancel_it on imports')
  t.match((await call('GET', `/imports/${half.id}`)).body, { status: 'cancelled', lines: 590, error: null })

  const { body: done } = await send('email\nada@example.com\n')
  await work()
  isProblem(t, await call('POST', `/imports/${done.id}/cancel`), 409, 'import_ended')
})

const NASTY = [
  { type: 'anonymous', description: '=HYPERLINK("http://x","y")' },
  { email: 'a@example.com', firstName: "'=1", lastName: '-2+3', metadata: { 'a key,"': '@x', z: ' \r\n' } },
  { phone: '+14155550100', description: 'one\ntwo\r\nthree\r"four", ＝５', locale: 'de-CH' },
  { type: 'new', firstName: 'Ünï💣', address: { line1: '"', country: 'DE' }, metadata: { rare: "''+" } },
  {
    email: 'same@example.com',
    shipping: { name: '\u2028N', phone: '+14155550101', address: { city: 'Rome', country: 'IT' } },
  },
  { email: 'same@example.com', metadata: { '=key': 'v' } },
]

t.test('what is exported is imported as it was', async (t) => {
  for (const format of ['csv', 'ndjson']) {
    const here = await open(t)
    for (const body of NASTY) t.equal((await here.call('POST', '/customers', { body })).status, 201)
    const { body: file, headers } = await here.call('GET', `/customers/export?format=${format}`)
    const type = headers.get('content-type')?.split(';')[0] ?? ''
    t.equal(headers.get('cache-control'), 'no-store')
    t.match(headers.get('content-disposition'), new RegExp(`customers-.*\\.${format}"`))
    const exported = async (api: typeof here, key?: string) =>
      (await api.call('GET', `/customers/export?format=ndjson`, key === undefined ? {} : { key })).body as string
    const withoutIds = (text: string) => text.replace(/"id":"[^"]+",/g, '')

    const there = await open(t)
    t.match(await there.run(file, '', { type }), { counts: { created: NASTY.length, failed: 0 } })
    t.equal(await exported(there), await exported(here), `${format}: the same in an empty database, with the same ids`)
    t.equal(
      (await there.call('GET', `/customers/export?format=${format}`)).body,
      file,
      'and the file is the same again',
    )

    t.match(await here.run(file, '?onMatch=update', { type }), { counts: { unchanged: NASTY.length } })
    const { other } = here.keys
    t.match(await here.run(file, '', { type, key: other }), { counts: { created: NASTY.length } })
    t.equal(withoutIds(await exported(here, other)), withoutIds(await exported(here)), 'the same for another tenant')
    t.match(
      await here.run(file, '?onMatch=update', { type, key: other }),
      { counts: { unchanged: NASTY.length } },
      'also again',
    )
    const cells = format === 'csv' ? (parse(file) as string[][]).flat() : []
    t.strictSame(
      cells.filter((cell) => /^\s*[=+\-@＝]/.test(cell)),
      [],
      'no cell is a formula',
    )
  }
})

t.test('an export takes the filters, needs its permissions and is noted', async (t) => {
  const { call, pool, keys } = await open(t)
  for (const email of ['ada@example.com', 'bob@example.com']) await call('POST', '/customers', { body: { email } })
  const { body: gone } = await call('POST', '/customers', { body: { email: 'gone@example.com' } })
  await call('DELETE', `/customers/${gone.id}`)
  const lines = (text: string) => text.split('\r\n').slice(1, -1)
  t.equal(lines((await call('GET', '/customers/export')).body).length, 2)
  t.match(lines((await call('GET', '/customers/export?email=BOB@example.com', { key: keys.manager })).body), [
    /,bob@example.com,/,
  ])
  t.match(lines((await call('GET', '/customers/export?state=archived')).body), [/archived,.*gone@/])
  t.equal(lines((await call('GET', '/customers/export', { key: keys.other })).body).length, 0)
  t.equal((await call('GET', '/customers/export?q=nobody&format=ndjson')).body, '')
  const { rows } = await pool.query("select action, changes from audit_log where entity = 'export' order by at")
  t.equal(rows.length, 10)
  t.match(rows.slice(2, 4), [
    { action: 'export.start', changes: { format: 'csv', filters: ['email'] } },
    { action: 'export.finish', changes: { format: 'csv', filters: ['email'], count: 1, isComplete: true } },
  ])
  t.notMatch(JSON.stringify(rows), /bob/i)

  isProblem(t, await call('GET', '/customers/export', { key: keys.viewer }), 403, 'permission_denied')
  const { body: blind } = await call('POST', '/api-keys', {
    body: { name: 'x', role: 'admin', scopes: ['customers:read', 'customers:export'] },
  })
  const refused = await call('GET', '/customers/export', { key: blind.key })
  isProblem(t, refused, 403, 'permission_denied')
  t.match(refused.body.detail, 'pii:read')
  const { body: writer } = await call('POST', '/api-keys', {
    body: { name: 'x', role: 'admin', scopes: ['customers:read', 'customers:write'] },
  })
  const guess = await call('POST', '/customers/import?onMatch=fail&dryRun=true', {
    key: writer.key,
    body: 'email\nada@example.com\n',
    headers: { 'content-type': 'text/csv' },
  })
  isProblem(t, guess, 403, 'permission_denied')
  t.match(guess.body.detail, 'pii:read', 'it would tell who is known')
  isProblem(t, await call('GET', '/customers/export?limit=5'), 400, 'validation_failed', 'limit')
  isProblem(
    t,
    await call('GET', '/customers/export?createdFrom=2026-02-30T00:00:00Z'),
    400,
    'validation_failed',
    'createdFrom',
  )
  t.equal((await call('HEAD', '/customers/export')).status, 400, 'it is no id')
  const { rows: after } = await pool.query("select 1 from audit_log where entity = 'export'")
  t.equal(after.length, 10)
})

t.test('a client that goes away in the middle of an export', async (t) => {
  const { url, keys, pool } = await open(t)
  await pool.query(
    "insert into users (email, description) select 'u' || n || '@example.com', repeat('x', 5000) from generate_series(1, 5000) n",
  )
  const outgoing = request(`${url}/customers/export`, { headers: { authorization: `Bearer ${keys.admin}` } })
  outgoing.on('error', () => {})
  outgoing.end()
  const [answer] = await once(outgoing, 'response')
  await once(answer, 'data')
  answer.on('error', () => {})
  outgoing.destroy()
  const end = await eventually(
    async () => (await pool.query("select changes from audit_log where action = 'export.finish'")).rows[0]?.changes,
    { what: 'the note of its end' },
  )
  t.match(end, { isComplete: false })
  t.ok(end.count < 5_000, `${end.count} were read: no more than the client took, and what is between`)
})

t.test('with a worker, to Stripe', async (t) => {
  const service = await startService(t)
  const file = `email,firstName\n${Array.from({ length: 25 }, (_, n) => `u${n}@example.com,N${n}`).join('\n')}`
  const id = await eventually(async () => {
    const answer = await fetch(`${service.app.apiUrl}/customers/import`, {
      method: 'POST',
      body: file,
      headers: { 'content-type': 'text/csv', authorization: `Bearer ${service.adminKey}` },
    })
    return ((await answer.json()) as { id: string }).id
  })
  await eventually(async () => (await service.api('GET', `/imports/${id}`)).body.status === 'succeeded', {
    timeout: 30_000,
  })
  await service.quiet()
  t.equal(service.stripeCustomers().length, 25)
})
