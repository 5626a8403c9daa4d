import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import type { Test } from 'tap'
import t from 'tap'
import { attachEmbeddedPostgres, startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { testLog as log } from '../helpers/log.js'
import { spawnSource } from '../helpers/source-process.js'
import { eventually } from '../helpers/wait.js'

const userFile = fileURLToPath(new URL('../fixtures/postgres-user.ts', import.meta.url))

/** Not `t.testdir()`: within the project it may lie where the account that Postgres runs as cannot get to. */
async function newDataDir(t: Test): Promise<string> {
  const dataDir = await mkdtemp(join(tmpdir(), 'lockstep-postgres-'))
  t.teardown(() => rm(dataDir, { recursive: true, force: true }))
  return dataDir
}

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query(sql)).rows
  } finally {
    await client.end()
  }
}

const startTimeOf = async (url: string) => (await query(url, 'select pg_postmaster_start_time()::text as at'))[0]?.at

async function spawnUser(t: Test, dataDir: string): Promise<{ child: ChildProcess; url: string }> {
  const child = spawnSource([userFile, dataDir])
  t.teardown(() => child.kill('SIGKILL'))
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  return { child, url: line.toString().trim() }
}

t.test('starts, keeps its data and its address over a restart, and stops', async (t) => {
  const dataDir = await newDataDir(t)
  t.equal(await attachEmbeddedPostgres(dataDir), null, 'nothing runs yet')
  const first = await startEmbeddedPostgres({ dataDir, log })
  await query(first.url, 'create table kept (id int); insert into kept values (1)')
  const [settings] = await query(
    first.url,
    `select current_setting('fsync') as fsync, current_setting('synchronous_commit') as sync,
       current_setting('listen_addresses') as host, current_setting('server_encoding') as encoding, current_database() as name`,
  )
  t.same(settings, { fsync: 'on', sync: 'on', host: '127.0.0.1', encoding: 'UTF8', name: 'lockstep' })
  const [buffers] = await query(first.url, "select pg_size_bytes(current_setting('shared_buffers')) as size")
  const eighth = totalmem() / 8
  t.ok(Number(buffers?.size) >= 128 * 2 ** 20, 'no less than Postgres takes by itself')
  t.ok(
    Number(buffers?.size) <= Math.max(128 * 2 ** 20, Math.min(eighth, 2 ** 30)),
    'an eighth of the memory, 1 GB at the most',
  )
  if (eighth >= 2 ** 30 && process.constrainedMemory() >= totalmem()) t.equal(Number(buffers?.size), 2 ** 30)
  t.equal(await attachEmbeddedPostgres(dataDir), first.url)
  await first.close()
  await first.close()
  t.equal(await attachEmbeddedPostgres(dataDir), null, 'it has stopped')

  const second = await startEmbeddedPostgres({ dataDir, durable: false, log })
  t.teardown(() => second.close())
  t.equal(second.url, first.url)
  t.same(await query(second.url, 'select id from kept'), [{ id: 1 }])
  t.same(await query(second.url, 'show fsync'), [{ fsync: 'off' }])
})

t.test('keeps strangers out: only the password lets in, and only its owner can read it', async (t) => {
  const dataDir = await newDataDir(t)
  const postgres = await startEmbeddedPostgres({ dataDir, durable: false, log })
  t.teardown(() => postgres.close())
  const url = new URL(postgres.url)
  url.password = 'guess'
  await t.rejects(query(url.href, 'select 1'), { code: '28P01' })
  const path = join(dataDir, 'secrets', 'postgres-password')
  t.equal((await stat(path)).mode & 0o777, 0o600)
  t.equal((await readFile(path, 'utf8')).trim(), new URL(postgres.url).password)
})

t.test('outlives the kill of its process; the next one takes it over and stops it', async (t) => {
  const dataDir = await newDataDir(t)
  const { child, url } = await spawnUser(t, dataDir)
  const started = await startTimeOf(url)
  child.kill('SIGKILL')
  await once(child, 'exit')
  t.equal(await startTimeOf(url), started, 'it still runs')

  const next = await startEmbeddedPostgres({ dataDir, log })
  t.equal(next.url, url)
  t.equal(await startTimeOf(next.url), started, 'and it is the same server')
  await next.close()
  await t.rejects(query(url, 'select 1'), { code: 'ECONNREFUSED' })
})

t.test('is shared by processes; the last one to close stops it', async (t) => {
  const dataDir = await newDataDir(t)
  // Both at once, on a new data directory: one makes it, the other joins.
  const [{ child, url }, own] = await Promise.all([
    spawnUser(t, dataDir),
    startEmbeddedPostgres({ dataDir, durable: false, log }),
  ])
  t.equal(own.url, url)
  await own.close()
  t.ok(await startTimeOf(url), 'the other still uses it')
  child.stdin?.write('close\n')
  await once(child, 'exit')
  t.equal(child.exitCode, 0)
  await t.rejects(query(url, 'select 1'), { code: 'ECONNREFUSED' })
})

t.test('is not in the terminal session of the process that started it', async (t) => {
  const dataDir = await newDataDir(t)
  const postgres = await startEmbeddedPostgres({ dataDir, durable: false, log })
  t.teardown(() => postgres.close())
  const pid = Number((await readFile(join(dataDir, 'postgres', 'data', 'postmaster.pid'), 'utf8')).split('\n')[0])
  const group = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  if (group === undefined) t.comment('no /proc here')
  else t.equal(Number(group.slice(group.lastIndexOf(')') + 2).split(' ')[2]), pid, 'it leads its own process group')
})

t.test('starts after a crash of the machine: stale pid files, and a half-made cluster', async (t) => {
  const dataDir = await newDataDir(t)
  const root = join(dataDir, 'postgres')
  await mkdir(join(root, 'data.new'), { recursive: true })
  await writeFile(join(root, 'data.new', 'half'), 'made')
  await writeFile(join(root, 'lock'), '999999 another-boot 1')
  const first = await startEmbeddedPostgres({ dataDir, durable: false, log })
  await first.close()

  const pidFile = join(root, 'data', 'postmaster.pid')
  // This process's id, as if Postgres had had it before a reboot.
  await writeFile(pidFile, [process.pid, join(root, 'data'), 1, 5432, '', '127.0.0.1', '', 'ready', ''].join('\n'))
  t.equal(await attachEmbeddedPostgres(dataDir), null)
  const second = await startEmbeddedPostgres({ dataDir, durable: false, log })
  t.ok(await eventually(() => startTimeOf(second.url)))
  await second.close()
})

t.test('says why it does not start', async (t) => {
  const dataDir = await newDataDir(t)
  const first = await startEmbeddedPostgres({ dataDir, durable: false, log })
  await first.close()
  await writeFile(join(dataDir, 'postgres', 'data', 'postgresql.conf'), 'no_such_setting = 1\n')
  await t.rejects(startEmbeddedPostgres({ dataDir, durable: false, log }), {
    code: 'embedded_postgres_failed',
    message: /no_such_setting/,
  })
})
