import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { DEFAULT_SETTINGS } from '../../src/models/tenant.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { type ImportRequest, makeImportService } from '../../src/services/import.service.js'
import { makeImportWorker } from '../../src/services/import-worker.js'
import { cloneDatabase } from '../helpers/database.js'
import { testVault } from '../helpers/vault.js'

const NEVER = new AbortController().signal

async function open(t: Test) {
  const { pool } = await cloneDatabase(t)
  let wakes = 0
  const prisma = openPrisma(pool)
  const imports = makeImportService({ prisma })
  const worker = makeImportWorker({
    prisma,
    vault: testVault(),
    settingsOf: async () => ({ ...DEFAULT_SETTINGS }),
    wake() {
      wakes += 1
    },
  })
  const tenantId = (await pool.query('select id from tenants')).rows[0].id as string
  const by = { tenantId, actor: 'test', requestId: newId(), ip: null }
  const request: ImportRequest = { format: 'csv', onMatch: 'skip', dryRun: false }
  const source = (file: string) => Readable.from([Buffer.from(file)])

  /** Imports a file and answers how it ended. */
  async function run(file: string, change: Partial<ImportRequest> = {}, who = by) {
    const id = await imports.start(who, { ...request, ...change })
    const ended = await worker.execute(who.tenantId, id, source(file), NEVER)
    if (ended === null) throw new Error('it did not end')
    const { data: errors } = await imports.errors(who.tenantId, id, { limit: 100 })
    const { created, updated, unchanged, skipped, failed } = ended.counts
    return { ...ended, sum: [created, updated, unchanged, skipped, failed], errors }
  }
  const users = async (columns = 'email', owner = tenantId) =>
    (await pool.query(`select ${columns} from users where tenant_id = $1 order by email, id`, [owner])).rows
  return { pool, imports, worker, by, request, source, run, users, wakes: () => wakes }
}

const many = (count: number, line: (n: number) => string) => Array.from({ length: count }, (_, n) => line(n)).join('\n')

