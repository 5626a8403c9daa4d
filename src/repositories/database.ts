import pg from 'pg'
import { DatabaseError } from './errors.js'
import type { PrismaDb } from './prisma.js'

/** Whatever takes a statement of SQL. */
export interface Statements {
  /**
   * Runs one statement and answers its rows. Throws {@link DatabaseError}.
   *
   * @param name where a statement runs so often that each connection should have it planned once; one for each text
   */
  query<Row extends object = Record<string, unknown>>(
    sql: string,
    params?: readonly unknown[],
    name?: string,
  ): Promise<Row[]>
}

/** One place to send SQL to: the pool, or the transaction under way. */
export interface Db extends Statements {
  /**
   * Runs `work` in one transaction (read committed); commits when it resolves, rolls back when it throws. A deadlock or a
   * serialization failure is tried again, so `work` may run more than once and must touch nothing but this `Db`.
   */
  transaction<T>(work: (db: Db) => Promise<T>): Promise<T>
}

/** A client or transaction of Prisma as a place for plain statements. Give parameters their types: `$1::uuid`. */
export function statementsOf(prisma: PrismaDb): Statements {
  return {
    query: <Row extends object>(sql: string, params: readonly unknown[] = []) =>
      prisma.$queryRawUnsafe<Row[]>(sql, ...params),
  }
}

/** How often a transaction that lost a deadlock is tried again before its error is given to the caller. */
const TRANSACTION_TRIES = 5

/** Opens a pool. Timestamps come back as `Date`, `bigint` and `numeric` as strings (pg's defaults). */
export function openPool(
  url: string,
  options: { max?: number; name?: string; onError?: (error: Error) => void } = {},
): pg.Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max: options.max ?? 10,
    application_name: options.name ?? 'lockstep',
    // A database that is gone must show as an error, not as a hang.
    connectionTimeoutMillis: 5_000,
    keepAlive: true,
  })
  // Without a listener an idle connection that breaks would end the process; the pool replaces it by itself.
  pool.on('error', (error) => options.onError?.(error))
  // So it would while it is in use; there the statement under way fails, and says why.
  pool.on('connect', (client) => client.on('error', () => {}))
  return pool
}

/**
 * The pool as a {@link Db}.
 *
 * @param options.timeoutMs how long a statement may take, for whom nobody waits longer; its connection is then given up
 */
export function makeDb(pool: pg.Pool, options: { timeoutMs?: number } = {}): Db {
  const { timeoutMs } = options
  return {
    query: (sql, params, name) => run(pool, sql, params, { name, timeoutMs }),
    async transaction(work) {
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await inTransaction(pool, work, timeoutMs)
        } catch (error) {
          if (!(error instanceof DatabaseError) || !error.isContention || attempt >= TRANSACTION_TRIES) throw error
        }
      }
    },
  }
}

async function inTransaction<T>(pool: pg.Pool, work: (db: Db) => Promise<T>, timeoutMs?: number): Promise<T> {
  const client = await pool.connect().catch((error: unknown) => {
    throw DatabaseError.from(error)
  })
  let broken: Error | undefined
  try {
    const db: Db = {
      query: (sql, params, name) => run(client, sql, params, { name, timeoutMs }),
      // A transaction within a transaction is the same transaction: what is inside stands or falls with it.
      transaction: (inner) => inner(db),
    }
    await run(client, 'begin', [], { timeoutMs })
    const result = await work(db)
    await run(client, 'commit', [], { timeoutMs })
    return result
  } catch (error) {
    await run(client, 'rollback', [], { timeoutMs }).catch((cause: Error) => {
      broken = cause
    })
    throw error
  } finally {
    client.release(broken)
  }
}

async function run<Row extends object>(
  runner: pg.Pool | pg.PoolClient,
  sql: string,
  params: readonly unknown[] = [],
  { name, timeoutMs }: { name?: string | undefined; timeoutMs?: number | undefined } = {},
): Promise<Row[]> {
  try {
    const values = [...params]
    const query: pg.QueryConfig & { query_timeout?: number } = {
      text: sql,
      values,
      ...(name === undefined ? {} : { name }),
      ...(timeoutMs === undefined ? {} : { query_timeout: timeoutMs }),
    }
    const result = await runner.query<Row & pg.QueryResultRow>(query)
    return result.rows
  } catch (error) {
    throw DatabaseError.from(error)
  }
}
