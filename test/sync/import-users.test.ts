import t, { type Test } from 'tap'
import { systemClock } from '../../src/lib/clock.js'
import { openChanges } from '../../src/repositories/audit-log.js'
import { type Db, makeDb } from '../../src/repositories/database.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { insertEvents } from '../../src/repositories/stripe-events.js'
import { makeCustomerService } from '../../src/services/customer.service.js'
import { remoteState } from '../../src/sync/fields.js'
import { importNewcomers, type Stranger } from '../../src/sync/import-users.js'
import { newEvent } from '../../src/sync/stored-event.js'
import { openTestCore } from '../helpers/core.js'
import { eventually } from '../helpers/wait.js'

async function open(t: Test) {
  const core = await openTestCore(t)
  const { db, pool, controls, runs, vault, tenant, drain } = core
  const rows = async (sql: string, params: unknown[] = []) => (await pool.query(sql, params)).rows
  return {
    ...core,
    rows,
    /** A sweep, carried through; answers the run. */
    async sweep() {
      const request = { tenantId: tenant.id, kind: 'sweep', dryRun: false, trigger: 'api', requestedBy: null } as const
      const run = await runs.start(request)
      const done = await runs.execute(run.id, new AbortController().signal)
      if (done === null) throw new Error('someone else has the run')
      return done
    },
    /** The customer's events come in and are settled, one by one. */
    async eventsComeIn(stripeId: string) {
      const events = controls.events().filter(({ data }) => (data.object as { id: string }).id === stripeId)
      await insertEvents(
        db,
        vault.cipher,
        events.map((event) => newEvent(tenant.id, event, 'webhook')),
      )
      await drain.drainBatch()
    },
    async newUser(columns: Record<string, unknown>): Promise<string> {
      const names = Object.keys(columns)
      const values = names.map((_, n) => `$${n + 1}`)
      const [row] = await rows(
        `insert into users (${names.join(', ')}) values (${values.join(', ')}) returning id`,
        Object.values(columns),
      )
      return row.id
    },
    settings: (settings: object) => rows('update tenants set settings = settings || $1::jsonb', [settings]),
    userOf: async (stripeId: string) =>
      (await rows('select * from users where stripe_customer_id = $1', [stripeId]))[0],
    duplicates: () => rows('select * from duplicate_customers order by stripe_customer_id'),
    /** The transactions in which users were added that nobody has changed since. */
    transactions: async () => (await rows('select distinct xmin::text from users')).length,
    /** All that is kept of the customer's user, but for ids, times and what is its own; what is sealed is open. */
    async holdings({ id: stripeId, name, phone }: Own) {
      const { id, ...user } = (await rows('select * from users where stripe_customer_id = $1', [stripeId]))[0]
      const seal = await vault.person(db, tenant.id, id)
      const tables: Record<string, object[]> = { user: [user] }
      for (const [table, key] of KEPT)
        tables[table] = await rows(`select * from ${table} where ${key}::text = $1`, [id])
      const text = JSON.stringify(tables, (name, value) => {
        if (TIMES.has(name) && value !== null) return 'a time'
        return name === 'changes' ? openChanges(seal, value) : value
      })
      return JSON.parse(
        text
          .replaceAll(id, 'the user')
          .replaceAll(stripeId, 'the customer')
          .replaceAll(name, 'own')
          .replaceAll(phone, 'own')
          .replaceAll(/"\d{4}-\d\d-\d\dT[\d:.]+Z"/g, '"a time"'),
      )
    },
  }
}

/** What one customer has that no other one has. */
interface Own {
  id: string
  name: string
  phone: string
}

/** Where something is kept of a user, by which column. */
const KEPT = [
  ['sync_state', 'user_id'],
  ['stripe_links', 'user_id'],
  ['user_list', 'user_id'],
  ['user_search', 'user_id'],
  ['customer_state_changes', 'customer_id'],
  ['audit_log', 'entity_id'],
] as const

/** What is not the same of two that were made at different times, or in different ways. */
const TIMES = new Set(['id', 'cause', 'created_at', 'stripe_created', 'words', 'seq', 'hash', 'invoicePrefix'])

