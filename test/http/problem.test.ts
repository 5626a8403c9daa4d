import { connect } from 'node:net'
import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { encodeCursor } from '../../src/repositories/cursor.js'
import { isProblem, openApi } from '../helpers/api.js'

const email = 'ada@example.com'
const manyKeys = Object.fromEntries(Array.from({ length: 47 }, (_, index) => [`k${index}`, 'v']))

/** Bodies of POST, with the fields that the answer must name. */
const BODIES: [what: string, body: unknown, ...fields: string[]][] = [
  ['an e-mail that is none', { email: 'nobody' }, 'email'],
  ['an e-mail with two @', { email: 'a@b@example.com' }, 'email'],
  ['an e-mail with a blank', { email: 'a b@example.com' }, 'email'],
  ['an e-mail without a dot', { email: 'a@localhost' }, 'email'],
  ['an e-mail with dots astray', { email: 'a..b@example.com' }, 'email'],
  ['an e-mail too long', { email: `a@${`${'x'.repeat(60)}.`.repeat(9)}com` }, 'email'],
  ['a phone that is none', { phone: 'call me' }, 'phone'],
  ['a phone too short', { phone: '12345' }, 'phone'],
  ['a phone with an extension', { phone: '+1 415 555 0100 ext. 5' }, 'phone'],
  ['no contact', {}, 'email', 'phone'],
  ['a regular one with a name only', { firstName: 'Ada' }, 'email', 'phone'],
  [
    'a new one with blanks only',
    { type: 'new', firstName: '  ', email: '' },
    'firstName',
    'lastName',
    'email',
    'phone',
  ],
  ['a name too long', { email, firstName: 'a'.repeat(128), lastName: 'b'.repeat(128) }, 'lastName'],
  ['a description too long', { email, description: 'a'.repeat(5001) }, 'description'],
  ['a part of the address too long', { email, address: { line2: 'a'.repeat(5001) } }, 'address.line2'],
  ['a country that is none', { email, address: { country: 'XX' } }, 'address.country'],
  ['a country that was', { email, address: { country: 'SU' } }, 'address.country'],
  ['a country in words', { email, address: { country: 'Germany' } }, 'address.country'],
  ['shipping without its parts', { email, shipping: {} }, 'shipping.name', 'shipping.address'],
  [
    'shipping with a wrong phone',
    { email, shipping: { name: 'A', phone: '1', address: { city: 'B' } } },
    'shipping.phone',
  ],
  ['a locale that is none', { email, locale: 'en_US' }, 'locale'],
  ['too many metadata keys', { email, metadata: manyKeys }, 'metadata'],
  ['a metadata key too long', { email, metadata: { ['k'.repeat(41)]: 'v' } }, `metadata.${'k'.repeat(41)}`],
  ['a metadata key with brackets', { email, metadata: { 'a[b]': 'v' } }, 'metadata.a[b]'],
  ['an empty metadata key', { email, metadata: { '': 'v' } }, 'metadata.'],
  ['a metadata key of ours', { email, metadata: { lockstep_user_id: 'v' } }, 'metadata.lockstep_user_id'],
  ['a metadata value too long', { email, metadata: { a: 'v'.repeat(501) } }, 'metadata.a'],
  ['a blank metadata value', { email, metadata: { a: '' } }, 'metadata.a'],
  ['a metadata value that is a number', { email, metadata: { a: 1 } }, 'metadata.a'],
  ['a number under a key with a line break', { email, metadata: { 'a\nb': 1 } }, 'metadata.a\nb'],
  ['a metadata value that is null', { email, metadata: { a: null } }, 'metadata.a'],
  ['unknown fields', { email, stripeCustomerId: 'cus_1', state: 'erased' }, 'stripeCustomerId', 'state'],
  ['an unknown field within', { email, address: { zip: '1' } }, 'address.zip'],
  [
    'wrong types',
    { email: 5, firstName: true, address: 'here', metadata: [] },
    'email',
    'firstName',
    'address',
    'metadata',
  ],
  ['an unknown type', { email, type: 'king' }, 'type'],
  ['a null type', { email, type: null }, 'type'],
  ['a line break in a name', { email, firstName: 'Ada\nKing', lastName: 'K\u001b[31m' }, 'firstName', 'lastName'],
  ['a tab in a city', { email, address: { city: 'Lon\tdon' } }, 'address.city'],
  ['an e-mail with what does not show', { email: 'ad\u200ba@example.com' }, 'email'],
  ['an e-mail at a number', { email: 'ada@example.123' }, 'email'],
  ['an e-mail at a hyphen', { email: 'ada@example.com-' }, 'email'],
  ['U+0000', { email, firstName: 'a\u0000b' }, 'firstName'],
  ['half a character', { email, metadata: { a: '\ud800' } }, 'metadata.a'],
  ['a list', [email], 'body'],
  ['a text', '"ada"', 'body'],
  ['null', 'null', 'body'],
  ['nothing', '', 'body'],
]

