import type pg from 'pg'
import t, { type Test } from 'tap'
import { chainEntries, findChainEnds } from '../../src/repositories/audit-chain.js'
import { recordAudit } from '../../src/repositories/audit-log.js'
import { trimAudit } from '../../src/repositories/audit-trim.js'
import { verifyAudit } from '../../src/services/audit-verification.js'
import { openTables } from '../repositories/helpers.js'

/** A log of `count` entries, chained. */
async function openLog(t: Test, count: number) {
  const tables = await openTables(t)
  const { db, tenantId } = tables
  const by = { tenantId, actor: 'test', requestId: null, ip: null }
  const add = async (from: number, to: number) => {
    for (let n = from; n <= to; n += 1) {
      await recordAudit(db, by, { action: 'test.done', entity: 'thing', entityId: String(n), changes: { n } })
    }
  }
  const chainAll = async () => {
    while ((await chainEntries(db, 100)).more);
  }
  await add(1, count)
  await chainAll()
  return {
    ...tables,
    by,
    add,
    chainAll,
    verify: (kept = undefined as Parameters<typeof verifyAudit>[2] | undefined) =>
      verifyAudit(db, tenantId, kept ?? null),
  }
}

/** Does what nobody may, as one could who has the whole database. */
async function tamper(pool: pg.Pool, ...statements: string[]): Promise<void> {
  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query('set local session_replication_role = replica')
    for (const statement of statements) await client.query(statement)
    await client.query('commit')
  } finally {
    client.release()
  }
}

t.test('entries are chained in their order, by many processes at once, each tenant by itself', async (t) => {
  const { db, pool, tenantId, newTenant, by, add, verify } = await openLog(t, 0)
  const other = await newTenant('other')
  await add(1, 30)
  await recordAudit(
    db,
    { ...by, tenantId: other },
    { action: 'test.done', entity: 'thing', entityId: '1', changes: null },
  )
  t.match(await verify(), { verified: 0, unchained: 30, breach: null })
  for (let left = 31; left > 0; ) {
    const rounds = await Promise.all(Array.from({ length: 4 }, () => chainEntries(db, 7)))
    left -= rounds.reduce((sum, { chained }) => sum + chained, 0)
  }
  t.match(await chainEntries(db), { chained: 0, more: false })
  const { rows } = await pool.query('select seq::int, entity_id from audit_log where tenant_id = $1 order by seq', [
    tenantId,
  ])
  t.strictSame(
    rows.map(({ seq, entity_id }) => [seq, entity_id]),
    Array.from({ length: 30 }, (_, n) => [n + 1, String(n + 1)]),
  )
  t.match(await verify(), { verified: 30, unchained: 0, head: { seq: 30 }, breach: null })
  t.match(await verifyAudit(db, other), { verified: 1, head: { seq: 1 }, breach: null })

  t.test('one that is committed late gets its number when it is seen', async (t) => {
    const client = await pool.connect()
    await client.query('begin')
    await client.query(
      `insert into audit_log (tenant_id, actor, action, entity, entity_id) values ($1, 'late', 'test.done', 'thing', 'late')`,
      [tenantId],
    )
    await add(31, 32)
    await chainEntries(db)
    await client.query('commit')
    client.release()
    await chainEntries(db)
    const late = await pool.query(`select seq::int from audit_log where actor = 'late'`)
    t.strictSame(late.rows, [{ seq: 33 }])
    t.match(await verify(), { verified: 33, breach: null })
  })
})

t.test('the log refuses changes, in plain SQL too', async (t) => {
  const { pool, verify } = await openLog(t, 3)
  const refused = { code: '42501' }
  await t.rejects(pool.query(`update audit_log set actor = 'nobody'`), refused)
  await t.rejects(pool.query('update audit_log set seq = seq + 10'), refused)
  await t.rejects(pool.query('update audit_log set seq = null, hash = null'), refused)
  await t.rejects(pool.query('delete from audit_log'), refused)
  await t.rejects(pool.query('truncate audit_log'), refused)
  await t.rejects(
    pool.query(
      `insert into audit_log (tenant_id, actor, action, entity, entity_id, seq, hash)
       select tenant_id, actor, action, entity, entity_id, 99, hash from audit_log limit 1`,
    ),
    refused,
  )
  await pool.query(
    `insert into audit_log (tenant_id, actor, action, entity, entity_id) select id, 'x', 'x', 'x', 'x' from tenants`,
  )
  await t.rejects(
    pool.query(`update audit_log set actor = 'y', seq = 4, hash = '\\x00' where seq is null`),
    refused,
    'chaining changes nothing else',
  )
  t.match(await verify(), { verified: 3, unchained: 1, breach: null })
})