t.test('lines go by the rules of the API, each by itself', async (t) => {
  const { run, users, pool, wakes } = await open(t)
  const result = await run(
    [
      'email,phone,firstName,address.country,metadata.tier,metadata.lockstep_x,type',
      ' Ada@example.com ,(415) 555-0100,Ada,us,gold,,',
      'not an e-mail,,,,,,',
      ',,,,,,',
      ',,Bob,,,,',
      'c@example.com,12,,ZZ,,x,',
      ',,,,,,anonymous',
      'd@example.com,,,,,,odd',
      ',,,,\0,,anonymous',
    ].join('\n'),
  )
  t.match(result, { status: 'succeeded', lines: 7, sum: [2, 0, 0, 0, 5] })
  t.strictSame(
    result.errors.map(({ line, errors }) => [line, ...errors.map(({ path }) => path)]),
    [
      [3, 'email'],
      [5, 'email', 'phone'],
      [6, 'phone', 'address.country', 'metadata.lockstep_x'],
      [8, 'type'],
      [9, 'metadata.tier'],
    ],
  )
  t.match(await users('email, phone, first_name, address, metadata, type'), [
    { email: 'Ada@example.com', phone: '+14155550100', address: { country: 'US' }, metadata: { tier: 'gold' } },
    { email: null, type: 'anonymous' },
  ])
  t.ok(wakes() > 0, 'the relay is told')
  const { rows: audit } = await pool.query('select action, changes from audit_log order by at, id')
  t.match(audit.map(({ action }) => action).sort(), [
    'customer.create',
    'customer.create',
    'import.create',
    'import.finish',
  ])
  t.notMatch(JSON.stringify(audit), /ada@|"ada/i, 'without personal data')
  t.equal((await pool.query('select count(*)::int as n from sync_state where dirty')).rows[0].n, 2)
})

t.test('two lines of one person', async (t) => {
  const { run, users, pool } = await open(t)
  const file =
    'email,phone,lastName\na@example.com,,One\nA@EXAMPLE.com,,Two\n,+14155550100,Three\nb@example.com,+14155550100,Four\n'
  t.match(await run(file, { onMatch: 'fail' }), {
    sum: [2, 0, 0, 0, 2],
    errors: [
      { line: 3, errors: [{ path: 'email', code: 'customer_exists' }] },
      { line: 5, errors: [{ path: 'phone', code: 'customer_exists' }] },
    ],
  })
  t.match(await run(file, { onMatch: 'skip' }), { sum: [0, 0, 0, 4, 0] })
  t.match(await run(file, { onMatch: 'update' }), { sum: [0, 2, 2, 0, 0] })
  t.match(await users('email, phone, last_name'), [
    { email: 'A@EXAMPLE.com', last_name: 'Two' },
    { email: 'b@example.com', phone: '+14155550100', last_name: 'Four' },
  ])
  await pool.query("insert into users (email) values ('twice@example.com'), ('Twice@example.com')")
  t.match(await run('email,phone\ntwice@example.com,\na@example.com,+14155550100', { onMatch: 'update' }), {
    sum: [0, 0, 0, 0, 2],
    errors: [{ errors: [{ code: 'ambiguous_match' }] }, { errors: [{ code: 'ambiguous_match' }] }],
  })
  t.match(
    await run('email,phone,lastName\na@example.com,+14155550111,\n,+14155550111,Five', { onMatch: 'update' }),
    { sum: [0, 2, 0, 0, 0] },
    'a line sees what the line before it changed',
  )
})

t.test('an update is a merge patch', async (t) => {
  const { run, users } = await open(t)
  await run('email,firstName,description,metadata.a,metadata.b\na@example.com,Ada,old,1,2')
  t.match(await run('email,firstName,description,metadata.b\na@example.com,,new,3', { onMatch: 'update' }), {
    sum: [0, 1, 0, 0, 0],
  })
  t.match(await users('first_name, description, metadata'), [
    { first_name: 'Ada', description: 'new', metadata: { a: '1', b: '3' } },
  ])
  const line = '{"email":"a@example.com","firstName":null,"metadata":{"a":null}}'
  t.match(await run(line, { format: 'ndjson', onMatch: 'update' }), { sum: [0, 1, 0, 0, 0] })
  t.strictSame(await users('first_name, metadata'), [{ first_name: null, metadata: { b: '3' } }])
  t.match(await run('email,type\na@example.com,odd', { onMatch: 'update' }), { sum: [0, 0, 0, 0, 1] })
})

t.test('ids', async (t) => {
  const { run, users, pool, by } = await open(t)
  const [one, two, foreign] = [newId(), newId(), newId()]
  const other = newId()
  await pool.query("insert into tenants (id, slug, name) values ($1, 'other', 'Other')", [other])
  await pool.query("insert into users (id, tenant_id, email) values ($1, $2, 'theirs@example.com')", [foreign, other])
  const file = `id,email\n${one},same@example.com\n${two.toUpperCase()},same@example.com\n${foreign},mine@example.com\n`
  t.match(await run(file), { sum: [3, 0, 0, 0, 0] }, 'who has an id is matched by nothing else')
  const rows = await users('id, email')
  t.strictSame(
    rows.map(({ email }) => email),
    ['mine@example.com', 'same@example.com', 'same@example.com'],
  )
  t.strictSame(
    rows.slice(1).map(({ id }) => id),
    [one, two].sort(),
  )
  t.not(rows[0].id, foreign, 'as if it were free')
  t.match(await users('email', other), [{ email: 'theirs@example.com' }])
  t.match(await run(file), { sum: [0, 0, 0, 3, 0] }, 'and found again')
  t.match(await run(`id,firstName\n${foreign},Zoe`, { onMatch: 'update' }), { sum: [0, 1, 0, 0, 0] })
  t.match(await users('email, first_name', other), [{ email: 'theirs@example.com', first_name: null }])

  await pool.query("update users set state = 'archived', archived_at = now() where id = $1", [one])
  t.match(await run(`id,firstName\n${one},Zoe`, { onMatch: 'update' }), {
    errors: [{ errors: [{ code: 'customer_archived' }] }],
  })
  t.match(await run(`email,state\nz@example.com,archived\n`), { sum: [0, 0, 0, 1, 0] }, 'brings nobody back')
  t.equal((await pool.query('select 1 from users where tenant_id = $1', [by.tenantId])).rowCount, 3)
})

t.test('the same file again makes nobody twice, with or without contacts', async (t) => {
  const { run, users, pool, by } = await open(t)
  const file = `type,firstName,email\n${many(450, (n) => (n % 2 ? `unregistered,Same,` : `anonymous,,u${n}@example.com`))}`
  t.match(await run(file), { sum: [450, 0, 0, 0, 0] })
  await pool.query("update users set email = 'changed@example.com' where email = 'u2@example.com'")
  t.match(await run(file), { sum: [0, 0, 0, 450, 0] })
  t.match(await run(file.replaceAll('\n', '\r\n'), { onMatch: 'fail' }), { sum: [0, 0, 0, 0, 450] })
  t.equal((await users()).length, 450)
  const ids = (await users('id')).map(({ id }) => id as string)
  t.ok(ids.every((id) => /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab]/.test(id)))
  const other = { ...by, tenantId: newId() }
  await pool.query("insert into tenants (id, slug, name) values ($1, 'other', 'Other')", [other.tenantId])
  t.match(await run(file, {}, other), { sum: [450, 0, 0, 0, 0] })
  t.notOk(
    (await users('id', other.tenantId)).some(({ id }) => ids.includes(id)),
    'an id does not tell what the file said',
  )
})

