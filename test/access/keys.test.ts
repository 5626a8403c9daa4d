import t from 'tap'
import { generateKey, hashKey, makeApiKeys, prefixOf } from '../../src/access/keys.js'
import { ManualClock } from '../../src/lib/clock.js'
import { newId } from '../../src/lib/ids.js'
import { ROLE_PERMISSIONS } from '../../src/models/roles.js'
import { openPrisma } from '../../src/repositories/prisma.js'
import { cloneDatabase } from '../helpers/database.js'

t.test('the form of a key', async (t) => {
  const key = generateKey()
  t.match(key, /^lsk_[a-z0-9]{8}_[\w-]{43}$/)
  t.not(key, generateKey())
  t.equal(prefixOf(key), key.slice(4, 12))
  t.equal(prefixOf('something else'), 'chosen')
})

t.test('made, checked, ended', async (t) => {
  const { pool } = await cloneDatabase(t)
  const prisma = openPrisma(pool)
  const clock = new ManualClock(Date.parse('2026-11-20T00:00:00Z'))
  const keys = makeApiKeys({ prisma, clock })
  const tenantId = (await pool.query('select id from tenants')).rows[0].id as string
  const by = { tenantId, actor: 'cli', requestId: null, ip: null }

  const { key, id } = await keys.create(by, { name: 'Till', role: 'manager' })
  const principal = { tenantId, actor: `key:${id}`, role: 'manager', permissions: ROLE_PERMISSIONS.manager }
  t.same(await keys.verify(key), principal)
  t.equal(await keys.verify(`${key}x`), null)
  t.equal(await keys.verify('x'.repeat(1000)), null)
  const stored = JSON.stringify((await pool.query('select * from api_keys')).rows)
  t.notMatch(stored, key.slice(13), 'the secret is not kept')
  t.match(stored, hashKey(key))
  const listed = await keys.list(tenantId, { limit: 10, after: null })
  t.match(listed, { data: [{ name: 'Till', prefix: prefixOf(key) }], hasMore: false })
  t.notOk(JSON.stringify(listed).includes(hashKey(key)))

  const { key: short } = await keys.create(by, {
    name: 'A day',
    role: 'viewer',
    expiresAt: new Date(clock.now() + 500),
  })
  t.ok(await keys.verify(short))
  clock.advance(500)
  t.equal(await keys.verify(short), null, 'expiry is not cached over')

  t.equal(await keys.revoke({ ...by, tenantId: newId() }, id), false, 'another tenant cannot')
  await pool.query('update api_keys set revoked_at = now() where id = $1', [id])
  t.ok(await keys.verify(key), 'believed for up to a second by this process')
  clock.advance(1_000)
  t.equal(await keys.verify(key), null)

  const { key: another, id: anotherId } = await keys.create(by, { name: 'B', role: 'viewer' })
  t.ok(await keys.verify(another))
  t.equal(await keys.revoke(by, anotherId), true)
  t.equal(await keys.verify(another), null, 'here at once')
  t.equal(await keys.revoke(by, anotherId), false)
  const { rows } = await pool.query("select action from audit_log where entity = 'api_key' order by at, id")
  t.strictSame(
    rows.map(({ action }) => action),
    ['create', 'create', 'create', 'revoke'].map((action) => `api_key.${action}`),
  )
})

t.test('a key that the operator chose', async (t) => {
  const { pool } = await cloneDatabase(t)
  const keys = makeApiKeys({ prisma: openPrisma(pool), clock: new ManualClock(Date.now()) })
  const tenantId = (await pool.query('select id from tenants')).rows[0].id as string
  const by = { tenantId, actor: 'system', requestId: null, ip: null }
  const spec = { name: 'LOCKSTEP_ADMIN_KEY', role: 'admin' } as const
  const chosen = 'c'.repeat(32)

  await t.rejects(keys.ensure(by, 'short', spec), { code: 'key_too_short' })
  await Promise.all([1, 2, 3].map(() => keys.ensure(by, chosen, spec)))
  await keys.ensure(by, chosen, spec)
  t.match(await keys.verify(chosen), { role: 'admin', tenantId })
  t.equal((await pool.query('select 1 from api_keys')).rows.length, 1)
  await t.rejects(keys.ensure(by, chosen, { ...spec, role: 'viewer' }), { code: 'key_taken' })
  await pool.query('update api_keys set revoked_at = now()')
  await t.rejects(keys.ensure(by, chosen, spec), { code: 'key_taken' })
})