t.test('verification names the first entry that is not what it was', async (t) => {
  const cases: [name: string, statements: string[], expected: object][] = [
    ['a value was changed', [`update audit_log set changes = '{"n": 0}' where seq = 4`], { seq: 4, kind: 'changed' }],
    [
      'the time was changed',
      [`update audit_log set at = at - interval '1 microsecond' where seq = 1`],
      { seq: 1, kind: 'changed' },
    ],
    [
      'a value and its hash',
      [`update audit_log set actor = 'other', hash = sha256('x') where seq = 7`],
      { seq: 7, kind: 'changed' },
    ],
    ['one was removed', ['delete from audit_log where seq = 5'], { seq: 5, kind: 'removed' }],
    ['the first was removed', ['delete from audit_log where seq = 1'], { seq: 1, kind: 'removed' }],
    ['the tail was removed', ['delete from audit_log where seq > 9'], { seq: 10, kind: 'removed' }],
    ['all were removed', ['delete from audit_log'], { seq: 1, kind: 'removed' }],
    [
      'one was removed and the gap closed',
      [
        'delete from audit_log where seq = 5',
        'update audit_log set seq = seq - 100 where seq > 5',
        'update audit_log set seq = seq + 99 where seq < 0',
      ],
      { seq: 5, kind: 'removed' },
    ],
    [
      'one was inserted',
      [
        'update audit_log set seq = -seq where seq >= 6',
        'update audit_log set seq = 1 - seq where seq < 0',
        `insert into audit_log (tenant_id, actor, action, entity, entity_id, seq, hash)
         select tenant_id, 'forger', 'x', 'x', 'x', 6, hash from audit_log where seq = 5`,
      ],
      { seq: 6, kind: 'inserted' },
    ],
    [
      'one was added at the end',
      [
        `insert into audit_log (tenant_id, actor, action, entity, entity_id, seq, hash)
         select tenant_id, 'forger', 'x', 'x', 'x', 13, hash from audit_log where seq = 12`,
      ],
      { seq: 13, kind: 'inserted' },
    ],
    [
      'two neighbours changed places, with their hashes',
      ['update audit_log set seq = -seq where seq in (6, 7)', 'update audit_log set seq = 13 + seq where seq < 0'],
      { seq: 6, kind: 'reordered' },
    ],
    [
      'two changed places, with their hashes',
      ['update audit_log set seq = -seq where seq in (3, 8)', 'update audit_log set seq = 11 + seq where seq < 0'],
      { seq: 3, kind: 'reordered' },
    ],
    [
      'two changed places, the hashes stayed',
      [
        `update audit_log a set entity_id = b.entity_id, changes = b.changes, id = gen_random_uuid(), at = b.at
         from audit_log b where a.seq in (3, 8) and b.seq = 11 - a.seq`,
      ],
      { seq: 3, kind: 'changed' },
    ],
    [
      'the first were removed, and the place where the chain begins moved, as if retention had done it',
      [
        `update audit_heads h set checkpoint_seq = 5, checkpoint_hash = a.hash
         from audit_log a where a.tenant_id = h.tenant_id and a.seq = 5`,
        'delete from audit_log where seq <= 5',
      ],
      { seq: 5, kind: 'removed' },
    ],
    [
      'the head was moved back',
      ['delete from audit_log where seq > 9', 'update audit_heads set seq = 9'],
      { seq: 9, kind: 'rewritten' },
    ],
  ]
  for (const [name, statements, expected] of cases) {
    const { pool, verify } = await openLog(t, 12)
    t.match(await verify(), { verified: 12, breach: null })
    await tamper(pool, ...statements)
    t.match((await verify()).breach, expected, name)
  }
})

t.test('a head kept elsewhere reveals a log that was rewritten to its end, or cut short', async (t) => {
  const { db, pool, tenantId, add, chainAll, verify } = await openLog(t, 12)
  const kept = (await findChainEnds(db, tenantId))?.head
  await add(13, 14)
  await chainAll()
  t.match(await verify(kept), { verified: 14, breach: null }, 'what came since is no breach')

  await tamper(
    pool,
    'delete from audit_log where seq > 8',
    'update audit_heads set seq = 8, hash = (select hash from audit_log where seq = 8)',
  )
  t.match(await verify(), { verified: 8, breach: null }, 'to the database alone it looks whole')
  t.match((await verify(kept)).breach, { seq: 9, kind: 'removed' })

  await tamper(
    pool,
    `update audit_log set actor = 'other', seq = null, hash = null where seq = 8`,
    'update audit_heads set seq = 7, hash = (select hash from audit_log where seq = 7)',
  )
  await add(15, 20)
  await chainAll()
  t.match(await verify(), { verified: 14, breach: null }, 'rewritten from there on, with sound hashes')
  t.match((await verify(kept)).breach, { seq: 12, kind: 'rewritten' })
})

t.test('old entries are removed as far as they are old; what is left stays verifiable', async (t) => {
  const { db, pool, tenantId, add, chainAll, verify } = await openLog(t, 10)
  const kept = (await findChainEnds(db, tenantId))?.head
  const { rows } = await pool.query('select at from audit_log where seq = 7')
  const before = rows[0].at
  // Several may be of the 7th one's millisecond, and none of those is older.
  const old = (await pool.query('select from audit_log where at < $1', [before])).rowCount ?? 0
  const remove = (limit: number) => trimAudit(db, tenantId, before, 'someone', limit)
  t.equal(await remove(1), 1)
  const trim = { actor: 'someone', at: Date }
  t.match(await verify(), { verified: 9, checkpoint: { seq: 1 }, trim, breach: null })
  t.equal(await remove(100), old - 1)
  t.equal(await remove(100), 0)
  const { checkpoint } = await verify(kept)
  t.equal(checkpoint.seq, old)
  await add(11, 12)
  await chainAll()
  // With the entry of each removal, if there were two.
  const trims = old > 1 ? 2 : 1
  t.match(await verify(kept), { verified: 12 + trims - checkpoint.seq, trim, breach: null })
  await tamper(pool, `delete from audit_log where seq = ${checkpoint.seq + 1}`)
  t.match((await verify()).breach, { seq: checkpoint.seq + 1, kind: 'removed' })
  const all = trimAudit(db, tenantId, new Date(Date.now() + 60_000), 'someone', 100)
  await t.rejects(all, { code: 'audit_chain_broken' }, 'evidence is not removed')
  await t.rejects(pool.query('delete from audit_log'), { code: '42501' }, 'and others may not remove')
})