const QUERIES: [query: string, field: string][] = [
  ['limit=0', 'limit'],
  ['limit=101', 'limit'],
  ['limit=ten', 'limit'],
  ['limit=1.5', 'limit'],
  ['sort=phone', 'sort'],
  ['sort=relevance', 'sort'],
  ['count=yes', 'count'],
  ['updatedTo=2016-12-31T23:59:60Z', 'updatedTo'],
  ['type=king', 'type'],
  ['state=gone', 'state'],
  ['syncStatus=fine', 'syncStatus'],
  ['createdFrom=yesterday', 'createdFrom'],
  ['createdFrom=2026-02-30T00:00:00Z', 'createdFrom'],
  ['createdTo=2016-12-31T23:59:60Z', 'createdTo'],
  ['unknown=1', 'unknown'],
  ['q=', 'q'],
  ['q=%00', 'q'],
  ['email=a&email=b', 'email'],
]

t.test('a wrong value is named once, as what it is', async (t) => {
  const api = await openApi(t)
  const { body } = await api.call('POST', '/customers', { body: { email, metadata: { a: 1 }, name: 'Ada' } })
  t.strictSame(body.errors.map((error: { path: string; code: string }) => `${error.path} ${error.code}`).sort(), [
    'metadata.a wrong_type',
    'name unknown_field',
  ])
})

t.test('bodies', async (t) => {
  const api = await openApi(t)
  const { body: present } = await api.call('POST', '/customers', { body: { email, metadata: { tier: 'gold' } } })
  const before = await api.snapshot()
  for (const [what, body, ...fields] of BODIES) {
    t.comment(what)
    isProblem(t, await api.call('POST', '/customers', { body }), 400, 'validation_failed', ...fields)
    isProblem(t, await api.call('PUT', `/customers/${present.id}`, { body }), 400, 'validation_failed', ...fields)
  }
  for (const [what, body, field] of [
    ['nobody left', { email: null }, 'phone'],
    ['a wrong e-mail', { email: 'x' }, 'email'],
    ['a reserved key', { metadata: { lockstep_x: 'a' } }, 'metadata.lockstep_x'],
    ['too many keys in all', { metadata: Object.fromEntries(Object.entries(manyKeys).slice(1)) }, 'metadata'],
    ['a number', { metadata: { a: 4 } }, 'metadata.a'],
    ['an unknown field', { revision: 4 }, 'revision'],
    ['half of shipping', { shipping: { name: 'A' } }, 'shipping.address'],
    ['a type that needs more', { type: 'regular', email: null, firstName: 'A' }, 'email'],
  ] as const) {
    t.comment(what)
    isProblem(t, await api.call('PATCH', `/customers/${present.id}`, { body }), 400, 'validation_failed', field)
  }
  api.settings.foreignMetadataPrefixes = ['shop_']
  const foreign = { email, metadata: { shop_id: '1' } }
  isProblem(t, await api.call('POST', '/customers', { body: foreign }), 400, 'validation_failed', 'metadata.shop_id')
  t.equal(await api.snapshot(), before, 'nothing changed')
})

