import { appendFile, chown, cp, mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { Test } from 'tap'
import { startEmbeddedPostgres } from '../../src/embedded/postgres.js'
import { migrate } from '../../src/repositories/migrate.js'
import { testLog as log } from './log.js'

/** A primary and its streaming replica, both of this test's own. */
export interface ReplicatedPostgres {
  /** Of the primary, whose database is migrated. */
  url: string
  pool: pg.Pool
  replicaUrl: string
  /** Sends a statement to the replica. */
  onReplica(sql: string): Promise<pg.QueryResult>
  stopReplica(): Promise<void>
  startReplica(): Promise<void>
}

/** Starts both; they end with the test. */
export async function startReplicatedPostgres(t: Test): Promise<ReplicatedPostgres> {
  const [primaryDir, replicaDir] = await Promise.all(
    ['primary', 'replica'].map((name) => mkdtemp(join(tmpdir(), `lockstep-test-${name}-`))),
  )
  if (primaryDir === undefined || replicaDir === undefined) throw new Error('no folders')
  t.teardown(async () => {
    await Promise.all([primaryDir, replicaDir].map((dir) => rm(dir, { recursive: true, force: true })))
  })
  const start = (dataDir: string) => startEmbeddedPostgres({ dataDir, durable: false, log })

  // A server that was stopped is copied as it is.
  const primary = await start(primaryDir)
  await primary.close()
  await copyServer(primaryDir, replicaDir, primary.url)
  const running = await start(primaryDir)
  t.teardown(() => running.close())
  await migrate(running.url, { log })
  let replica = await start(replicaDir)
  t.teardown(() => replica.close())

  const pool = new pg.Pool({ connectionString: running.url })
  t.teardown(() => pool.end())
  return {
    url: running.url,
    pool,
    replicaUrl: replica.url,
    async onReplica(sql) {
      const client = new pg.Client({ connectionString: replica.url })
      await client.connect()
      return client.query(sql).finally(() => client.end())
    },
    stopReplica: () => replica.close(),
    async startReplica() {
      replica = await start(replicaDir)
    },
  }
}

/** Copies the files of a server, and has the copy follow it. */
async function copyServer(from: string, to: string, primaryUrl: string): Promise<void> {
  const data = join(to, 'postgres', 'data')
  await mkdir(join(to, 'postgres'), { mode: 0o700 })
  await cp(join(from, 'postgres', 'data'), data, { recursive: true, preserveTimestamps: true })
  await cp(join(from, 'secrets'), join(to, 'secrets'), { recursive: true })
  const { hostname, port, username, password } = new URL(primaryUrl)
  const conninfo = `host=${hostname} port=${port} user=${username} password=${password}`
  await appendFile(join(data, 'postgresql.auto.conf'), `primary_conninfo = '${conninfo}'\n`)
  await writeFile(join(data, 'standby.signal'), '')
  // Where root runs it as another account, the files are that one's.
  const { uid, gid } = await stat(join(from, 'postgres', 'data'))
  if (process.getuid?.() !== 0 || uid === 0) return
  for (const entry of await readdir(data, { recursive: true })) await chown(join(data, entry), uid, gid)
  await chown(data, uid, gid)
}