t.test('at many places at once', async (t) => {
  const { run, users } = await open(t)
  const file = `email,phone,firstName,type\n${many(300, (n) => `u${n % 250}@example.com,,x,\n,+1415555${1000 + n},y,\n,,nobody,new`)}`
  const all = await Promise.all([run(file), run(file), run(file, { onMatch: 'update' })])
  t.equal((await users()).length, 250 + 300 + 300)
  t.equal(
    all.reduce((sum, { counts }) => sum + counts.created, 0),
    850,
  )
  for (const { sum } of all) t.equal(sum[4], 0)
})

t.test('goes on where it stopped', async (t) => {
  const { imports, worker, by, request, source, users, run } = await open(t)
  const file = `email,type\n${many(1_000, (n) => (n % 3 ? `u${n}@example.com,` : ',anonymous'))}`
  const id = await imports.start(by, { ...request, onMatch: 'fail' })
  const stop = new AbortController()
  const stopped = await worker.execute(by.tenantId, id, source(file), stop.signal, (_counts, lines) => {
    if (lines >= 399) stop.abort()
  })
  t.equal(stopped, null)
  t.match(await imports.get(by.tenantId, id), { status: 'running', lines: 399, counts: { created: 399 } })
  t.equal((await users()).length, 399)
  await t.rejects(worker.execute(by.tenantId, id, source(file.replace('u1@', 'x1@')), NEVER), { code: 'another_file' })
  await t.rejects(worker.execute(by.tenantId, id, source(file.slice(0, 500)), NEVER), { code: 'another_file' })
  t.match(await worker.execute(by.tenantId, id, source(file), NEVER), {
    status: 'succeeded',
    lines: 1_000,
    counts: { created: 1_000, failed: 0 },
  })
  t.equal(await worker.execute(by.tenantId, id, source(file), NEVER), null, 'what has ended is left alone')
  t.equal((await users()).length, 1_000)
  t.match(await run(file), { sum: [0, 0, 0, 1_000, 0] })
})

t.test('a worker that lost its lease writes nothing more', async (t) => {
  const { imports, worker, by, request, source, users, pool } = await open(t)
  const file = `email\n${many(600, (n) => `u${n}@example.com`)}`
  const id = await imports.start(by, request)
  async function* slow() {
    yield Buffer.from(file.slice(0, file.indexOf('u300@')))
    await pool.query('update imports set lease_token = lease_token + 1')
    yield Buffer.from(file.slice(file.indexOf('u300@')))
  }
  t.equal(await worker.execute(by.tenantId, id, slow(), NEVER), null)
  t.equal((await users()).length, 199)
  t.equal(await worker.execute(by.tenantId, id, source(file), NEVER), null, 'someone else has it')
  await pool.query("update imports set lease_expires_at = now() - interval '1 second'")
  t.match(await worker.execute(by.tenantId, id, source(file), NEVER), { lines: 600, counts: { created: 600 } })
})

