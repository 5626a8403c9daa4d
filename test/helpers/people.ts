import type pg from 'pg'

const FIRST_NAMES =
  'John,José,Anna,Søren,Maria,Zoë,Peter,Łukasz,Emma,Noah,Olivia,Liam,Björn,Françoise,Giulia,Mateo,Ingrid,Chloé,Hans,Yusuf,' +
  'Aisha,Wei,Akira,Dmitri,Elena,Priya,Rahul,Fatima,Omar,Kwame,Thomas,Laura,Julia,Lukas,Sofia,Carlos,Miguel,Renée,André,Zlatan'
const LAST_NAMES =
  'Núñez,Smith,Müller,García,Ødegård,O’Brien,Dvořák,Kowalska,Meyer,Schmidt,Fischer,Weber,Rossi,Silva,Tanaka,Kim,Nguyen,Okafor,Petrov,Haddad'
const ENDINGS = ',,,,,berg,son,mann,ski,dottir,inho,ov,sen,aki,well,ton,ford,field,ley,stad'
const SECOND_NAMES = ',,,,Lind,Park,Costa,Moreau,Brandt,Novak,Ito'

/** People whose names, of a few hundred thousand, are shared unevenly; of 1,000 one is anonymous, of 50 one archived. */
const PEOPLE = `
  insert into users (type, state, first_name, last_name, email, phone, description, metadata, created_at, updated_at)
  select
    case when n % 1000 = 7 then 'anonymous' when n % 20 = 3 then 'new' else 'regular' end,
    case when n % 50 = 11 then 'archived' else 'active' end,
    first, last,
    regexp_replace(lockstep_fold(first || '.' || last), '[^a-z.]', '', 'g') || n || '@' ||
      (array['gmail.com', 'example.com', 'yahoo.com', 'web.de', 'firma.example', 'outlook.com'])[1 + c % 6],
    '+1' || 2000000000 + c::bigint * 7919 % 7999999999,
    case when n % 4 = 0 then (array['VIP, says support', 'Prefers e-mail', 'Came by the trade fair', 'Moved from the old shop'])[1 + n / 4 % 4] end,
    jsonb_build_object('tier', (array['gold', 'silver', 'bronze'])[1 + a % 3], 'externalId', 'crm-' || left(md5(n::text), 10)),
    now() - n * interval '20 seconds', now() - b % 30000000 * interval '1 second'
  from (
    select n, abs(hashint4(n)::bigint) as a, abs(hashint4(n + 500000000)::bigint) as b, abs(hashint4(n + 1000000000)::bigint) as c
    from generate_series($1::int, $2::int) n
  ) numbers,
  lateral (select
    (string_to_array('${FIRST_NAMES}', ','))[1 + floor(power(a % 1000 / 1000.0, 2) * 40)::int] as first,
    (string_to_array('${LAST_NAMES}', ','))[1 + b % 20] || (string_to_array('${ENDINGS}', ','))[1 + c % 20]
      || coalesce('-' || nullif((string_to_array('${SECOND_NAMES}', ','))[1 + c / 60 % 11], ''), '') as last
  ) names`

/** How users stand with Stripe: nearly all agree, few failed. */
const STATES = `
  insert into sync_state (user_id, tenant_id, status, local_revision, synced_revision, dirty_since)
  select id, tenant_id, case when h % 5000 = 1 then 'failed' when h % 2000 = 2 then 'conflict' else 'in_sync' end, 1, 1, null
  from (select id, tenant_id, abs(hashtext(id::text)) as h from users where id > $1) as hashed`

const SEARCH = `select lockstep_list_users(ids), lockstep_search_users(ids)
  from (select array(select id from users where id > $1) as ids) as entries`

const LAST =
  "select coalesce((select id from users order by id desc limit 1), '00000000-0000-0000-0000-000000000000') as id"

const STEP = 10_000

/**
 * Adds people to the default tenant, all of them settled, the newest first; with `isFollowed` by the triggers, which is what any
 * program's insert costs, else past them, and entered into the search afterwards. Answers what each took, in milliseconds.
 */
export async function loadPeople(
  pool: pg.Pool,
  count: number,
  { isFollowed = false, onProgress = (_done: number) => {} } = {},
): Promise<{ insertMs: number; searchMs: number }> {
  const client = await pool.connect()
  const time = async (work: () => Promise<unknown>) => {
    const started = performance.now()
    await work()
    return performance.now() - started
  }
  try {
    await client.query('set synchronous_commit = off')
    if (!isFollowed) await client.query('set session_replication_role = replica')
    let insertMs = 0
    let searchMs = 0
    for (let done = 0; done < count; done += STEP) {
      const until = Math.min(done + STEP, count)
      const { rows } = await client.query<{ id: string }>(LAST)
      insertMs += await time(() => client.query(PEOPLE, [done + 1, until]))
      if (!isFollowed) {
        insertMs += await time(() => client.query(STATES, [rows[0]?.id]))
        searchMs += await time(() => client.query(SEARCH, [rows[0]?.id]))
      }
      onProgress(until)
    }
    if (isFollowed) {
      await client.query(
        "update sync_state set status = 'in_sync', synced_revision = local_revision, dirty_since = null where dirty",
      )
    }
    return { insertMs, searchMs }
  } finally {
    client.release(true)
  }
}