const FULL = {
  name: 'Ada King  Lovelace',
  phone: '+14155550123',
  description: 'counts',
  preferred_locales: ['en-GB', 'fr'],
  address: { line1: '12 St James Square', city: 'London', country: 'gb' },
  shipping: { name: 'Ada', address: { line1: 'Ockham Park' } },
  balance: -250,
  metadata: { tier: 'gold', other_system: 'theirs', '': '', constructor: 'built' },
}

t.test('a page of newcomers becomes users in one transaction', async (t) => {
  const { controls, sweep, rows, userOf, transactions, settings } = await open(t)
  await settings({ foreignMetadataPrefixes: ['other_'] })
  const { id: full } = controls.createCustomer({ email: 'ada@example.com', ...FULL })
  const { id: bare } = controls.createCustomer({})
  const { id: german } = controls.createCustomer({ email: 'Jürgen@example.com', name: 'Jürgen' })
  for (let n = 0; n < 30; n += 1) controls.createCustomer({ email: `p${n}@example.com`, name: `Person ${n}` })

  const run = await sweep()
  t.match(run, { status: 'succeeded', counts: { created: 33, linked: 0, duplicate: 0, failed: 0 } })
  t.match(await userOf(full), {
    type: 'regular',
    state: 'active',
    email: 'ada@example.com',
    phone: '+14155550123',
    first_name: 'Ada',
    last_name: 'King Lovelace',
    locale: 'en-GB',
    address: { line1: '12 St James Square', country: 'GB', postalCode: null },
    shipping: { name: 'Ada', phone: null, address: { line1: 'Ockham Park' } },
    billing: { balance: -250 },
    revision: 1,
  })
  t.strictSame((await userOf(full)).metadata, { tier: 'gold', constructor: 'built' }, 'metadata, but what is others’')
  t.match(controls.getCustomer(full), { metadata: { other_system: 'theirs' } })
  t.match(await userOf(bare), { email: null, first_name: null, address: null, shipping: null, metadata: {} })
  t.match(await userOf(german), { first_name: 'Jürgen' })
  t.equal(await transactions(), 2, 'all but the one whose lower case only Postgres knows came together')
  t.match(await rows('select distinct how, unlinked_at, stripe_created is null as undated from stripe_links'), [
    { how: 'imported', unlinked_at: null, undated: false },
  ])
  const states = 'select distinct status, dirty, needs_fetch, local_revision, remote_revision from sync_state'
  t.strictSame(await rows(states), [
    { status: 'pending', dirty: true, needs_fetch: false, local_revision: 1, remote_revision: 1 },
  ])
  t.strictSame(await rows('select distinct actor, action, cause, count(*)::int from audit_log group by 1, 2, 3'), [
    { actor: 'sync', action: 'sync.import', cause: `run:${run.id}`, count: 33 },
  ])

  t.match(await sweep(), { counts: { created: 0, fixed: 0 } }, 'once more there is nothing to do')
  t.equal((await rows('select from users')).length, 33)
})

t.test('they settle, and are found, as any user', async (t) => {
  const { controls, sweep, reconcile, userOf, rows, tenant } = await open(t)
  const made = ['ada', 'bob', 'cyd'].map((name) => controls.createCustomer({ email: `${name}@example.com`, name }).id)
  await sweep()
  for (const stripeId of made) {
    const { id } = await userOf(stripeId)
    t.match(await reconcile(id), { outcome: 'settled', status: 'in_sync', stripeCustomerId: stripeId })
    t.match(controls.getCustomer(stripeId), { metadata: { lockstep_user_id: id, lockstep_tenant_id: tenant.id } })
  }
  t.equal((await rows("select from user_search where text like '%cyd%'")).length, 1)
  t.strictSame(await rows('select distinct sync_status from user_list'), [{ sync_status: 'in_sync' }])
})

