import { once } from 'node:events'
import { lstat, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { newId } from '../../src/lib/ids.js'
import { cloneDatabase } from '../helpers/database.js'
import { spawnSource } from '../helpers/source-process.js'
import { eventually } from '../helpers/wait.js'

// Each command compiles what it runs, on a machine that may be busy.
t.setTimeout(600_000)

async function open(t: Test) {
  const { url, pool } = await cloneDatabase(t)
  const folder = await mkdtemp(join(tmpdir(), 'lockstep-files-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  const env = { PATH: process.env.PATH, HOME: process.env.HOME, DATABASE_URL: url, LOCKSTEP_DATA_DIR: folder }

  function begin(...args: string[]) {
    const child = spawnSource(['src/cli.ts', ...args], env)
    const result = { child, out: '', err: '', code: once(child, 'close').then(([code]) => code as number | null) }
    child.stdout.on('data', (chunk) => (result.out += chunk))
    child.stderr.on('data', (chunk) => (result.err += chunk))
    return result
  }
  async function command(args: string[], input?: string) {
    const running = begin(...args)
    running.child.stdin.end(input ?? '')
    return { code: await running.code, out: running.out, err: running.err }
  }
  const count = async () => (await pool.query('select count(*)::int as n from users')).rows[0].n as number
  return { pool, folder, begin, command, count, path: (name: string) => join(folder, name) }
}

t.test('import: exit codes, report, dry run; export', async (t) => {
  const { command, count, path, pool, folder } = await open(t)
  await writeFile(path('a.csv'), 'email,firstName\nada@example.com,Ada\nsecret-bob,Bob\n')
  const dry = await command(['import', path('a.csv'), '--dry-run', '--json'])
  t.match(JSON.parse(dry.out), { dryRun: true, counts: { created: 1, failed: 1 } })
  t.equal(await count(), 0)

  const first = await command(['import', path('a.csv'), '--errors', path('report.ndjson')])
  t.equal(first.code, 1, 'a line was refused')
  t.match(first.out, 'Done: 2 lines; 1 created, 0 updated, 0 unchanged, 0 skipped, 1 failed.')
  t.strictSame(JSON.parse(await readFile(path('report.ndjson'), 'utf8')), {
    line: 3,
    errors: [{ path: 'email', code: 'invalid_email', message: 'is not an e-mail address' }],
  })
  t.notMatch(first.out + first.err, 'secret-bob')

  const second = await command(
    ['import', '-', '--format', 'ndjson', '--on-match', 'update'],
    '{"email":"ADA@example.com","lastName":"King"}',
  )
  t.equal(second.code, 0, second.err)
  t.match(second.out, '1 updated')
  const shown = await command(['import', path('a.csv')])
  t.match(shown.err, 'line 3: email: is not an e-mail address')

  for (const args of [
    ['import', path('a.txt')],
    ['import', path('none.csv')],
    ['import', path('a.csv'), '--tenant', 'nobody'],
    ['import', path('a.csv'), '--resume', newId()],
    // It goes on as it was begun, so that a dry run would not be one.
    ['import', path('a.csv'), '--resume', newId(), '--dry-run'],
    ['import', path('a.csv'), '--resume', newId(), '--on-match', 'update'],
  ]) {
    const { code, err } = await command(args)
    t.equal(code, 1, args.join(' '))
    t.notMatch(err, /\n\s+at /, 'without a stack')
  }

  const stdout = await command(['export'])
  t.equal(stdout.code, 0, stdout.err)
  t.match(stdout.out, /^id,state,type,email,.*\r\n.*,active,regular,ADA@example.com,/)
  t.equal((await command(['export', '--out', path('out.ndjson')])).code, 0)
  t.match(JSON.parse(await readFile(path('out.ndjson'), 'utf8')), { email: 'ADA@example.com', lastName: 'King' })
  t.equal((await stat(path('out.ndjson'))).mode & 0o077, 0, 'for nobody else’s eyes')
  t.notOk((await readdir(folder)).some((name) => name.endsWith('.part')))
  await symlink(path('elsewhere.ndjson'), path('link.ndjson'))
  t.equal((await command(['export', '--out', path('link.ndjson')])).code, 0)
  t.ok((await lstat(path('link.ndjson'))).isSymbolicLink(), 'what is not a file is written to, not replaced')
  t.match(await readFile(path('elsewhere.ndjson'), 'utf8'), 'ADA@example.com')

  await pool.query("insert into tenants (slug, name) values ('shop', 'Shop')")
  t.equal((await command(['import', path('out.ndjson'), '--tenant', 'shop'])).code, 0)
  t.match((await command(['export', '--tenant', 'shop', '--format', 'ndjson'])).out, 'ADA@example.com')
})

t.test('killed with -9 in the middle, then resumed: every line once', async (t) => {
  const { begin, command, count, path, pool } = await open(t)
  const total = 6_000
  const lines = Array.from({ length: total }, (_, n) => (n % 2 ? `anonymous,,${n}` : `regular,u${n}@example.com,${n}`))
  await writeFile(path('a.csv'), `type,email,metadata.n\n${lines.join('\n')}\n`)
  const killed = begin('import', path('a.csv'), '--on-match', 'fail')
  await eventually(async () => (await count()) >= 1_000, { timeout: 120_000, what: 'a thousand customers' })
  killed.child.kill('SIGKILL')
  await killed.code
  const before = await count()
  t.ok(before < total, `${before} were made`)
  const id = /Import (\S+)/.exec(killed.err)?.[1] ?? ''
  t.match((await pool.query('select status, lines from imports')).rows, [{ status: 'running', lines: before }])

  await writeFile(path('b.csv'), `type,email,metadata.n\nanonymous,,x\n${lines.join('\n')}\n`)
  const wrong = await command(['import', path('b.csv'), '--resume', id])
  t.equal(wrong.code, 1)
  t.match(wrong.err, 'not the file that the import began with')

  const resumed = await command(['import', path('a.csv'), '--resume', id])
  t.equal(resumed.code, 0, resumed.err)
  t.match(resumed.out, `Done: ${total} lines; ${total} created`)
  t.equal(await count(), total)
  t.equal((await pool.query("select count(distinct metadata->>'n')::int as n from users")).rows[0].n, total)
  t.equal(
    (await pool.query("select count(*)::int as n from audit_log where action = 'customer.create'")).rows[0].n,
    total,
  )

  t.match((await command(['import', path('a.csv'), '--resume', id])).err, 'has ended already')
  t.match((await command(['import', path('a.csv')])).out, `${total} skipped`)
})

t.test('Ctrl-C says how to go on', async (t) => {
  const { begin, command, count, path } = await open(t)
  await writeFile(path('a.ndjson'), Array.from({ length: 4_000 }, (_, n) => `{"email":"u${n}@example.com"}`).join('\n'))
  const running = begin('import', path('a.ndjson'))
  await eventually(async () => (await count()) > 0, { timeout: 120_000, what: 'a first batch' })
  running.child.kill('SIGINT')
  t.equal(await running.code, 1)
  const id = /--resume (\S+)/.exec(running.err)?.[1] ?? ''
  t.match(running.err, 'Interrupted. To go on: lockstep import')
  t.equal((await command(['import', path('a.ndjson'), '--resume', id])).code, 0)
  t.equal(await count(), 4_000)
})

t.test('import --cancel ends one that another process is at', async (t) => {
  const { begin, command, count, pool } = await open(t)
  const lines = (from: number) =>
    Array.from({ length: 1_000 }, (_, n) => `{"email":"u${from + n}@example.com"}\n`).join('')
  const running = begin('import', '-', '--format', 'ndjson')
  running.child.stdin.write(lines(0))
  await eventually(async () => (await count()) >= 800, { timeout: 120_000, what: 'the first batches' })
  const id = /Import (\S+)/.exec(running.err)?.[1] ?? ''
  const { code, out, err } = await command(['import', '--cancel', id])
  t.equal(code, 0, err)
  t.match(out, 'The import was CANCELLED; what was done stands.')
  const made = await count()
  running.child.stdin.end(lines(1_000))
  t.equal(await running.code, 1)
  t.match(running.out, 'The import was CANCELLED')
  t.equal(await count(), made, 'nothing more was written')
  t.match((await pool.query('select status, lines from imports')).rows, [{ status: 'cancelled', lines: made }])
  t.match((await command(['import', '-', '--format', 'ndjson', '--resume', id])).err, 'has ended already')
  t.match((await command(['import'])).err, "missing required argument 'file'")
})
