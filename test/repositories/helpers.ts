import type { Test } from 'tap'
import type { SyncedFields } from '../../src/models/synced-fields.js'
import { makeDb } from '../../src/repositories/database.js'
import { NO_FIELDS, remoteState } from '../../src/sync/fields.js'
import { cloneDatabase } from '../helpers/database.js'

/** A database with its default tenant, and shortcuts that write as another program would: by plain SQL. */
export async function openTables(t: Test) {
  const { pool } = await cloneDatabase(t)
  const db = makeDb(pool)
  const [tenant] = (await pool.query<{ id: string }>('select id from tenants')).rows
  const tenantId = tenant?.id ?? ''
  return {
    pool,
    db,
    tenantId,
    /** Inserts a user with these columns; answers its id. */
    async newUser(columns: Record<string, unknown> = {}): Promise<string> {
      const names = Object.keys(columns)
      const sql =
        names.length === 0
          ? 'insert into users default values returning id'
          : `insert into users (${names.join(', ')}) values (${names.map((_, n) => `$${n + 1}`).join(', ')}) returning id`
      const { rows } = await pool.query<{ id: string }>(sql, Object.values(columns))
      return rows[0]?.id ?? ''
    },
    /** The row of `sync_state`, all columns. */
    async stateOf(userId: string): Promise<Record<string, unknown> | undefined> {
      return (await pool.query('select * from sync_state where user_id = $1', [userId])).rows[0]
    },
    /** Another tenant, with an account of its own unless that is null; answers its id. */
    async newTenant(slug: string, account: string | null = `acct_${slug}`): Promise<string> {
      const { rows } = await pool.query<{ id: string }>(
        'insert into tenants (slug, name, stripe_account) values ($1, $1, $2) returning id',
        [slug, account],
      )
      return rows[0]?.id ?? ''
    },
  }
}

/** Fields that only a description tells apart. */
export const fieldsOf = (description: string): SyncedFields => ({ ...NO_FIELDS, description })

/** What Stripe holds, told apart by a description. */
export const remoteOf = (description: string) => remoteState({ description }, [])

/** A time on 1 January 2026, this many seconds after noon. */
export const at = (seconds: number) => new Date(Date.parse('2026-01-01T12:00:00Z') + seconds * 1000)

/** Lets the lease on a user run out. */
export const expireLease = "update sync_state set lease_expires_at = now() - interval '1 second' where user_id = $1"