t.test('what is not JSON, too long, or of another type', async (t) => {
  const api = await openApi(t)
  const before = await api.snapshot()
  for (const body of [
    '{"email":',
    '{"email":"a@example.com",}',
    '{"__proto__":{"x":1}}',
    '{"constructor":{"prototype":{}}}',
  ]) {
    const answer = await api.call('POST', '/customers', { body })
    isProblem(t, answer, 400, 'invalid_json', 'body')
    if (/proto/.test(body))
      t.match(answer.body.detail, /must not have a key `__proto__`/, 'which is JSON, and is told so')
    else t.match(answer.body.detail, 'is not valid JSON')
  }
  const huge = { email, description: 'x'.repeat(70_000) }
  isProblem(t, await api.call('POST', '/customers', { body: huge }), 413, 'body_too_large', 'body')
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {
    const answer = await api.call('POST', '/customers', { body: 'email=a', headers: { 'content-type': type } })
    isProblem(t, answer, 415, 'unsupported_media_type', 'Content-Type')
  }
  t.equal(await api.snapshot(), before, 'nothing changed')
})

t.test('ids, cursors, parameters', async (t) => {
  const api = await openApi(t)
  for (const email of ['a@example.com', 'b@example.com', 'c@example.com']) {
    await api.call('POST', '/customers', { body: { email } })
  }
  const before = await api.snapshot()
  for (const id of ['1', 'cus_1', "1'--", '%00', `${newId()}0`]) {
    for (const [method, path, body] of [
      ['GET', `/customers/${id}`],
      ['PUT', `/customers/${id}`, { email }],
      ['PATCH', `/customers/${id}`, {}],
      ['DELETE', `/customers/${id}`],
      ['POST', `/customers/${id}/restore`],
      ['GET', `/customers/${id}/sync`],
      ['POST', `/customers/${id}/sync`],
      ['GET', `/reconciliations/${id}`],
      ['POST', `/conflicts/${id}/resolve`, { winner: 'local' }],
    ] as const) {
      isProblem(t, await api.call(method, path, { body }), 400, 'validation_failed', 'id')
    }
  }
  const keys = await api.call('PUT', '/tenant/stripe', { body: { secretKey: 'pk_test_1', webhookSecrets: ['nope'] } })
  isProblem(t, keys, 400, 'validation_failed', 'secretKey', 'webhookSecrets.0')
  t.match(keys.body.detail, /secretKey: must be .*sk_test_….*whsec_…/, 'in words')
  t.notMatch(JSON.stringify(keys.body), /\^|pattern/, 'and no regular expression')
  // What a body says there would be lost, such as a reason.
  const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
  for (const body of [{ reason: 'asked' }, ['x'], 'null', '1', deep, `{"a":${deep}}`]) {
    for (const [method, path] of [
      ['POST', `/customers/${newId()}/restore`],
      ['POST', `/customers/${newId()}/sync`],
      ['DELETE', `/customers/${newId()}`],
      ['POST', '/events/evt_1/replay'],
      ['POST', `/imports/${newId()}/cancel`],
      ['DELETE', `/api-keys/${newId()}`],
    ] as const) {
      isProblem(t, await api.call(method, path, { body }), 400, 'validation_failed', 'body')
    }
  }
  isProblem(t, await api.call('POST', `/customers/${newId()}/restore`, { body: {} }), 404, 'not_found')
  isProblem(t, await api.call('GET', '/events/evt-1'), 400, 'validation_failed', 'id')
  isProblem(t, await api.call('GET', '/customers/%zz'), 400, 'invalid_url', 'url')
  isProblem(t, await api.call('GET', `/customers/${'1'.repeat(300)}`), 414, 'uri_too_long', 'url')
  isProblem(t, await api.call('GET', `/customers/${newId()}`), 404, 'not_found')
  isProblem(
    t,
    await api.call('GET', `/customers/${newId()}/sync?waitForRevision=0`),
    400,
    'validation_failed',
    'waitForRevision',
  )
  isProblem(t, await api.call('GET', `/customers/${newId()}/sync?timeout=31`), 400, 'validation_failed', 'timeout')
  isProblem(t, await api.call('DELETE', `/customers/${newId()}?erase=maybe`), 400, 'validation_failed', 'erase')
  for (const [query, field] of QUERIES) {
    isProblem(t, await api.call('GET', `/customers?${query}`), 400, 'validation_failed', field)
  }

  const { nextCursor } = (await api.call('GET', '/customers?limit=1')).body
  const time = '2026-01-01T00:00:00.000000Z'
  const madeUp = [
    'x',
    'AAAA',
    `${nextCursor}A`,
    `${nextCursor}=`,
    Buffer.from('{}').toString('base64url'),
    Buffer.from('["-createdAt"]').toString('base64url'),
    Buffer.from(JSON.stringify(['-createdAt', time, newId(), 1])).toString('base64url'),
    encodeCursor('createdAt', { value: time, id: newId() }),
    encodeCursor('-createdAt', { value: time, id: '1' }),
    encodeCursor('-createdAt', { value: '2026-02-30T00:00:00.000000Z', id: newId() }),
    encodeCursor('-createdAt', { value: 'now()', id: newId() }),
  ]
  for (const cursor of madeUp) {
    isProblem(t, await api.call('GET', `/customers?cursor=${cursor}`), 400, 'invalid_cursor', 'cursor')
    for (const list of ['/events', '/conflicts', '/duplicates']) {
      isProblem(t, await api.call('GET', `${list}?cursor=${cursor}`), 400, 'invalid_cursor', 'cursor')
    }
  }
  isProblem(t, await api.call('GET', `/customers?cursor=${'x'.repeat(1001)}`), 400, 'validation_failed', 'cursor')
  isProblem(t, await api.call('POST', '/reconciliations', { body: { kind: 'all' } }), 400, 'validation_failed', 'kind')
  isProblem(
    t,
    await api.call('POST', '/reconciliations', { body: { kind: 'sweep', dryRun: 'true' } }),
    400,
    'validation_failed',
    'dryRun',
  )
  isProblem(
    t,
    await api.call('POST', `/conflicts/${newId()}/resolve`, { body: { winner: 'me' } }),
    400,
    'validation_failed',
    'winner',
  )
  t.equal(await api.snapshot(), before, 'nothing changed')
})