t.test('all that is kept is as if they had come one by one', async (t) => {
  const { controls, sweep, eventsComeIn, holdings, settings, transactions } = await open(t)
  await settings({ foreignMetadataPrefixes: ['other_'] })
  const create = (name: string, phone: string): Own => {
    const { id } = controls.createCustomer({ ...FULL, email: `${name}@example.com`, phone })
    return { id, name, phone }
  }
  const alone = create('aaa', '+14155550120')
  const swept = create('bbb', '+14155550121')
  await eventsComeIn(alone.id)
  controls.createCustomer({ email: 'company@example.com' })
  await sweep()
  t.equal(await transactions(), 2)
  t.strictSame(await holdings(swept), await holdings(alone))
})

t.test('look-alikes on one page: both are imported, one is reported', async (t) => {
  const { controls, sweep, duplicates, userOf, rows, transactions } = await open(t)
  const [byEmail, byPhone, others] = [
    [{ email: 'ada@example.com' }, { email: 'ADA@example.com' }],
    [{ phone: '+14155550100' }, { phone: '+14155550100' }],
    [{ email: 'x@example.com' }, { phone: '+14155550111' }, {}],
  ].map((all) => all.map((one) => controls.createCustomer(one).id))
  t.match(await sweep(), { counts: { created: 7, duplicate: 2 } })
  t.equal((await rows('select from users')).length, 7)
  t.equal(await transactions(), 5, 'all who resemble nobody came together')
  const reported = await duplicates()
  for (const [by, pair] of [
    ['email', byEmail],
    ['phone', byPhone],
  ] as const) {
    const found = reported.filter(({ reason }) => reason === by)
    t.equal(found.length, 1)
    const [{ stripe_customer_id: second, user_id, candidates }] = found
    const first = pair?.find((id) => id !== second) ?? ''
    t.ok(pair?.includes(second))
    t.equal(user_id, (await userOf(first)).id)
    t.strictSame(candidates, [(await userOf(second)).id])
  }
  for (const id of others ?? []) t.ok(await userOf(id))
})

t.test('who is known already is met one by one', async (t) => {
  const { controls, sweep, newUser, userOf, duplicates, rows, tenant } = await open(t)
  const lonely = await newUser({ email: 'lonely@example.com' })
  const called = await newUser({ phone: '+14155550101' })
  const taken = await newUser({ email: 'taken@example.com', stripe_customer_id: 'cus_other' })
  const namesake = await newUser({ email: 'old@example.com' })
  const nobody = '01a00000-0000-7000-8000-000000000001'
  const namedBy = (id: string) => ({ lockstep_user_id: id, lockstep_tenant_id: tenant.id })
  const make = (params: Record<string, unknown>) => controls.createCustomer(params).id
  const ids = {
    lonely: make({ email: 'Lonely@example.com', name: 'Lone' }),
    called: make({ phone: '+14155550101' }),
    taken: make({ email: 'taken@example.com' }),
    named: make({ email: 'new@example.com', metadata: namedBy(namesake) }),
    ignored: make({ email: 'ignored@example.com' }),
    dead: make({ email: 'dead@example.com' }),
    lost: make({ email: 'lost@example.com', metadata: namedBy(nobody) }),
    odd: make({ metadata: { ...namedBy('no id'), tier: 'gold' } }),
    plain: make({ email: 'plain@example.com' }),
  }
  await rows(
    `insert into duplicate_customers (tenant_id, stripe_customer_id, reason, candidates, status)
     values ($1, $2, 'ambiguous', '[]', 'ignored')`,
    [tenant.id, ids.ignored],
  )
  await rows(
    `insert into stripe_links (tenant_id, stripe_customer_id, how, deleted_at) values ($1, $2, 'tombstone', now())`,
    [tenant.id, ids.dead],
  )
  t.match(await sweep(), { counts: { created: 4, linked: 3, duplicate: 1 } })
  for (const [id, user] of [
    [ids.lonely, lonely],
    [ids.called, called],
    [ids.named, namesake],
  ] as const) {
    t.equal((await userOf(id)).id, user)
  }
  t.match(
    (await duplicates()).find(({ stripe_customer_id }) => stripe_customer_id === ids.taken),
    { user_id: taken, reason: 'email', status: 'open' },
  )
  t.equal(await userOf(ids.ignored), undefined)
  t.equal(await userOf(ids.dead), undefined)
  t.match(await userOf(ids.odd), { metadata: { tier: 'gold' } })
  const together = new Set(
    (
      await rows('select xmin::text as x from users where stripe_customer_id = any($1)', [
        [ids.lost, ids.odd, ids.plain],
      ])
    ).map(({ x }) => x),
  )
  t.equal(together.size, 1, 'metadata that names nobody here makes nobody known')
})

