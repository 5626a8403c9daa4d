import type pg from 'pg'
import { newId } from '../../src/lib/ids.js'
import { remoteState } from '../../src/sync/fields.js'
import type { Simulator } from './simulator.js'

/**
 * Gives every customer of the simulator a user in step with it, as a service has them that has run for long. It goes past the
 * triggers (the role must be a superuser's), so that a million take minutes: such users are not in lists and searches.
 */
export async function seedLinked(pool: pg.Pool, simulator: Simulator): Promise<number> {
  const { rows } = await pool.query<{ id: string }>("select id from tenants where slug = 'default'")
  const tenantId = rows[0]?.id ?? ''
  const client = await pool.connect()
  let count = 0
  try {
    await client.query('set session_replication_role = replica; set synchronous_commit = off')
    for await (const customers of simulator.customers()) {
      await client.query(INSERT, [tenantId, JSON.stringify(customers.map(linkedUser))])
      count += customers.length
    }
  } finally {
    // The connection would keep the settings.
    client.release(true)
  }
  // Else the service would begin with a sweep of its own.
  await pool.query('update tenants set swept_at = now() where id = $1', [tenantId])
  await pool.query('vacuum analyze users, sync_state, stripe_links')
  return count
}

const INSERT = `
  with linked as materialized (
    select * from jsonb_to_recordset($2::jsonb)
      as t (id uuid, cus text, created bigint, email text, first text, last text, billing jsonb, remote jsonb, base jsonb)
  ), states as (
    insert into sync_state (user_id, tenant_id, status, remote, base, remote_as_of, local_revision, synced_revision, dirty_since, synced_at)
    select id, $1, 'in_sync', remote, base, now(), 1, 1, null, now() from linked
  ), links as (
    insert into stripe_links (tenant_id, stripe_customer_id, user_id, how, stripe_created)
    select $1, cus, id, 'created', to_timestamp(created) from linked
  )
  insert into users (id, tenant_id, email, first_name, last_name, billing, stripe_customer_id, created_at, updated_at)
  select id, $1, email, first, last, billing, cus, to_timestamp(created), to_timestamp(created) from linked`

function linkedUser(customer: Record<string, unknown>): Record<string, unknown> {
  const remote = remoteState(customer, [])
  const [first, last] = (remote.fields.name ?? '').split(' ')
  return {
    id: newId(),
    cus: customer.id,
    created: customer.created,
    email: remote.fields.email,
    first,
    last,
    billing: remote.billing,
    remote,
    base: remote.fields,
  }
}
