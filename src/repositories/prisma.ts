import { PrismaPg } from '@prisma/adapter-pg'
import type pg from 'pg'
import { LockstepError } from '../lib/errors.js'
import { DatabaseError, LOCK_NOT_AVAILABLE } from './errors.js'
import { Prisma, PrismaClient } from './generated/client.js'

/** Where Prisma sends its queries: the client, or the transaction under way. */
export type PrismaDb = Prisma.TransactionClient

/** How often a transaction that lost a deadlock is tried again before its error is given to the caller. */
const TRANSACTION_TRIES = 5

/** Prisma's own codes for "no connection" (P1xxx), "no free connection" (P2024), or not in time for a transaction (P2028), and "write conflict or deadlock". */
const UNREACHABLE = /^(P1\d{3}|P2024|P2028)$/
const WRITE_CONFLICT = 'P2034'

/**
 * A Prisma client over a pool that is already open, so that the service has one set of connections. The pool stays its
 * owner's to close. Every operation throws {@link DatabaseError} instead of Prisma's errors.
 */
export function openPrisma(pool: pg.Pool): PrismaClient {
  // 'minimal' keeps the arguments, which hold personal data, out of messages.
  const client = new PrismaClient({ adapter: new PrismaPg(pool), errorFormat: 'minimal' })
  const mapped = client.$extends({
    query: {
      async $allOperations({ args, query }) {
        try {
          return await query(args)
        } catch (error) {
          throw mapPrismaError(error)
        }
      },
    },
  })
  return mapped as unknown as PrismaClient
}

/**
 * Runs `work` in one transaction (read committed). What lost a deadlock is tried again, so `work` may run more than once
 * and must touch nothing but its `tx`.
 *
 * @throws {DatabaseError} or whatever `work` threw.
 */
export async function inTransaction<T>(prisma: PrismaClient, work: (tx: PrismaDb) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    let ofWork: unknown
    const noted = async (tx: PrismaDb): Promise<T> => {
      try {
        return await work(tx)
      } catch (error) {
        ofWork = error
        throw error
      }
    }
    try {
      return await prisma.$transaction(noted, { maxWait: 5_000, timeout: 10_000 })
    } catch (error) {
      const ours = error === ofWork ? error : mapPrismaError(error)
      const contention = ours instanceof DatabaseError && ours.isContention && ours.sqlState !== LOCK_NOT_AVAILABLE
      if (!contention || attempt >= TRANSACTION_TRIES) throw ours
    }
  }
}

/** Whether no transaction is under way. A transaction has `$transaction` as well, whatever its type says, for one within it. */
export function isClient(prisma: PrismaDb): prisma is PrismaClient {
  return '$connect' in prisma
}

/**
 * What Prisma or its driver threw, as a {@link DatabaseError}; anything else passes through. Decides by class and code, never by
 * message, which only adds names.
 */
function mapPrismaError(error: unknown): unknown {
  if (error instanceof LockstepError) return error
  if (error instanceof Prisma.PrismaClientKnownRequestError) {
    const reported = error.meta?.driverAdapterError
    const code = sqlStateOf(reported) ?? (error.code === WRITE_CONFLICT ? '40001' : undefined)
    if (code !== undefined) return DatabaseError.from({ code, ...namesIn(reported), cause: error })
    // Of plain SQL only the driver says it: the code is the same whatever it failed with.
    return UNREACHABLE.test(error.code) || isConnectionError(reported) ? DatabaseError.from({ cause: error }) : error
  }
  const isLost = isConnectionError(error) || isDriversOwn(error)
  return isLost || error instanceof Prisma.PrismaClientInitializationError
    ? DatabaseError.from({ cause: error })
    : error
}

/** `pg` has neither class nor code for what is wrong with a connection by itself, such as that it broke since the statement before. */
function isDriversOwn(error: unknown): boolean {
  return error instanceof Error && error.constructor === Error && !('code' in error)
}

/** The server's own code in what the driver adapter reported. */
function sqlStateOf(reported: unknown): string | undefined {
  const code = (reported as { cause?: { originalCode?: unknown } } | null | undefined)?.cause?.originalCode
  return typeof code === 'string' ? code : undefined
}

/** What the server named, in `pg`'s words. Of most errors the driver adapter passes on no more than the message, where names are quoted. */
function namesIn(reported: unknown): Record<'table' | 'column' | 'constraint', string | undefined> {
  const { cause } = (reported ?? {}) as {
    cause?: { table?: unknown; constraint?: { index?: unknown }; originalMessage?: unknown }
  }
  const { table, constraint, originalMessage } = cause ?? {}
  const named = (what: string) => new RegExp(`${what} "([^"]+)"`).exec(String(originalMessage ?? ''))?.[1]
  return {
    table: typeof table === 'string' ? table : named('relation'),
    column: named('column'),
    constraint: typeof constraint?.index === 'string' ? constraint.index : named('constraint'),
  }
}

function isConnectionError(error: unknown): boolean {
  const cause = (error as { cause?: { kind?: unknown } } | null | undefined)?.cause
  return cause?.kind === 'DatabaseNotReachable' || cause?.kind === 'SocketTimeout' || cause?.kind === 'ConnectionClosed'
}
