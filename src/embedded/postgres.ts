import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, chown, mkdir, open, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { totalmem } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { BaseLogger } from 'pino'
import type { PostgresBinaries, Runner } from './postgres-binaries.js'
import { chooseRunner, EmbeddedPostgresError, loadBinaries } from './postgres-binaries.js'
import { isAlive, joinUsers, withFileLock } from './process-files.js'
import { loadOrCreateSecret, randomSecret } from './secrets.js'

/** A running embedded Postgres, as one process sees it. */
export interface EmbeddedPostgres {
  /** A connection string for the database `lockstep`. */
  url: string
  /** Takes leave; stops Postgres if no other live process uses it. Safe to call again. */
  close(): Promise<void>
}

/** How long a Postgres may take to become ready (it may have to recover first), or to stop, in milliseconds. */
const START_PATIENCE = 60_000
const STOP_PATIENCE = 20_000

const USER = 'lockstep'
const DATABASE = 'lockstep'
const INVALID_CATALOG_NAME = '3D000'

const MIB = 2 ** 20

/** What Postgres takes for its buffers by itself, and the most that it is given here. MB. */
const BUFFERS = { least: 128, most: 1_024 }

/**
 * An eighth of the memory, or of what the container may use of it. Each page that a search does not find there is asked of the system,
 * which takes longer than to look through it. It is taken from the system only as it is used.
 */
function buffersMb(): number {
  const limit = process.constrainedMemory()
  const memory = limit > 0 ? Math.min(limit, totalmem()) : totalmem()
  return Math.max(BUFFERS.least, Math.min(BUFFERS.most, Math.floor(memory / 8 / MIB)))
}

/** A server that may lose its data does without syncing, and lets many in. For tests. */
const NOT_DURABLE = ['fsync=off', 'synchronous_commit=off', 'full_page_writes=off', 'max_connections=500']

interface Places {
  root: string
  data: string
  log: string
  port: string
  users: string
  lock: string
}

function placesOf(dataDir: string): Places {
  const root = join(resolve(dataDir), 'postgres')
  const at = (name: string) => join(root, name)
  return { root, data: at('data'), log: at('log'), port: at('port'), users: at('users'), lock: at('lock') }
}

interface Postmaster {
  pid: number
  port: number
  ready: boolean
}

/** The server of this data directory, if one runs: by its own pid file, and by that the process is indeed a Postgres. */
async function findPostmaster({ data }: Places): Promise<Postmaster | undefined> {
  const lines = (await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')
  const pid = Number(lines[0])
  if (!(pid > 0) || !isAlive(pid)) return undefined
  // After a reboot or in a new container the id may be another program's. Where there is no /proc, Postgres decides.
  const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined)
  if (command !== undefined && !command.includes(await realpath(data))) return undefined
  return { pid, port: Number(lines[3]), ready: lines[7]?.trim() === 'ready' }
}

async function isFree(port: number): Promise<number | undefined> {
  const server = createServer().listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  } catch {
    return undefined
  } finally {
    server.close()
  }
}

/** The port of the last time if it is free, so that a connection string somebody kept goes on working. */
async function choosePort({ port }: Places): Promise<number> {
  const last = Number(await readFile(port, 'utf8').catch(() => 0))
  const chosen = (last > 0 && (await isFree(last))) || (await isFree(0))
  if (!chosen) throw new EmbeddedPostgresError('No free port on 127.0.0.1 for the embedded Postgres.')
  await writeFile(port, `${chosen}\n`)
  return chosen
}

async function runToEnd(runner: Runner, program: string, args: string[]): Promise<void> {
  const child = runner.spawn(program, args, ['ignore', 'pipe', 'pipe'])
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new EmbeddedPostgresError(`${program} failed (exit code ${code}):\n${output.trim()}`)
}