t.test('cancelled in the middle: what is done stands, and nothing more is written', async (t) => {
  const { imports, worker, by, request, source, users, pool } = await open(t)
  const file = `email\n${many(600, (n) => `u${n}@example.com`)}`
  for (const dryRun of [false, true]) {
    const id = await imports.start(by, { ...request, dryRun })
    async function* slow() {
      yield Buffer.from(file.slice(0, file.indexOf('u300@')))
      t.match(await imports.cancel(by, id), { status: 'cancelled', lines: 199, error: null })
      yield Buffer.from(file.slice(file.indexOf('u300@')))
    }
    t.equal(await worker.execute(by.tenantId, id, slow(), NEVER), null)
    t.equal((await users()).length, 199)
    const ended = await imports.get(by.tenantId, id)
    t.match(ended, { status: 'cancelled', lines: 199, finishedAt: String })
    t.match(ended.counts, dryRun ? { created: 0, skipped: 199 } : { created: 199 })
    t.equal(await worker.execute(by.tenantId, id, source(file), NEVER), null, 'nobody goes on with it')
    t.strictSame(await imports.cancel(by, id), ended, 'again: it is what it was')
    const { rows } = await pool.query('select action, changes from audit_log where entity_id = $1 order by at', [id])
    t.match(rows, [{ action: 'import.create' }, { action: 'import.cancel', changes: { lines: 199 } }])
  }
  t.equal((await pool.query('select 1 from import_seen')).rowCount, 0)
  const done = await imports.start(by, request)
  await worker.execute(by.tenantId, done, source(file), NEVER)
  await t.rejects(imports.cancel(by, done), { code: 'import_ended' })
  await t.rejects(imports.cancel(by, newId()), { code: 'not_found' })
})

t.test('a dry run says what the run would do, and changes nothing', async (t) => {
  const { run, users, pool } = await open(t)
  const file = `email,firstName,type\n${many(450, (n) => `u${n % 400}@example.com,${n % 7 ? `N${n}` : ''},${n % 50 ? '' : 'odd'}\n,,anonymous`)}`
  await run(file.split('\n').slice(0, 100).join('\n'))
  const before = JSON.stringify(
    (await pool.query('select * from users u join sync_state s on s.user_id = u.id order by u.id')).rows,
  )
  const audit = async () => (await pool.query("select 1 from audit_log where entity = 'customer'")).rowCount
  const entries = await audit()
  for (const onMatch of ['skip', 'update', 'fail'] as const) {
    const dry = await run(file, { onMatch, dryRun: true })
    t.equal(
      JSON.stringify(
        (await pool.query('select * from users u join sync_state s on s.user_id = u.id order by u.id')).rows,
      ),
      before,
    )
    t.equal(await audit(), entries)
    const copy = await open(t)
    await copy.run(file.split('\n').slice(0, 100).join('\n'))
    const real = await copy.run(file, { onMatch })
    t.strictSame(dry.sum, real.sum, onMatch)
    t.strictSame(
      dry.errors.map(({ line }) => line),
      real.errors.map(({ line }) => line),
    )
  }
  t.equal((await pool.query('select 1 from import_seen')).rowCount, 0, 'and nothing of it is kept')
  t.ok((await users()).length > 0)
})

t.test('what the application’s own constraints refuse costs only its line', async (t) => {
  const { run, users, pool } = await open(t)
  await pool.query("alter table users add constraint no_bob check (first_name <> 'Bob')")
  const result = await run(`email,firstName\n${many(50, (n) => `u${n}@example.com,${n === 20 ? 'Bob' : 'Ada'}`)}`)
  t.match(result, {
    sum: [49, 0, 0, 0, 1],
    errors: [{ line: 22, errors: [{ code: 'users_constraint', message: /constraint no_bob/ }] }],
  })
  t.equal((await users()).length, 49)
})

t.test('a file that breaks off in the middle of a quote', async (t) => {
  const { run, users } = await open(t)
  const result = await run(`email\n${many(250, (n) => `u${n}@example.com`)}\n"u250@example.com\nu251@example.com`)
  t.match(result, {
    status: 'failed',
    error: { code: 'invalid_file', message: /line 252: has a quote that is never closed/ },
  })
  t.equal((await users()).length, 250, 'the lines before it stand')
})