t.test('paths and methods', async (t) => {
  const api = await openApi(t)
  isProblem(t, await api.call('GET', '/nowhere', { key: null }), 404, 'route_not_found')
  isProblem(t, await api.call('GET', '/customers/a/b/c'), 404, 'route_not_found')
  const slashed = await api.call('GET', '/tenant/settings/')
  isProblem(t, slashed, 404, 'route_not_found')
  t.match(slashed.body.detail, 'There is no GET /tenant/settings/; there is /tenant/settings, without the slash.')
  const answer = await api.call('DELETE', '/customers')
  isProblem(t, answer, 405, 'method_not_allowed')
  t.equal(answer.headers.get('allow'), 'GET, HEAD, POST')
  isProblem(t, await api.call('POST', `/customers/${newId()}`, { body: {} }), 405, 'method_not_allowed')
})

t.test('what is not HTTP', async (t) => {
  const api = await openApi(t)
  const socket = connect(Number(new URL(api.url).port), '127.0.0.1')
  socket.end('NONSENSE\r\n\r\n')
  let answer = ''
  for await (const chunk of socket) answer += String(chunk)
  t.match(answer, /^HTTP\/1\.1 400 Bad Request\r\nContent-Type: application\/problem\+json/)
  t.match(JSON.parse(answer.split('\r\n\r\n')[1] ?? ''), { code: 'malformed_request', status: 400 })
})
