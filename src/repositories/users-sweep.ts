import type { Db } from './database.js'

/** What a page of users came to. */
export interface SweptUsers {
  users: number
  /** Active users that have no Stripe customer and are not kept apart from one. */
  withoutCustomer: number
  failed: number
  /** Users that were there before Lockstep, and have a state of their own from now on, which makes them dirty. */
  added: number
  /** The id of the last one, from behind which the next page begins; null: there are no more. */
  last: string | null
}

/**
 * Looks at up to `limit` of the tenant's users by id, behind `after`, and gives those without a state theirs where `addsStates`.
 * What it looked at stays in the database: a page costs a row, however long it is.
 */
export async function sweepUsersPage(
  db: Db,
  tenantId: string,
  after: string | null,
  limit: number,
  { addsStates }: { addsStates: boolean },
): Promise<SweptUsers> {
  const [row] = await db.query<SweptUsers>(
    `with page as materialized (
       select u.id, u.state, u.stripe_customer_id, u.revision, s.status from (
         select id, state, stripe_customer_id, revision from users
         where tenant_id = $1 and ($2::uuid is null or id > $2) order by id limit $3
       ) as u
       -- Each by its key: a join might read all states for every page.
       left join lateral (select status from sync_state where user_id = u.id offset 0) as s on true
     ), added as (
       insert into sync_state (user_id, tenant_id, local_revision)
       select id, $1, revision from page where status is null and $4
       on conflict (user_id) do nothing returning user_id
     )
     select count(*)::int as users,
       count(*) filter (where stripe_customer_id is null and state = 'active' and status is distinct from 'detached')::int
         as "withoutCustomer",
       count(*) filter (where status = 'failed')::int as failed,
       (select count(*)::int from added) as added,
       (select id from page order by id desc limit 1) as last
     from page`,
    [tenantId, after, limit, addsStates],
  )
  if (row === undefined) throw new Error('a count returned no row')
  return row
}
