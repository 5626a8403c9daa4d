import pg from 'pg'
import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { DatabaseError } from '../../src/repositories/errors.js'
import { inTransaction, openPrisma } from '../../src/repositories/prisma.js'
import { cloneDatabase } from '../helpers/database.js'
import { eventually } from '../helpers/wait.js'

t.test('errors are ours, by SQLSTATE', async (t) => {
  const { pool } = await cloneDatabase(t)
  const prisma = openPrisma(pool)
  const thrown = async (work: Promise<unknown>): Promise<DatabaseError> => {
    const error = await work.then(() => null).catch((error: unknown) => error)
    t.type(error, DatabaseError)
    return error as DatabaseError
  }
  const duplicate = await thrown(
    inTransaction(prisma, (tx) => tx.tenant.create({ data: { slug: 'default', name: 'again' } })),
  )
  t.equal(duplicate.isUniqueViolation, true)
  t.equal(duplicate.retryable, false)
  t.equal((await thrown(prisma.$queryRaw`select 'x'::uuid`)).sqlState, '22P02')
  t.equal((await thrown(prisma.user.create({ data: { email: 'a', type: 'king' } }))).sqlState, '23514')

  const ended = await thrown(prisma.$queryRaw`select pg_terminate_backend(pg_backend_pid())`)
  t.match({ code: ended.code, retryable: ended.retryable }, { code: 'database_unavailable', retryable: true })
  t.same(await prisma.$queryRaw`select 1 as one`, [{ one: 1 }], 'the pool is whole again')
  const within = await thrown(
    inTransaction(prisma, (tx) => tx.$queryRaw`select pg_terminate_backend(pg_backend_pid())`),
  )
  t.equal(within.code, 'database_unavailable')
  const between = await thrown(
    inTransaction(prisma, async (tx) => {
      const [row] = await tx.$queryRaw<{ pid: number }[]>`select pg_backend_pid() as pid`
      const isThere = async () =>
        (await pool.query('select pg_terminate_backend($1) as is', [row?.pid])).rows[0]?.is === true
      await eventually(async () => !(await isThere()))
      await tx.$queryRaw`select 1`
    }),
  )
  t.equal(between.code, 'database_unavailable', 'lost from one statement to the next')
  t.same(await prisma.$queryRaw`select 1 as one`, [{ one: 1 }])
})

t.test('a database that is not there', async (t) => {
  const pool = new pg.Pool({ connectionString: 'postgres://nobody@127.0.0.1:1/none', connectionTimeoutMillis: 1_000 })
  t.teardown(() => pool.end())
  const prisma = openPrisma(pool)
  await t.rejects(prisma.tenant.findMany(), { code: 'database_unavailable', retryable: true })
  await t.rejects(prisma.$queryRaw`select 1`, { code: 'database_unavailable', retryable: true })
  await t.rejects(
    inTransaction(prisma, (tx) => tx.tenant.findMany()),
    { code: 'database_unavailable' },
  )
})

t.test('a database whose connections are all in use for long', async (t) => {
  const { url } = await cloneDatabase(t)
  const pool = new pg.Pool({ connectionString: url, max: 1 })
  t.teardown(() => pool.end())
  const busy = await pool.connect()
  await t.rejects(
    inTransaction(openPrisma(pool), (tx) => tx.tenant.findMany()),
    { code: 'database_unavailable', retryable: true },
  )
  busy.release()
})

t.test('a deadlock is tried again, other errors are passed on', async (t) => {
  const { pool } = await cloneDatabase(t)
  const prisma = openPrisma(pool)
  const ids = [newId(), newId()]
  for (const id of ids) await pool.query("insert into users (id, email) values ($1, 'a@example.com')", [id])
  let tries = 0
  const crossing = (order: string[]) =>
    inTransaction(prisma, async (tx) => {
      tries += 1
      for (const id of order) {
        await tx.user.update({ where: { id }, data: { description: order.join() }, select: { id: true } })
        await tx.$executeRaw`select pg_sleep(0.1)`
      }
    })
  await Promise.all([crossing(ids), crossing([...ids].reverse())])
  t.equal(tries, 3)
  for (const mine of [new TypeError('mine'), new Error('mine')]) {
    const thrown = inTransaction(prisma, async () => {
      throw mine
    })
    t.equal(await thrown.catch((error: unknown) => error), mine)
  }
})