/** Makes the cluster in a folder of another name first: one that was cut off in the making is never taken for whole. */
async function initialise(places: Places, binaries: PostgresBinaries, runner: Runner, password: string): Promise<void> {
  const draft = `${places.data}.new`
  const passwordFile = `${draft}.password`
  await rm(draft, { recursive: true, force: true })
  await mkdir(draft, { mode: 0o700 })
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 })
  try {
    if (runner.owner) {
      await chown(draft, runner.owner.uid, runner.owner.gid)
      await chown(passwordFile, runner.owner.uid, runner.owner.gid)
    }
    const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
    // Tells pg_trgm which characters are letters; other systems may lack this locale.
    if (process.platform === 'linux') locale.push('--lc-ctype=C.UTF-8')
    await runToEnd(runner, binaries.initdb, [
      `--pgdata=${draft}`,
      `--username=${USER}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--no-sync',
      '--no-instructions',
      ...locale,
    ])
    await rename(draft, places.data)
  } finally {
    await rm(passwordFile, { force: true })
  }
}

/** Waits until the server takes connections; `failed` tells that it ended instead. */
async function untilReady(places: Places, failed: () => boolean): Promise<Postmaster> {
  const deadline = Date.now() + START_PATIENCE
  for (;;) {
    const found = await findPostmaster(places)
    if (found?.ready) return found
    if (failed() || Date.now() > deadline) {
      const tail = (await readFile(places.log, 'utf8').catch(() => '')).trim().split('\n').slice(-15).join('\n')
      throw new EmbeddedPostgresError(
        `The embedded Postgres ${failed() ? 'did not start' : 'was not ready in time'}. Its log, ${places.log}, ends:\n${tail}`,
      )
    }
    await sleep(10)
  }
}

/** The server that runs already, once it is ready; `undefined` if none does, or it was just going down. */
async function findRunning(places: Places): Promise<Postmaster | undefined> {
  const found = await findPostmaster(places)
  if (found?.ready) return found
  if (found) {
    const ended = () => !isAlive(found.pid)
    const ready = await untilReady(places, ended).catch((error: unknown) => {
      if (!ended()) throw error
    })
    if (ready) return ready
  }
  // A pid file of the dead would stop the next server if another program has that id now.
  await rm(join(places.data, 'postmaster.pid'), { force: true })
  return undefined
}

async function launch(
  places: Places,
  binaries: PostgresBinaries,
  runner: Runner,
  durable: boolean,
): Promise<Postmaster> {
  const port = await choosePort(places)
  const settings = [
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    `shared_buffers=${buffersMb()}MB`,
    ...(durable ? [] : NOT_DURABLE),
  ]
  const log = await open(places.log, 'w', 0o600)
  const args = [
    '-D',
    await realpath(places.data),
    '-p',
    String(port),
    ...settings.flatMap((setting) => ['-c', setting]),
  ]
  const child = runner.spawn(binaries.postgres, args, ['ignore', log.fd, log.fd])
  await log.close()
  let ended = false
  child.on('exit', () => {
    ended = true
  })
  child.on('error', () => {
    ended = true
  })
  // It outlives this process if need be; the next one finds it by its pid file.
  child.unref()
  return untilReady(places, () => ended)
}

/** The fast shutdown: ends sessions, writes a checkpoint, and removes the pid file when done. */
async function stop(places: Places, binaries: PostgresBinaries, runner: Runner): Promise<void> {
  const running = await findPostmaster(places)
  if (!running) return
  if (process.platform === 'win32') {
    await runToEnd(runner, binaries.pg_ctl, ['stop', '-D', places.data, '-m', 'fast', '-w'])
    return
  }
  process.kill(running.pid, 'SIGINT')
  const deadline = Date.now() + STOP_PATIENCE
  // Not by the process: where nothing collects orphans (Node as a container's first process) its entry stays.
  while (existsSync(join(places.data, 'postmaster.pid'))) {
    if (Date.now() > deadline) {
      process.kill(running.pid, 'SIGQUIT')
      throw new EmbeddedPostgresError(
        `The embedded Postgres (process ${running.pid}) did not stop in time and was aborted.`,
      )
    }
    await sleep(10)
  }
}

function urlOf(port: number, password: string, database = DATABASE): string {
  return `postgresql://${USER}:${password}@127.0.0.1:${port}/${database}`
}

/** Connects, which proves that it is our server, and makes the database if it is not there. */
async function ensureDatabase(port: number, password: string): Promise<void> {
  const client = new pg.Client({ connectionString: urlOf(port, password) })
  try {
    await client.connect()
  } catch (error) {
    if (!(error instanceof pg.DatabaseError) || error.code !== INVALID_CATALOG_NAME) throw error
    const admin = new pg.Client({ connectionString: urlOf(port, password, 'postgres') })
    await admin.connect()
    await admin.query(`create database ${DATABASE}`).finally(() => admin.end())
  } finally {
    await client.end()
  }
}

const passwordOf = async (dataDir: string) => (await loadOrCreateSecret(resolve(dataDir), 'postgres-password')).value

/**
 * The connection string of this data directory's Postgres if it runs and is ready, else `null`. Neither starts it nor counts as
 * a user of it.
 */
export async function attachEmbeddedPostgres(dataDir: string): Promise<string | null> {
  const running = await findPostmaster(placesOf(dataDir))
  return running?.ready ? urlOf(running.port, await passwordOf(dataDir)) : null
}

/**
 * Brings up the Postgres of a data directory (`<dataDir>/postgres`), or joins the one that runs there already: beside another
 * process of ours, or left over from one that was killed. The last live process to close stops it. Its server listens on
 * 127.0.0.1 only, with a random password, in a session of its own, so that a Ctrl-C meant for us does not stop it first.
 *
 * @param durable `false` trades safety against a crash of the machine for speed. It takes effect when this call starts the server.
 * @throws {EmbeddedPostgresError} with what to do.
 */
export async function startEmbeddedPostgres({
  dataDir,
  durable = true,
  log,
}: {
  dataDir: string
  durable?: boolean
  log: BaseLogger
}): Promise<EmbeddedPostgres> {
  const began = Date.now()
  const places = placesOf(dataDir)
  const binaries = await loadBinaries()
  const runner = chooseRunner([binaries.postgres, places.root])
  await mkdir(places.root, { recursive: true, mode: 0o700 })
  if (runner.owner) {
    // The other account must pass through; it cannot list.
    await chmod(resolve(dataDir), 0o711)
    await chmod(places.root, 0o711)
  }
  const password = await passwordOf(dataDir)
  let background: Promise<void> | undefined

  const user = await withFileLock(places.lock, async () => {
    const joined = await joinUsers(places.users, randomSecret(6))
    try {
      const isNew = !existsSync(places.data)
      if (isNew) await initialise(places, binaries, runner, password)
      const found = await findRunning(places)
      const { pid, port } = found ?? (await launch(places, binaries, runner, durable))
      await ensureDatabase(port, password)
      // What was left out to be quick; only a crash of the machine in the first second could have needed it.
      if (isNew && durable) background = runToEnd(runner, binaries.initdb, ['--sync-only', `--pgdata=${places.data}`])
      background?.catch((error: unknown) => log.warn({ err: error }, 'could not sync the new database to disk'))
      log.info({ server: pid, port, reused: found !== undefined, ms: Date.now() - began }, 'embedded Postgres is ready')
      return { ...joined, port }
    } catch (error) {
      await joined.leave()
      throw error
    }
  })

  let closing: Promise<void> | undefined
  const close = async () => {
    await background?.catch(() => {})
    await withFileLock(places.lock, async () => {
      const { last } = await user.leave()
      if (last) await stop(places, binaries, runner)
    })
  }
  return {
    url: urlOf(user.port, password),
    close: () => {
      closing ??= close()
      return closing
    },
  }
}
