import { request } from 'node:http'
import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { openApi, type TestApi } from '../helpers/api.js'
import { mustBeDocumented } from '../helpers/documented.js'

t.setTimeout(580_000)

/** What clients send by mistake or on purpose, as JSON text where JSON.stringify could not write it. */
const NASTY: readonly string[] = [
  'null',
  'true',
  '0',
  '-1',
  '1e400',
  '9007199254740993',
  '""',
  '" "',
  '"\\u0000"',
  '"a\\u0000b@example.com"',
  '"\\ud800"',
  '"‮ﷺ💣é"',
  '"\'; drop table users; --"',
  '"x\\r\\nSet-Cookie: a=b"',
  '"../../etc/passwd"',
  '"{{7*7}} <script>"',
  JSON.stringify('x'.repeat(60_000)),
  '[]',
  '{}',
  '[[[]]]',
  `${'['.repeat(500)}${']'.repeat(500)}`,
  `${'{"a":'.repeat(500)}1${'}'.repeat(500)}`,
  '{"__proto__":{"role":"admin"}}',
  '{"constructor":{"prototype":{"x":1}}}',
]
const NASTY_TEXT = [
  '',
  ' ',
  '%00',
  '%ff',
  '%ud800',
  "' or 1=1 --",
  '%0d%0aSet-Cookie:%20a=b',
  '-1',
  '1e9',
  'x'.repeat(600),
  '[]',
]

interface Operation {
  parameters?: { in: string; name: string }[]
  requestBody?: { content: Record<string, { schema: { properties?: Record<string, unknown>; examples?: unknown[] } }> }
}

/** An answer, read by hand: odd headers must reach the server as they are. */
function send(url: string, key: string, method: string, path: string, body?: string, headers = {}) {
  return new Promise<{ status: number; type: string; body: string }>((resolve, reject) => {
    const outgoing = request(
      `${url}${path}`,
      {
        method,
        headers: {
          authorization: `Bearer ${key}`,
          ...(body === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
          ...headers,
        },
      },
      async (answer) => {
        const chunks: Buffer[] = []
        for await (const chunk of answer) chunks.push(chunk as Buffer)
        const type = answer.headers['content-type'] ?? ''
        resolve({ status: answer.statusCode ?? 0, type, body: Buffer.concat(chunks).toString() })
      },
    )
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

/** The bodies to try on an operation: every nasty one whole, and in the place of, or beside, each field of a good one. */
function* bodiesFor(operation: Operation): Iterable<string | undefined> {
  const schema = operation.requestBody?.content['application/json']?.schema
  if (schema === undefined) return
  yield ''
  yield '{'
  yield '{"a":1,}'
  yield '\0'
  yield* NASTY
  const good = (schema.examples?.[0] ?? {}) as Record<string, unknown>
  for (const name of [...Object.keys(schema.properties ?? {}), 'unknown']) {
    const { [name]: _old, ...rest } = good
    const others = Object.entries(rest).map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)},`)
    for (const nasty of NASTY) yield `{${others.join('')}${JSON.stringify(name)}:${nasty}}`
  }
}

async function operationsOf(api: TestApi): Promise<{ method: string; path: string; operation: Operation }[]> {
  const { body } = await api.call('GET', '/api/docs/json')
  return Object.entries(body.paths as Record<string, Record<string, Operation>>).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
  )
}

t.test('nothing that a client sends is our fault, and what is refused changes nothing', async (t) => {
  const api = await openApi(t)
  const { body: customer } = await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })
  const { body: order } = await api.call('POST', '/orders', { body: { attendees: [{ email: 'bob@example.com' }] } })
  const ids: Record<string, string> = { '/customers': customer.id, '/orders': order.id }
  let tried = 0
  for (const { method, path, operation } of await operationsOf(api)) {
    if (path.startsWith('/webhooks') || path === '/metrics') continue
    const id = ids[Object.keys(ids).find((prefix) => path.startsWith(prefix)) ?? ''] ?? newId()
    const at = path.replace(/\{\w+\}/, id).replace('{purpose}', 'marketing.email')
    const requests = [
      ...[...bodiesFor(operation)].map((body) => ({ path: at, body })),
      ...NASTY_TEXT.filter((text) => text.trim() !== '' && path.includes('{')).map((text) => ({
        path: path.replace(/\{\w+\}/, text.replaceAll(' ', '%20')),
        body: operation.requestBody === undefined ? undefined : '{}',
      })),
      ...(operation.parameters ?? [])
        .filter((parameter) => parameter.in === 'query')
        .flatMap(({ name }) =>
          NASTY_TEXT.map((text) => ({ path: `${at}?${name}=${text.replaceAll(' ', '%20')}`, body: undefined })),
        ),
      { path: `${at}?unknown=1&__proto__=x`, body: undefined },
    ]
    let before = await api.snapshot()
    for (const { path: target, body } of requests) {
      const answer = await send(api.url, api.keys.admin, method, target, body)
      await mustBeDocumented(api.url, {
        method,
        path: target,
        status: answer.status,
        contentType: answer.type,
        text: answer.body,
      })
      tried += 1
      if (answer.status < 400) {
        before = await api.snapshot()
        continue
      }
      const isFine =
        answer.status < 500 && /^application\/problem\+json/.test(answer.type) && /"code":"\w+"/.test(answer.body)
      if (!isFine) t.fail(`${method} ${target} ${body?.slice(0, 100)}: ${answer.status} ${answer.body.slice(0, 300)}`)
    }
    t.equal(await api.snapshot(), before, `${method} ${path}`)
  }
  t.ok(tried > 2_000, `${tried} requests`)
  t.match(await api.call('GET', `/customers/${customer.id}`), { status: 200 }, 'and it goes on')
})

t.test('odd headers', async (t) => {
  const api = await openApi(t)
  const headers = [
    { authorization: 'Bearer' },
    { authorization: 'Basic eDp5' },
    { authorization: `Bearer ${'x'.repeat(5_000)}` },
    { authorization: 'Bearer é' },
    { 'if-match': '"' },
    { 'if-match': 'x'.repeat(5_000) },
    { prefer: 'wait=99999999999999999999' },
    { prefer: ',,;;=' },
    { 'idempotency-key': ' ' },
    { 'idempotency-key': 'x'.repeat(300) },
    { 'content-type': 'application/json; charset=utf-7' },
    { 'content-type': 'multipart/form-data' },
    { 'content-encoding': 'gzip' },
    { 'x-forwarded-for': "' or 1=1" },
    { accept: 'text/html' },
  ]
  for (const one of headers) {
    const answer = await send(api.url, api.keys.admin, 'POST', '/customers', '{"email":"a@example.com"}', one)
    t.ok(answer.status < 500, `${JSON.stringify(one).slice(0, 60)}: ${answer.status}`)
    if (answer.status >= 400) t.match(answer.type, /^application\/problem\+json/)
  }
})
