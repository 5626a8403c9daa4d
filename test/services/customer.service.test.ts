import t from 'tap'
import { ManualClock } from '../../src/lib/clock.js'
import { newId } from '../../src/lib/ids.js'
import { DEFAULT_SETTINGS } from '../../src/models/tenant.js'
import { makeDb } from '../../src/repositories/database.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { type CustomerService, makeCustomerService } from '../../src/services/customer.service.js'
import { cloneDatabase } from '../helpers/database.js'
import { testVault } from '../helpers/vault.js'

async function open(
  t: Parameters<typeof cloneDatabase>[0],
  onSettings: () => Promise<unknown> = async () => undefined,
) {
  const { pool } = await cloneDatabase(t)
  const clock = new ManualClock(Date.parse('2026-11-20T10:00:00Z'))
  const asked: string[] = []
  const customers: CustomerService = makeCustomerService({
    prisma: openPrisma(pool),
    db: makeDb(pool),
    vault: testVault(),
    clock,
    sync: { wake: () => asked.push('wake'), reattach: async (_tenant, id) => void asked.push(id) },
    settingsOf: async () => {
      await onSettings()
      return { ...DEFAULT_SETTINGS, defaultRegion: 'DE' }
    },
  })
  const tenantId = (await pool.query('select id from tenants')).rows[0].id as string
  const by = { tenantId, actor: 'test', requestId: newId(), ip: '127.0.0.1' }
  return { pool, clock, asked, customers, tenantId, by }
}

t.test('rules by type', async (t) => {
  const { customers, by } = await open(t)
  for (const type of ['unregistered', 'new'] as const) {
    await customers.create(by, { type, lastName: 'King' })
    await t.rejects(customers.create(by, { type }), { code: 'validation_failed' })
  }
  await t.rejects(customers.create(by, { lastName: 'King' }), { code: 'validation_failed' })
  const { customer } = await customers.create(by, { type: 'anonymous' })
  t.match(customer, { type: 'anonymous', email: null })
  await t.rejects(customers.patch(by, customer.id, { type: 'new' }), { code: 'validation_failed' })
  t.match(await customers.patch(by, customer.id, { type: 'regular', phone: '030 901820' }), { phone: '+4930901820' })
})

t.test('every broken rule at once', async (t) => {
  const { customers, by } = await open(t)
  const error = await customers
    .create(by, { email: 'x', phone: 'y', locale: '_', address: { country: 'ZZ' }, metadata: { lockstep_x: '1' } })
    .then(() => t.fail('was taken'))
    .catch((error: { errors: { path: string }[] }) => error)
  t.strictSame((error as { errors: { path: string }[] }).errors.map(({ path }) => path).sort(), [
    'address.country',
    'email',
    'locale',
    'metadata.lockstep_x',
    'phone',
  ])
})

t.test('what another program wrote is not judged until it changes', async (t) => {
  const { customers, by, pool } = await open(t)
  const { id } = (await pool.query("insert into users (email, phone) values ('not an e-mail', '12') returning id"))
    .rows[0]
  t.match(await customers.patch(by, id, { firstName: 'Ada' }), { firstName: 'Ada', email: 'not an e-mail' })
  await t.rejects(customers.patch(by, id, { email: 'nor this' }), { errors: [{ path: 'email' }] })
  t.match(await customers.patch(by, id, { email: 'ada@example.com' }), { email: 'ada@example.com', phone: '12' })
  const odd = '11111111-1111-1111-1111-111111111111'
  await pool.query("insert into users (id, email) values ($1, 'b@example.com')", [odd])
  t.match(await customers.get(by.tenantId, odd), { id: odd }, 'any UUID is an id')
})

t.test('a write that the sync overtook is worked out anew', async (t) => {
  let meanwhile: () => Promise<unknown> = async () => undefined
  const { customers, by, pool } = await open(t)
  const { customer } = await customers.create(by, { email: 'ada@example.com', metadata: { a: '1' } })
  const edits = Array.from({ length: 8 }, (_, index) =>
    customers.patch(by, customer.id, { metadata: { [`k${index}`]: 'v' } }),
  )
  meanwhile = () => pool.query(`update users set metadata = metadata || '{"theirs":"2"}' where id = $1`, [customer.id])
  await Promise.all([...edits, meanwhile()])
  const { metadata, revision } = await customers.get(by.tenantId, customer.id)
  t.equal(Object.keys(metadata).length, 10, 'no edit is lost')
  t.equal(revision, 10)
})

t.test('a revision that is demanded is never passed over', async (t) => {
  const { customers, by } = await open(t)
  const { customer } = await customers.create(by, { email: 'ada@example.com' })
  const at = (revision: number) => (present: number) => present === revision
  const results = await Promise.allSettled(
    ['A', 'B', 'C', 'D'].map((firstName) => customers.patch(by, customer.id, { firstName }, at(1))),
  )
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 1, 'one wins')
  for (const result of results) if (result.status === 'rejected') t.match(result.reason, { code: 'revision_mismatch' })
  await t.rejects(customers.archive(by, customer.id, at(1)), { code: 'revision_mismatch' })
  t.equal((await customers.archive(by, customer.id, at(2))).state, 'archived')
})

t.test('a write and its audit entry stand or fall together', async (t) => {
  const { customers, by, pool, asked } = await open(t)
  const { customer } = await customers.create(by, { email: 'ada@example.com' })
  await pool.query('alter table audit_log add constraint no_more check (false) not valid')
  asked.length = 0
  await t.rejects(customers.create(by, { email: 'b@example.com' }), { code: 'database_error' })
  await t.rejects(customers.patch(by, customer.id, { firstName: 'A' }), { code: 'database_error' })
  await t.rejects(customers.create(by, { email: 'c@example.com' }, { key: 'k', fingerprint: 'f' }), {
    code: 'database_error',
  })
  t.equal((await pool.query('select 1 from users')).rows.length, 1)
  t.equal((await pool.query('select 1 from idempotency_keys')).rows.length, 0)
  t.equal((await customers.get(by.tenantId, customer.id)).revision, 1)
  t.strictSame(asked, [])
})

t.test('archiving and erasing note when', async (t) => {
  const { customers, by, clock, pool } = await open(t)
  const { customer } = await customers.create(by, {
    email: 'ada@example.com',
    shipping: { name: 'Ada', phone: '+4930901820', address: { city: 'Berlin' } },
  })
  t.match(customer.shipping, { name: 'Ada', phone: '+4930901820', address: { city: 'Berlin', country: null } })
  await customers.archive(by, customer.id)
  clock.advance(60_000)
  const erased = await customers.erase(by, customer.id)
  t.match(erased, {
    state: 'erased',
    archivedAt: '2026-11-20T10:00:00.000Z',
    email: null,
    shipping: null,
    billing: null,
  })
  t.equal((await customers.archive(by, customer.id)).revision, erased.revision, 'nothing is left to do')
  const { rows } = await pool.query('select to_jsonb(u) as row from users u')
  t.notMatch(JSON.stringify(rows), /ada@|Berlin|[+]4930/)
})

t.test('a database that is gone', async (t) => {
  const { customers, by, pool } = await open(t)
  await customers.get(by.tenantId, newId()).catch(() => undefined)
  const { rows } = await pool.query('select current_database() as name')
  t.type(rows[0].name, 'string')
  await t.rejects(customers.get(by.tenantId, 'nonsense'), { code: 'not_found' })
})
