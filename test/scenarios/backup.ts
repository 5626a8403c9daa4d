import type pg from 'pg'

const TABLES = [
  'tenants',
  'users',
  'sync_state',
  'stripe_links',
  'stripe_writes',
  'delivery_batches',
  'stripe_events',
  'sync_conflicts',
  'duplicate_customers',
  'reconciliations',
  'audit_log',
  'audit_heads',
]

/**
 * Keeps every table as it is at one moment, right after `sql`. `restore` makes them so again, as from a backup: no trigger
 * fires, and nothing of what came since is left.
 */
export async function keepBackup(pool: pg.Pool, sql: string): Promise<{ restore(): Promise<void> }> {
  const { rows } = await pool.query<{ table: string; columns: string }>(
    `select table_name as table, string_agg(quote_ident(column_name), ', ' order by ordinal_position) as columns
     from information_schema.columns
     where table_schema = 'public' and table_name = any($1) and is_generated = 'NEVER' group by table_name`,
    [TABLES],
  )
  await transaction(pool, [
    'create schema kept',
    sql,
    ...rows.map(({ table, columns }) => `create table kept.${table} as select ${columns} from public.${table}`),
  ])
  return {
    restore: () =>
      transaction(pool, [
        `set local session_replication_role = replica`,
        `lock table ${TABLES.map((table) => `public.${table}`).join(', ')}`,
        ...rows.map(({ table }) => `delete from public.${table}`),
        ...rows.map(
          ({ table, columns }) => `insert into public.${table} (${columns}) select ${columns} from kept.${table}`,
        ),
        'drop schema kept cascade',
      ]),
  }
}

async function transaction(pool: pg.Pool, statements: string[]): Promise<void> {
  const client = await pool.connect()
  try {
    await client.query('begin')
    for (const statement of statements) await client.query(statement)
    await client.query('commit')
  } catch (error) {
    await client.query('rollback')
    throw error
  } finally {
    client.release()
  }
}
