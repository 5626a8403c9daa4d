import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { isId } from '../lib/ids.js'
import { openPool, type Statements } from './database.js'
import { isClient, type PrismaDb } from './prisma.js'

/** The role that is bound by row-level security; see the function `lockstep_isolate` in the migrations. */
const ROLE = 'lockstep_api'

/** How often a table that is in use is tried again, and after how many milliseconds: each try has waited for a second by then. */
const TABLE_TRIES = 5
const TABLE_PAUSE_MS = 200

/** What a request leaves open for so long is given up by the server, with all the locks that it held. */
const IDLE_LIMIT = '60s'

/** For whom the statements of the code under way are. */
interface Scope {
  tenantId: string | null
  isSearching: boolean
}

const scopes = new AsyncLocalStorage<Scope>()

/** Runs `work`, and all that it starts, for this tenant: an isolated pool shows it the rows of no other one. */
export function asTenant<T>(tenantId: string, work: () => T): T {
  return scopes.run({ tenantId, isSearching: false }, work)
}

/** The pieces, each made for this tenant: whoever reads a file piece by piece, such as a stream, does so outside of the request. */
export async function* piecesAsTenant<T>(tenantId: string, pieces: AsyncIterable<T>): AsyncGenerator<T> {
  const iterator = pieces[Symbol.asyncIterator]()
  let isAtEnd = false
  try {
    for (;;) {
      const next = await asTenant(tenantId, () => iterator.next())
      isAtEnd = next.done === true
      if (next.done === true) return
      yield next.value
    }
  } finally {
    if (!isAtEnd) await asTenant(tenantId, () => iterator.return?.())
  }
}

/**
 * Runs a search that names its tenant itself, free of row-level security. Under it Postgres uses an index only for conditions that
 * it calls leak-proof, and those on `lower(email)`, or on parts of a text, are not: a look-up by e-mail among 300,000 customers takes 75 ms
 * instead of 0.4.
 *
 * @param prisma what `work` sends its statements to; of a transaction only `work` is free, one statement after the other
 */
export async function withoutRowSecurity<T>(prisma: PrismaDb, work: () => Promise<T>): Promise<T> {
  if (isClient(prisma)) {
    // Awaited within the scope: a query of Prisma's is sent when it is waited for.
    return scopes.run({ tenantId: scopes.getStore()?.tenantId ?? null, isSearching: true }, async () => await work())
  }
  // Said to the server, not by a scope: Prisma may send what several transactions ask for at one time in the scope of the first.
  const [before] = await prisma.$queryRaw<{ role: string }[]>`
    with before as materialized (select current_setting('role') as role)
    select role, set_config('role', 'none', true) from before`
  const role = before?.role ?? 'none'
  const bind = async () => {
    if (role !== 'none') await prisma.$queryRaw`select set_config('role', ${role}, true)`
  }
  let result: T
  try {
    result = await work()
  } catch (error) {
    // Where this fails too the transaction is a failed one, and takes no statement more.
    await bind().catch(() => {})
    throw error
  }
  await bind()
  return result
}

/**
 * Puts the tables behind row-level security where they are not yet. Answers whether they are: not where the database user may not
 * make roles, or a table is in use for long. One table at a time, each in a transaction of its own: who holds one lock only, and gives up
 * soon, is in no deadlock with those who use the tables meanwhile.
 */
export async function isolateTenants(db: Statements): Promise<boolean> {
  for (let tries = 0; tries < TABLE_TRIES; ) {
    const [row] = await db.query<{ outcome: string }>('select lockstep_isolate() as outcome')
    if (row?.outcome === 'done') return true
    if (row?.outcome === 'refused') return false
    if (row?.outcome === 'next') continue
    tries += 1
    await sleep(TABLE_PAUSE_MS)
  }
  return false
}

type Send = (config: string | pg.QueryConfig, values?: unknown[]) => Promise<pg.QueryResult>

/**
 * A pool whose statements see the rows of the tenant of {@link asTenant}, and outside of it none. The role and the tenant are set for
 * one transaction, and end with it, so that a pooler in between (PgBouncer) may hand the connection on.
 */
export function openIsolatedPool(url: string, options: Parameters<typeof openPool>[1]): pg.Pool {
  const pool = openPool(url, options)
  pool.on('connect', isolate)
  // The pool's own would send it in the scope of whoever gave the connection back.
  pool.query = (async (config: string | pg.QueryConfig, values?: unknown[]) => {
    const client = await pool.connect()
    let isSound = false
    try {
      const result = await (client.query as Send)(config, values)
      isSound = true
      return result
    } catch (error) {
      isSound = isRefusal(error)
      throw error
    } finally {
      // One that is still within a transaction is not given to anyone else.
      client.release(!isSound || client.getTransactionStatus() !== 'I')
    }
  }) as typeof pool.query
  return pool
}

function isolate(client: pg.PoolClient): void {
  const send = client.query.bind(client) as Send

  const query: Send = async (config, values) => {
    const scope = scopes.getStore()
    const text = typeof config === 'string' ? config : config.text
    // A transaction of a search is one of its own.
    if (scope?.isSearching === true || client.getTransactionStatus() !== 'I') return send(config, values)
    if (/^\s*begin\b/i.test(text)) return send(opening(scope))
    await send(opening(scope))
    try {
      const result = await send(config, values)
      await send('commit')
      return result
    } catch (error) {
      // Where this fails too, the connection is no longer sound, as its transaction status says.
      await send('rollback').catch(() => {})
      throw error
    }
  }
  client.query = query as typeof client.query
}

/** If any of it fails, the transaction is a failed one, and takes no statement more: none runs as someone else. */
function opening(scope: Scope | undefined): string {
  const tenantId = scope?.tenantId ?? ''
  const setting = (name: string, value: string) => `set_config('${name}', '${value}', true)`
  return (
    `begin; select ${setting('role', ROLE)}, ${setting('lockstep.tenant_id', isId(tenantId) ? tenantId : '')}, ` +
    setting('idle_in_transaction_session_timeout', IDLE_LIMIT)
  )
}

/** Whether the server answered, and goes on: other errors end the connection. */
function isRefusal(error: unknown): boolean {
  return (error as { severity?: unknown } | null)?.severity === 'ERROR'
}
