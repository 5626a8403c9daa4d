import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { listCustomers } from '../../src/repositories/customer-pages.js'
import { makeDb, openPool } from '../../src/repositories/database.js'
import {
  asTenant,
  isolateTenants,
  openIsolatedPool,
  piecesAsTenant,
  withoutRowSecurity,
} from '../../src/repositories/isolation.js'
import { inTransaction, openPrisma } from '../../src/repositories/prisma.js'
import { cloneDatabase } from '../helpers/database.js'
import { eventually } from '../helpers/wait.js'

t.test('row-level security', async (t) => {
  const { pool, url } = await cloneDatabase(t)
  const [one, other] = [newId(), newId()]
  for (const id of [one, other]) {
    await pool.query('insert into tenants (id, slug, name) values ($1, $2, $2)', [id, id.slice(-8)])
    await pool.query("insert into users (tenant_id, email) values ($1, 'ada@example.com'), ($1, $2)", [
      id,
      `${id}@example.com`,
    ])
  }
  t.equal(await isolateTenants(makeDb(pool)), true)
  const isolated = openIsolatedPool(url, { max: 4 })
  const prisma = openPrisma(isolated)
  const db = makeDb(isolated)
  t.teardown(async () => {
    await prisma.$disconnect()
    await isolated.end()
  })
  const FORGETFUL = 'select tenant_id as owner from users'
  const ownersIn = (rows: { owner: string }[]) => [...new Set(rows.map(({ owner }) => owner))]

  t.test('code that forgets the tenant reads nothing of another one’s', async (t) => {
    for (const tenantId of [one, other]) {
      await asTenant(tenantId, async () => {
        t.strictSame(ownersIn(await db.query(FORGETFUL)), [tenantId])
        t.strictSame(ownersIn(await prisma.$queryRawUnsafe(FORGETFUL)), [tenantId])
        t.strictSame(ownersIn((await prisma.user.findMany()).map(({ tenantId: owner }) => ({ owner }))), [tenantId])
        t.strictSame(ownersIn(await db.transaction((tx) => tx.query(FORGETFUL))), [tenantId])
        t.strictSame(ownersIn(await inTransaction(prisma, (tx) => tx.$queryRawUnsafe(FORGETFUL))), [tenantId])
        t.equal(await prisma.syncState.count(), 2)
        t.equal(await prisma.tenant.count(), 1)
      })
    }
  })

  t.test('nor writes any', async (t) => {
    await asTenant(one, async () => {
      t.equal((await prisma.user.updateMany({ data: { description: 'mine' } })).count, 2)
      await t.rejects(prisma.user.create({ data: { tenantId: other, email: 'x@example.com' } }), {
        code: 'database_error',
        message: /42501/,
      })
      t.equal(await prisma.user.count(), 2, 'and the connection works on')
      await t.rejects(prisma.user.updateMany({ data: { tenantId: other } }))
      t.equal((await db.query('delete from sync_state returning user_id')).length, 2)
    })
    const { rows } = await pool.query('select tenant_id, description from users where tenant_id = $1', [other])
    t.strictSame(
      rows.map(({ description }) => description),
      [null, null],
    )
    t.equal((await pool.query('select 1 from sync_state where tenant_id = $1', [other])).rows.length, 2)
  })

  t.test('without a tenant there is nothing to see', async (t) => {
    t.strictSame(await db.query(FORGETFUL), [])
    t.strictSame(await db.transaction((tx) => tx.query(FORGETFUL)), [])
    t.strictSame(await asTenant('no id', () => db.query(FORGETFUL)), [])
  })

  t.test('many at a time on few connections each see their own', async (t) => {
    const asked = Array.from({ length: 200 }, (_, n) => (n % 2 === 0 ? one : other))
    const seen = await Promise.all(
      asked.map((tenantId, n) =>
        asTenant(tenantId, async () => {
          const rows: { owner: string }[] =
            n % 3 === 0 ? await inTransaction(prisma, (tx) => tx.$queryRawUnsafe(FORGETFUL)) : await db.query(FORGETFUL)
          return ownersIn(rows).join()
        }),
      ),
    )
    t.strictSame(seen, asked)
  })

  t.test('a failed statement fails alone, and leaves its connection as it was', async (t) => {
    await asTenant(one, async () => {
      for (let n = 0; n < 10; n += 1)
        await t.rejects(db.query('select 1 / 0'), { code: 'database_error', message: /22012/ })
      await t.rejects(
        db.transaction((tx) => tx.query('select 1 / 0')),
        { code: 'database_error', message: /22012/ },
      )
      t.strictSame(ownersIn(await db.query(FORGETFUL)), [one])
    })
    t.strictSame(await db.query(FORGETFUL), [])
    t.equal(isolated.totalCount <= 4, true)
  })

  t.test('a search goes past it, also within a transaction, which is bound again afterwards', async (t) => {
    await asTenant(one, async () => {
      const all = [one, other].sort()
      t.strictSame(ownersIn(await withoutRowSecurity(prisma, () => prisma.$queryRawUnsafe(FORGETFUL))).sort(), all)
      await inTransaction(prisma, async (tx) => {
        const free = () => tx.$queryRawUnsafe<{ owner: string }[]>(FORGETFUL)
        t.strictSame(ownersIn(await withoutRowSecurity(tx, free)).sort(), all)
        t.strictSame(ownersIn(await free()), [one])
        await t.rejects(
          withoutRowSecurity(tx, () => Promise.reject(new Error('no such search'))),
          { message: 'no such search' },
        )
        t.strictSame(ownersIn(await free()), [one])
        const page = await listCustomers(tx, one, { email: 'ADA@example.com' }, { sort: 'createdAt', limit: 5 })
        t.equal(page.data.length, 1)
        t.strictSame(ownersIn(await tx.$queryRawUnsafe(FORGETFUL)), [one])
      })
      t.strictSame(ownersIn(await db.query(FORGETFUL)), [one])
    })
  })

  t.test('a search shows no customer of another tenant, whatever it finds', async (t) => {
    const found = await asTenant(one, () => listCustomers(prisma, other, {}, { sort: 'createdAt', limit: 5 }))
    t.strictSame(found.data, [])
  })

  t.test('a file that is read piece by piece, outside of the request, is the tenant’s', async (t) => {
    let isClosed = false
    async function* pieces() {
      try {
        for (;;) yield ownersIn(await db.query(FORGETFUL)).join()
      } finally {
        isClosed = true
        t.strictSame(ownersIn(await db.query(FORGETFUL)), [one])
      }
    }
    const seen: string[] = []
    for await (const piece of piecesAsTenant(one, pieces())) {
      seen.push(piece)
      t.strictSame(await db.query(FORGETFUL), [], 'its reader is nobody')
      if (seen.length === 3) break
    }
    t.strictSame(seen, [one, one, one])
    t.ok(isClosed)
  })

  t.test('what is left within a transaction is given to nobody else', async (t) => {
    await asTenant(one, async () => {
      await t.rejects(db.query('savepoint nowhere; select 1 / 0'), { message: /22012/ })
      await db.query('select 1; begin')
    })
    t.strictSame(await db.query(FORGETFUL), [])
    const { rows } = await pool.query(
      "select 1 from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
    )
    t.strictSame(rows, [])
  })

  t.test('every table with a tenant is behind it, one that comes later from the next start on', async (t) => {
    await pool.query('create table later (tenant_id uuid not null, word text)')
    await pool.query("insert into later values ($1, 'a'), ($2, 'b')", [one, other])
    t.equal(await isolateTenants(makeDb(pool)), true)
    t.equal(await isolateTenants(makeDb(pool)), true, 'safe to call again')
    t.strictSame(await asTenant(other, () => db.query('select word from later')), [{ word: 'b' }])
    const { rows } = await pool.query(
      `select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
       where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace and not c.relrowsecurity`,
    )
    t.strictSame(rows, [])
  })

  t.test('other programs, with roles of their own, see all as before', async (t) => {
    const role = `app_${newId().replaceAll('-', '')}`
    await pool.query(`create role ${role} nologin; grant select, insert on users to ${role}`)
    const client = await pool.connect()
    try {
      await client.query(`set role ${role}`)
      t.equal((await client.query('select 1 from users')).rows.length, 4)
    } finally {
      await client.query('reset role')
      client.release()
      await pool.query(`drop owned by ${role}; drop role ${role}`)
    }
  })

  t.test('a user that may not make roles is told so, and nothing breaks', async (t) => {
    const owner = `weak_${newId().replaceAll('-', '')}`
    await pool.query(`create role ${owner} nologin; grant all on schema public to ${owner}`)
    await pool.query(`alter table later owner to ${owner}; drop policy lockstep_tenant on later`)
    const client = await pool.connect()
    try {
      await client.query(`set session authorization ${owner}`)
      const { rows } = await client.query('select lockstep_isolate() as outcome')
      t.equal(rows[0].outcome, 'refused')
    } finally {
      await client.query('reset session authorization')
      client.release()
      await pool.query(`reassign owned by ${owner} to current_user; drop owned by ${owner}; drop role ${owner}`)
    }
  })
})

