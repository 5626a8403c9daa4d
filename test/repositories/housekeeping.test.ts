import t from 'tap'
import { makeDb } from '../../src/repositories/database.js'
import { removeExpired } from '../../src/repositories/housekeeping.js'
import { cloneDatabase } from '../helpers/database.js'

t.test('imports go when nobody needs them any more', async (t) => {
  const { pool } = await cloneDatabase(t)
  const db = makeDb(pool)
  await pool.query(
    `insert into tenants (slug, name, settings) values ('own', 'Own', '{"retention": {"importsAfterDays": 365}}')`,
  )
  const add = async (name: string, columns: Record<string, string>, tenant = 'default') => {
    const all = { source: "'api'", status: "'succeeded'", ...columns }
    await pool.query(
      `insert into imports (tenant_id, format, on_match, requested_by, ${Object.keys(all)})
       select id, 'csv', 'skip', $1, ${Object.values(all)} from tenants where slug = $2`,
      [name, tenant],
    )
  }
  const ago = (interval: string) => `now() - interval '${interval}'`
  await add('ended lately', { finished_at: ago('29 days'), created_at: ago('90 days') })
  for (let n = 0; n < 45; n += 1) await add('ended long ago', { finished_at: ago('31 days') })
  await add('cancelled long ago', { status: "'cancelled'", finished_at: ago('31 days') })
  await add('kept by its tenant', { finished_at: ago('31 days') }, 'own')
  await add('being sent', { status: "'uploading'", created_at: ago('1 hour') })
  await add('sent no more', { status: "'uploading'", created_at: ago('3 hours') })
  await add('waits for a worker', { status: "'queued'", created_at: ago('31 days') })
  const interrupted = { source: "'cli'", status: "'running'" }
  await add('interrupted lately', { ...interrupted, created_at: ago('29 days') })
  await add('interrupted', { ...interrupted, created_at: ago('31 days') })
  await add('at work', { ...interrupted, created_at: ago('31 days'), lease_expires_at: "now() + interval '1 minute'" })
  await pool.query("insert into import_chunks (import_id, position, content) select id, 0, '' from imports")
  await pool.query("insert into import_errors (import_id, line, errors) select id, 1, '[]' from imports")

  t.match(await removeExpired(db), { imports: 46, uploads: 1, abandonedImports: 1, idempotencyKeys: 0 })
  const { rows } = await pool.query('select requested_by as name from imports order by 1')
  const left = [
    'at work',
    'being sent',
    'ended lately',
    'interrupted lately',
    'kept by its tenant',
    'waits for a worker',
  ]
  t.strictSame(
    rows.map(({ name }) => name),
    left,
  )
  for (const table of ['import_chunks', 'import_errors'])
    t.equal((await pool.query(`select 1 from ${table}`)).rowCount, left.length, table)
})
