import type pg from 'pg'
import { newId } from '../../src/lib/ids.js'
import { remoteState } from '../../src/sync/fields.js'
import { customerObject } from './events.js'

/** A user in step with a Stripe customer. */
export interface Pair {
  userId: string
  stripeCustomerId: string
  /** The customer as Stripe holds it; an event of a change starts from it. */
  customer: Record<string, unknown>
}

const BATCH = 2_000
/** When the pairs were last seen to agree: well before any event of the benchmark. */
const AGREED_MS = 3_600_000

/** Fills the database with users in step with customers, as a service has them that has run for long. */
export async function seedPairs(pool: pg.Pool, count: number, start = 0): Promise<Pair[]> {
  const { rows } = await pool.query<{ id: string }>("select id from tenants where slug = 'default'")
  const tenantId = rows[0]?.id ?? ''
  const created = Math.floor((Date.now() - AGREED_MS) / 1000)
  const pairs: Pair[] = []
  for (let from = start; from < start + count; from += BATCH) {
    const size = Math.min(BATCH, start + count - from)
    const batch = Array.from({ length: size }, (_, offset): Pair & { remote: string; base: string; email: string } => {
      const n = from + offset
      const userId = newId()
      const stripeCustomerId = `cus_bench${n.toString().padStart(9, '0')}`
      const email = `person${n}@example.com`
      const customer = {
        ...customerObject(stripeCustomerId, email, 'at first', created),
        metadata: {
          lockstep_user_id: userId,
          lockstep_tenant_id: tenantId,
          lockstep_type: 'regular',
          lockstep_state: 'active',
        },
      }
      const remote = remoteState(customer, [])
      const texts = { remote: JSON.stringify(remote), base: JSON.stringify(remote.fields) }
      return { userId, stripeCustomerId, customer, email, ...texts }
    })
    const client = await pool.connect()
    try {
      await client.query('begin')
      await client.query(
        `insert into users (id, email, phone, first_name, last_name, description, locale, address, stripe_customer_id)
         select id, email, '+14155550100', 'Ada', 'Lovelace', 'at first', 'en', $4::jsonb, cus
         from unnest($1::uuid[], $2::text[], $3::text[]) as t (id, email, cus)`,
        [
          batch.map((pair) => pair.userId),
          batch.map((pair) => pair.email),
          batch.map((pair) => pair.stripeCustomerId),
          JSON.stringify(remoteState(batch[0]?.customer, []).fields.address),
        ],
      )
      await client.query(
        `insert into stripe_links (tenant_id, stripe_customer_id, user_id, how, stripe_created)
         select $1, cus, id, 'created', to_timestamp($4) from unnest($2::uuid[], $3::text[]) as t (id, cus)
         on conflict do nothing`,
        [tenantId, batch.map((pair) => pair.userId), batch.map((pair) => pair.stripeCustomerId), created],
      )
      await client.query(
        `update sync_state s set status = 'in_sync', remote = t.remote, base = t.base, remote_as_of = to_timestamp($4),
           synced_revision = local_revision, remote_synced_revision = remote_revision, needs_fetch = false,
           dirty_since = null, synced_at = to_timestamp($4), enqueued_until = null
         from unnest($1::uuid[], $2::jsonb[], $3::jsonb[]) as t (id, remote, base) where s.user_id = t.id`,
        [batch.map((pair) => pair.userId), batch.map((pair) => pair.remote), batch.map((pair) => pair.base), created],
      )
      await client.query('commit')
    } catch (error) {
      await client.query('rollback')
      throw error
    } finally {
      client.release()
    }
    pairs.push(...batch.map(({ userId, stripeCustomerId, customer }) => ({ userId, stripeCustomerId, customer })))
  }
  await pool.query('analyze')
  return pairs
}