t.test('tables are put behind it while others use them', async (t) => {
  const { pool, url } = await cloneDatabase(t)
  const [client, observer] = [await pool.connect(), makeDb(pool)]
  // Whoever takes the tables of a transaction in another order than this one must not end up in a deadlock with it.
  await client.query('begin; select from users limit 1')
  const isolating = openPool(url, { max: 1, name: 'isolating' })
  t.teardown(() => isolating.end())
  const outcome = isolateTenants(makeDb(isolating))
  const isWaiting = `select from pg_stat_activity where application_name = 'isolating' and datname = current_database()
                     and wait_event_type = 'Lock'`
  await eventually(async () => (await observer.query(isWaiting)).length === 1, { interval: 1 })
  await client.query('select from audit_log limit 1')
  await client.query('commit')
  client.release()
  t.equal(await outcome, true)
})

t.test('a table that is in use for long is not waited for', async (t) => {
  const { pool } = await cloneDatabase(t)
  const client = await pool.connect()
  await client.query('begin; select from users limit 1')
  t.equal(await isolateTenants(makeDb(pool)), false)
  await client.query('commit')
  client.release()
  t.equal(await isolateTenants(makeDb(pool)), true, 'the next start does the rest')
})

t.test('a connection that breaks fails the statement under way, and no more', async (t) => {
  const { pool, url } = await cloneDatabase(t)
  t.equal(await isolateTenants(makeDb(pool)), true)
  for (const open of [openPool, openIsolatedPool]) {
    const victim = open(url, { max: 2, name: 'victim' })
    const db = makeDb(victim)
    const SLEEPING =
      "application_name = 'victim' and datname = current_database() and query ~ 'pg_sleep' and state = 'active'"
    const kill = () =>
      eventually(async () => {
        const { rowCount } = await pool.query(
          `select pg_terminate_backend(pid) from pg_stat_activity where ${SLEEPING}`,
        )
        return rowCount === 1
      })
    for (const work of [
      () => db.query('select pg_sleep(60)'),
      () => db.transaction((tx) => tx.query('select pg_sleep(60)')),
    ]) {
      await Promise.all([t.rejects(asTenant(newId(), work), { code: 'database_unavailable' }), kill()])
      t.strictSame(await db.query('select 1 as one'), [{ one: 1 }])
    }
    await victim.end()
  }
})
