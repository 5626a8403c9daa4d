import { readFileSync } from 'node:fs'
import t from 'tap'
import { SETTING_NAMES } from '../../src/models/dtos/tenant-settings.dto.js'
import { DEFAULT_SETTINGS } from '../../src/models/tenant.js'
import { isProblem, openApi } from '../helpers/api.js'
import { pathOf } from '../helpers/docs.js'

t.test('settings', async (t) => {
  const api = await openApi(t)
  const patch = (body: unknown) => api.call('PATCH', '/tenant/settings', { body })
  const get = async () => (await api.call('GET', '/tenant/settings', { key: api.keys.viewer })).body
  t.strictSame(await get(), DEFAULT_SETTINGS)

  t.test('a merge patch changes what it names; null brings a default back', async (t) => {
    const policies = { default: 'local', email: 'stripe', 'metadata.tier': 'manual' }
    t.match(await patch({ policies, defaultRegion: 'GB', foreignMetadataPrefixes: ['crm_'] }), {
      status: 200,
      body: { policies, defaultRegion: 'GB', foreignMetadataPrefixes: ['crm_'], onRemoteCreate: 'import' },
    })
    t.strictSame((await patch({ policies: { email: null, phone: 'stripe' } })).body.policies, {
      default: 'local',
      'metadata.tier': 'manual',
      phone: 'stripe',
    })
    t.strictSame((await patch({ defaultRegion: null, foreignMetadataPrefixes: null })).body, {
      ...DEFAULT_SETTINGS,
      policies: { default: 'local', 'metadata.tier': 'manual', phone: 'stripe' },
    })
    t.strictSame(await get(), (await patch({})).body)
    const { rows } = await api.pool.query("select settings from tenants where slug = 'default'")
    t.strictSame(Object.keys(rows[0].settings), ['policies'], 'what has its default is not stored')
    t.strictSame((await patch({ policies: null })).body, DEFAULT_SETTINGS)
  })

  t.test('the audit log has the values before and after, once for each change', async (t) => {
    const entries = async () =>
      (await api.pool.query('select action, entity_id, changes from audit_log order by at, id')).rows
    const before = (await entries()).length
    await patch({ onRemoteDelete: 'archive' })
    await patch({ onRemoteDelete: 'archive' })
    t.strictSame((await entries()).slice(before), [
      {
        action: 'tenant.settings',
        entity_id: api.tenantId,
        changes: { before: { onRemoteDelete: 'detach' }, after: { onRemoteDelete: 'archive' } },
      },
    ])
  })

  t.test('what is wrong is named, and changes nothing', async (t) => {
    const before = await api.snapshot()
    const many = Object.fromEntries(Array.from({ length: 101 }, (_, n) => [`metadata.k${n}`, 'local']))
    const cases: [unknown, ...string[]][] = [
      [{ onRemoteDelet: 'archive' }, 'onRemoteDelet'],
      [{ onRemoteDelete: 'burn' }, 'onRemoteDelete'],
      [{ policies: { email: 'mine' } }, 'policies.email'],
      [{ policies: { firstName: 'local' } }, 'policies.firstName'],
      [{ policies: { 'metadata.lockstep_user_id': 'local' } }, 'policies.metadata.lockstep_user_id'],
      [{ policies: { 'metadata.': 'local' } }, 'policies.metadata.'],
      [{ policies: many }, 'policies'],
      [{ defaultRegion: 'gb' }, 'defaultRegion'],
      [{ defaultRegion: 'ZZ' }, 'defaultRegion'],
      [{ foreignMetadataPrefixes: ['ok_', 'lockstep_'] }, 'foreignMetadataPrefixes.1'],
      [{ foreignMetadataPrefixes: [''] }, 'foreignMetadataPrefixes.0'],
      [{ foreignMetadataPrefixes: ['a', 'a'] }, 'foreignMetadataPrefixes'],
      [{ onRemoteDelete: 'archive', defaultRegion: 'ZZ' }, 'defaultRegion'],
      [{ retention: { auditAfterDays: 30 } }, 'retention.auditAfterDays'],
    ]
    for (const [body, ...fields] of cases) isProblem(t, await patch(body), 400, 'validation_failed', ...fields)
    const choices = 'must be one of detach, archive, recreate, null'
    t.match((await patch({ onRemoteDelete: 'burn' })).body.errors, [{ message: choices }])
    t.equal(await api.snapshot(), before)
  })

  t.test('two patches at a time both count', async (t) => {
    const names = Array.from({ length: 10 }, (_, n) => `metadata.key${n}`)
    await Promise.all(names.map((name) => patch({ policies: { [name]: 'local' } })))
    t.strictSame(Object.keys((await get()).policies).sort(), names)
  })

  t.test('what another program spoiled is named, and mended by a patch', async (t) => {
    const stored = (await api.pool.query("select settings from tenants where slug = 'default'")).rows[0].settings
    const spoiled = { ...stored, onRemoteDelete: 'burn', policies: 5 }
    await api.pool.query("update tenants set settings = $1 where slug = 'default'", [spoiled])
    for (const answer of [await api.call('GET', '/tenant/settings'), await patch({ policies: null })]) {
      isProblem(t, answer, 409, 'settings_invalid')
      t.match(answer.body.detail, 'onRemoteDelete must be one of detach, archive, recreate')
    }
    const mended = await patch({ onRemoteDelete: null, policies: stored.policies })
    t.match(mended, { status: 200, body: { ...stored, onRemoteDelete: DEFAULT_SETTINGS.onRemoteDelete } })
  })

  t.test('another tenant’s are untouched', async (t) => {
    t.strictSame((await api.call('GET', '/tenant/settings', { key: api.keys.other })).body, DEFAULT_SETTINGS)
  })

  t.test('each is in the README', async (t) => {
    const readme = readFileSync(pathOf('README.md'), 'utf8')
    for (const name of SETTING_NAMES) t.match(readme, `| \`${name}\` |`)
  })
})

t.test('the tenant of a key', async (t) => {
  const api = await openApi(t)
  t.match(await api.call('GET', '/tenant', { key: api.keys.viewer }), {
    status: 200,
    body: { id: api.tenantId, slug: 'default', stripe: { status: 'connected', account: null, key: null } },
  })
  t.match((await api.call('GET', '/tenant', { key: api.keys.other })).body, {
    id: api.otherTenantId,
    stripe: { status: 'not_connected' },
  })
  t.equal((await api.call('GET', '/tenant')).headers.get('cache-control'), 'no-store')

  const before = await api.snapshot()
  const put = (body: unknown) => api.call('PUT', '/tenant/stripe', { body, key: api.keys.other })
  isProblem(t, await put({ secretKey: 'sk_test_nobody_listens' }), 502, 'stripe_unavailable')
  isProblem(t, await put({ webhookSecrets: ['nosecret'] }), 400, 'validation_failed', 'webhookSecrets.0')
  isProblem(t, await put({ secret: 'x' }), 400, 'validation_failed', 'secret')
  t.equal(await api.snapshot(), before)
  t.match((await put({ webhookSecrets: ['whsec_0123456789abcd', 'whsec_efgh'] })).body.stripe.webhookSecrets, [
    { last4: 'abcd' },
    { last4: null },
  ])
  t.strictSame((await put({ webhookSecrets: [] })).body.stripe.webhookSecrets, [])
  t.strictSame(api.asked, [], 'nothing of that makes an account')
})
