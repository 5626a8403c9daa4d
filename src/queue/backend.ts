import { setTimeout as sleep } from 'node:timers/promises'
import type { PgPool, Processor, WorkerOptions } from 'bullmq'
import {
  assertSchemaCompatibility,
  createPostgresBackend,
  LATEST_SCHEMA_VERSION,
  Queue,
  runMigrations,
  SchemaMigrationRequiredError,
  Worker,
} from 'bullmq'
import { Redis } from 'ioredis'
import pg from 'pg'
import type { BaseLogger } from 'pino'
import { messageOf } from '../lib/errors.js'
import type { QueueName } from './queues.js'
import { nameOnServer } from './queues.js'

/** Where jobs are kept: the one thing about queues that depends on Redis or Postgres. */
export interface QueueBackend {
  readonly kind: 'redis' | 'postgres'
  /** For adding and counting. Rejects soon when the server is away: callers find their work in the database again. */
  openQueue(name: QueueName): Queue
  /** For working. Waits for a server that is away, as long as it takes. */
  openWorker(name: QueueName, process: Processor, options: Omit<WorkerOptions, 'connection'>): Worker
  /** Rejects if the server does not answer. */
  ping(): Promise<void>
  /** Lets go of the server. Queues and workers are closed by whoever opened them, before. */
  close(): Promise<void>
}

/** Where to keep jobs, and under which names. */
export interface QueueBackendOptions {
  /** `redis://…` or `rediss://…`; without it, Postgres. */
  redisUrl?: string | undefined
  databaseUrl: string
  /** Comes before each queue's name; default `lockstep`. */
  prefix?: string
  /** Connections to Postgres; a worker keeps one of them to listen. */
  poolSize?: number
  log: BaseLogger
}

/** BullMQ's own default, which also is the only one for a pool that it did not make itself. */
const SCHEMA = 'bullmq'

/** Between two tries to get the first connection, in milliseconds. */
const FIRST_CONNECTION_PAUSE_MS = 500

/** Nobody reads BullMQ's event stream here, so it is kept short. */
const STREAMS = { events: { maxLen: 100 } }

/** Reports errors of a connection, of which a server that is away yields several a second, at most once in ten. */
export function makeErrorReporter(log: BaseLogger): (error: Error) => void {
  let silentUntil = 0
  return (error) => {
    if (Date.now() < silentUntil) return
    silentUntil = Date.now() + 10_000
    log.warn({ err: error }, `queue: ${messageOf(error)}`)
  }
}

function openRedisBackend(url: string, prefix: string, log: BaseLogger): QueueBackend {
  const report = makeErrorReporter(log)
  const connect = (maxRetriesPerRequest: number | null) => {
    const redis = new Redis(url, {
      maxRetriesPerRequest,
      connectTimeout: 5_000,
      // Milliseconds until the next attempt to connect; never gives up.
      retryStrategy: (attempt) => Math.min(attempt * 50, 2_000),
    })
    redis.on('error', report)
    return redis
  }
  const forQueues = connect(3)
  // BullMQ demands null here: a worker must outwait an outage.
  const forWorkers = connect(null)
  return {
    kind: 'redis',
    openQueue: (name) => {
      const queue = new Queue(nameOnServer(name, prefix), { connection: forQueues, streams: STREAMS })
      queue.on('error', report)
      return queue
    },
    openWorker: (name, process, options) => {
      const worker = new Worker(nameOnServer(name, prefix), process, {
        ...options,
        connection: forWorkers,
      })
      worker.on('error', report)
      return worker
    },
    ping: async () => {
      await forQueues.ping()
    },
    close: async () => {
      forQueues.disconnect()
      forWorkers.disconnect()
    },
  }
}

/** Brings BullMQ's tables up to date; several processes may do so at once. */
async function migrateTables(pool: pg.Pool): Promise<void> {
  const client = await pool.connect()
  try {
    const version = await assertSchemaCompatibility(client, SCHEMA).catch((error: unknown) => {
      if (error instanceof SchemaMigrationRequiredError) return 0
      throw error
    })
    if (version < LATEST_SCHEMA_VERSION) await runMigrations(client, SCHEMA)
  } finally {
    client.release()
  }
}

/**
 * The pool for one queue or worker, patient until it has had its first connection. That one BullMQ takes for good: had it failed, since
 * the server was away or the process held up for a moment, the queue would stay dead, and a worker try again without ever
 * letting go of the thread.
 */
function patientAtFirst(pool: pg.Pool): pg.Pool {
  let isKnown = false
  const connect = async (): Promise<pg.PoolClient> => {
    for (;;) {
      try {
        const client = await pool.connect()
        // One that lay idle may be dead without anybody having noticed.
        if (!isKnown) await client.query('select 1').catch((error: unknown) => giveBack(client, error))
        isKnown = true
        return client
      } catch (error) {
        if (isKnown || pool.ending) throw error
        await sleep(FIRST_CONNECTION_PAUSE_MS)
      }
    }
  }
  return new Proxy(pool, {
    get(target, name) {
      if (name === 'connect') return connect
      const value: unknown = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

function giveBack(client: pg.PoolClient, error: unknown): never {
  client.release(true)
  throw error
}

async function openPostgresBackend(
  url: string,
  prefix: string,
  poolSize: number,
  log: BaseLogger,
): Promise<QueueBackend> {
  const report = makeErrorReporter(log)
  const pool = new pg.Pool({
    connectionString: url,
    application_name: 'lockstep queue',
    max: poolSize,
    // BullMQ's statements name its tables without their schema.
    options: `-c search_path=${SCHEMA}`,
    // Lets BullMQ listen for new jobs without asking every few seconds.
    keepAlive: true,
    connectionTimeoutMillis: 5_000,
  })
  pool.on('error', report)
  // One that breaks while it is in use fails its statement; without a listener it would end the process.
  pool.on('connect', (client) => client.on('error', () => {}))
  // Each queue and worker listens for the pool's errors; there are more of them than Node finds normal.
  pool.setMaxListeners(50)
  try {
    await migrateTables(pool)
  } catch (error) {
    await pool.end()
    throw error
  }
  // BullMQ describes a pool by types of its own, which pg's, although it is such a pool, does not fit literally.
  const connect = () => patientAtFirst(pool) as unknown as PgPool
  return {
    kind: 'postgres',
    openQueue: (name) => {
      const queue = new Queue(
        nameOnServer(name, prefix),
        { connection: connect(), streams: STREAMS },
        createPostgresBackend,
      )
      queue.on('error', report)
      return queue as unknown as Queue
    },
    openWorker: (name, process, options) => {
      const all = { ...options, connection: connect() }
      const worker = new Worker(nameOnServer(name, prefix), process, all, createPostgresBackend)
      worker.on('error', report)
      return worker as unknown as Worker
    },
    ping: async () => {
      await pool.query('select 1')
    },
    close: () => pool.end(),
  }
}

/** Opens the queue's server: Redis if there is one, else Postgres, whose tables for it are made if they are not there. */
export async function openQueueBackend({
  redisUrl,
  databaseUrl,
  prefix = 'lockstep',
  poolSize = 10,
  log,
}: QueueBackendOptions): Promise<QueueBackend> {
  if (redisUrl) return openRedisBackend(redisUrl, prefix, log)
  return openPostgresBackend(databaseUrl, prefix, poolSize, log)
}