t.test('a tenant that does not import gets no users', async (t) => {
  for (const onRemoteCreate of ['link-only', 'ignore']) {
    const { controls, sweep, settings, rows } = await open(t)
    await settings({ onRemoteCreate })
    controls.createCustomer({ email: 'ada@example.com' })
    t.match(await sweep(), { counts: { created: 0 } })
    t.strictSame(await rows('select id from users'), [])
    t.strictSame(await rows('select user_id from stripe_links'), [])
  }
})

t.test('values are sealed where they are kept for the record', async (t) => {
  const { controls, sweep, rows, userOf, vault, db, tenant } = await open(t)
  const { id } = controls.createCustomer({ email: 'ada@example.com', phone: '+14155550199', name: 'Ada' })
  controls.createCustomer({ email: 'bob@example.com' })
  await sweep()
  const user = await userOf(id)
  const [{ changes }] = await rows('select changes from audit_log where entity_id = $1', [user.id])
  t.notMatch(JSON.stringify(changes), /ada@|4155550199|Ada/)
  t.equal((await rows('select distinct sealed_key from person_keys')).length, 2, 'each has a key of its own')
  const seal = await vault.person(db, tenant.id, user.id)
  t.match(openChanges(seal, changes), { fields: { email: { from: null, to: 'ada@example.com' } }, revision: 1 })
})

const stranger = (n: number, email: string): Stranger => ({
  stripeCustomerId: `cus_${n}`,
  remote: remoteState({ email, name: 'Ada', metadata: { tier: 'gold' } }, []),
  asOf: new Date(),
  stripeCreated: new Date(),
  needsFetch: false,
  idempotencyKey: null,
  cause: 'run:test',
})

/** The database, where a transaction does not commit before `until` resolves. `isReady` resolves when it has only that left to do. */
function holding(db: Db, until: Promise<unknown>) {
  let ready = () => {}
  const isReady = new Promise<void>((resolve) => {
    ready = resolve
  })
  const held: Db = {
    query: (...given) => db.query(...given),
    transaction: (work) =>
      db.transaction(async (tx) => {
        const result = await work(tx)
        ready()
        await until
        return result
      }),
  }
  return { held, isReady }
}

function signal() {
  let give = () => {}
  const given = new Promise<void>((resolve) => {
    give = resolve
  })
  return { give, given }
}

const WAITERS = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'`

t.test('the API adds the same person in the same moment: it is one user', async (t) => {
  const { controls, sweep, rows, pool, db, vault, tenant } = await open(t)
  const settingsOf = async () => tenant.settings
  const sync = { wake() {}, async reattach() {} }
  const parts = { prisma: openPrisma(pool), vault, sync, settingsOf, clock: systemClock }
  const by = { tenantId: tenant.id, actor: 'test', requestId: null, ip: null }
  const { give, given } = signal()
  const { held, isReady } = holding(db, given)
  const { id } = controls.createCustomer({ email: 'Ada@example.com', name: 'Ada' })
  controls.createCustomer({ email: 'bob@example.com' })
  const created = makeCustomerService({ ...parts, db: held }).create(by, { email: 'ada@example.com' })
  await isReady
  const swept = sweep()
  await eventually(async () => (await rows(WAITERS)).length === 1, { what: 'the sweep to wait' }).finally(give)
  t.match(await swept, { status: 'succeeded', counts: { created: 1, linked: 1 } })
  const { customer } = await created
  t.strictSame(await rows("select id, stripe_customer_id from users where lower(email) = 'ada@example.com'"), [
    { id: customer.id, stripe_customer_id: id },
  ])
})

t.test('two processes have the same page, or the same person: nobody becomes two', async (t) => {
  const { rows, db, pool, vault, tenant } = await open(t)
  const page = [3, 1, 2, 4].map((n) => stranger(n, `p${n}@example.com`))
  const other = [...page].reverse()
  const import_ = (place: Db, strangers: Stranger[]) =>
    place.transaction((tx) => importNewcomers(tx, vault, tenant, strangers))
  const { give, given } = signal()
  const { held, isReady } = holding(db, given)
  const first = import_(held, page)
  await isReady
  // Another customer of a person on the page, too.
  const second = import_(makeDb(pool), [...other, stranger(5, 'P2@example.com')])
  const third = import_(makeDb(pool), [stranger(6, 'P3@example.com'), stranger(7, 'p7@example.com')])
  await eventually(async () => (await rows(WAITERS)).length === 2, { what: 'the others to wait' }).finally(give)
  t.equal((await first).size, 4)
  t.strictSame([...(await second)], [], 'left to be met one by one')
  t.strictSame([...(await third)], ['cus_7'])
  const together = await Promise.all(
    [1, 2, 3].map(() =>
      import_(
        makeDb(pool),
        [8, 9].map((n) => stranger(n, `p${n}@example.com`)),
      ),
    ),
  )
  t.equal(
    together.reduce((sum, { size }) => sum + size, 0),
    2,
  )
  t.equal((await rows('select from users')).length, 7)
  t.equal((await rows('select from stripe_links')).length, 7)
  t.equal((await rows('select from sync_state')).length, 7)
})

t.test('it dies anywhere: all are imported or none, and the next sweep makes up for it', async (t) => {
  const { rows, db, vault, tenant, controls, sweep } = await open(t)
  const ids = [1, 2, 3].map(
    (n) => controls.createCustomer({ email: `p${n}@example.com`, metadata: { n: String(n) } }).id,
  )
  const strangers = ids.map((id, n) => ({ ...stranger(0, `p${n + 1}@example.com`), stripeCustomerId: id }))
  const dying = (after: number) => {
    let left = after
    return db.transaction(async (tx) => {
      const mortal: Db = {
        async query(...given) {
          if (left === 0) throw new Error('died')
          left -= 1
          return tx.query(...given)
        },
        transaction: (work) => work(mortal),
      }
      await importNewcomers(mortal, vault, tenant, strangers)
      if (left === 0) throw new Error('died')
      throw new Error('lived')
    })
  }
  const tables = [
    'users',
    'stripe_links',
    'sync_state',
    'audit_log',
    'person_keys',
    'customer_state_changes',
    'user_list',
  ]
  let deaths = 0
  for (let isAlive = false; !isAlive; deaths += isAlive ? 0 : 1) {
    isAlive = await dying(deaths).catch((error: Error) => error.message === 'lived')
    for (const table of tables) t.strictSame(await rows(`select from ${table}`), [], `${table} after ${deaths}`)
  }
  t.ok(deaths > 8, 'at each of its statements')
  t.match(await sweep(), { counts: { created: 3 } })
  for (const table of tables) t.equal((await rows(`select from ${table}`)).length, 3, table)
})

t.test('a sweep that fails between goes on, and what it had imported stays', async (t) => {
  const { rows, controls, sweep, pool } = await open(t)
  for (let n = 0; n < 250; n += 1) controls.createCustomer({ email: `p${n}@example.com` })
  // The database refuses one of them, once some pages are through.
  await pool.query(`
    create function refuse() returns trigger language plpgsql as $$ begin raise exception 'refused' using errcode = 'internal_error'; end $$;
    create trigger refuse before insert on users for each row when (new.email = 'p1@example.com') execute function refuse()`)
  t.match(await sweep(), { status: 'failed' })
  const before = await rows('select id, stripe_customer_id from users order by id')
  t.ok(before.length > 0 && before.length < 250)
  await pool.query('drop trigger refuse on users')
  t.match(await sweep(), { status: 'succeeded' })
  const after = await rows('select id, stripe_customer_id from users order by id')
  t.equal(after.length, 250)
  t.equal(new Set(after.map((user) => user.stripe_customer_id)).size, 250)
  const kept = new Set(after.map(({ id }) => id))
  t.ok(before.every(({ id }) => kept.has(id)))
  t.strictSame(await rows('select from duplicate_customers'), [])
})
