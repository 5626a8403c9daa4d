import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import t from 'tap'
import type { Problem } from '../../src/models/dtos/problem.dto.js'
import { openApi } from '../helpers/api.js'

t.test('OpenAPI describes every route', async (t) => {
  const api = await openApi(t)
  const { status, body } = await api.call('GET', '/api/docs/json', { key: null })
  t.equal(status, 200)
  t.equal(body.openapi, '3.1.0')
  t.equal(body.components.securitySchemes.apiKey.scheme, 'bearer')
  for (const { method, url, config } of api.app.routeTable) {
    if (method === 'HEAD' || url.startsWith('/api/docs')) continue
    const operation = body.paths[url.replace(/:(\w+)/g, '{$1}')]?.[method.toLowerCase()]
    t.ok(operation?.summary, `${method} ${url} has a summary`)
    t.ok(operation?.tags?.length > 0, `${method} ${url} has a tag`)
    if (config.permission === undefined) continue
    t.same(operation.security, [{ apiKey: [] }], `${method} ${url} names its security`)
    if (url === '/metrics') continue
    t.same(operation.responses['401'].content['application/problem+json'].schema, {
      $ref: '#/components/schemas/Problem',
    })
    for (const [answered, response] of Object.entries<{ content?: Record<string, { example?: Problem }> }>(
      operation.responses,
    )) {
      const problem = response.content?.['application/problem+json']
      if (problem !== undefined)
        t.equal(String(problem.example?.status), answered, `${method} ${url}: example of ${answered}`)
    }
    for (const [answered, { description }] of Object.entries<{ description: string }>(operation.responses))
      t.not(description, 'Default Response', `${method} ${url}: what ${answered} means`)
    if (url.includes(':id')) t.ok(operation.responses['404'], `${method} ${url} tells of 404`)
  }
  const input = body.paths['/customers'].post.requestBody.content['application/json']
  t.match(JSON.stringify(input), 'ada@example.com', 'bodies have examples')
  t.ok(body.paths['/customers/{id}'].patch.requestBody.content['application/merge-patch+json'])
  const files = body.paths['/customers/import'].post.requestBody.content
  t.match(files['text/csv'].example, /^type,email/)
  t.equal(JSON.parse(files['application/x-ndjson'].example.split('\n')[0]).email, 'ada@example.com')
  t.match(body.paths['/customers'].post.responses['201'].headers, {
    ETag: {},
    Location: {},
    'Idempotency-Replayed': {},
  })
  t.match(body.paths['/customers'].get.responses['503'].headers, { 'Retry-After': { schema: { type: 'integer' } } })
  const names = Object.values<Record<string, { operationId: string }>>(body.paths).flatMap((path) =>
    Object.values(path).map(({ operationId }) => operationId),
  )
  t.equal(new Set(names).size, names.length, 'each has a name of its own')
  t.ok(names.includes('getCustomersIdOrders'))
  const refs = JSON.stringify(body).match(/"#\/[^"]+"/g) ?? []
  for (const ref of new Set(refs)) t.ok(body.components.schemas[ref.slice(1, -1).split('/').at(-1) ?? ''], ref)
})

t.test('every example is one of its schema', async (t) => {
  const api = await openApi(t)
  const { body } = await api.call('GET', '/api/docs/json', { key: null })
  const ajv = new Ajv2020({ strict: false })
  addFormats.default(ajv)
  ajv.addSchema({ $id: 'openapi', ...body })
  let checked = 0
  const visit = (node: unknown, pointer: string): void => {
    if (typeof node !== 'object' || node === null) return
    const { schema, example, examples } = node as { schema?: unknown; example?: unknown; examples?: unknown }
    const isSchema = Array.isArray(examples) && schema === undefined
    const given = isSchema ? examples : example === undefined || schema === undefined ? [] : [example]
    const named = Array.isArray(examples) || schema === undefined ? [] : Object.values(examples ?? {})
    const all = [...given, ...named.map((one) => (one as { value: unknown }).value)]
    // A file is text in a form of its own.
    if (all.length > 0 && !pointer.includes('import')) {
      const validate = ajv.compile({ $ref: `openapi#${pointer}${isSchema ? '' : '/schema'}` })
      for (const one of all)
        t.ok(validate(one), `${pointer}: ${JSON.stringify(one)} ${ajv.errorsText(validate.errors)}`)
      checked += all.length
    }
    for (const [key, value] of Object.entries(node)) {
      if (key === 'example' || key === 'examples') continue
      visit(
        value,
        `${pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')}`,
      )
    }
  }
  visit(body, '')
  t.ok(checked > 500, `${checked} examples`)
})

t.test('Swagger UI', async (t) => {
  const api = await openApi(t)
  const page = await api.call('GET', '/api/docs', { key: null })
  t.equal(page.status, 200)
  t.match(page.body, 'swagger-ui-bundle.js')
  t.equal((await api.call('GET', '/api/docs/static/swagger-ui.css', { key: null })).status, 200)
  const policy = page.headers.get('content-security-policy')
  t.match(policy, "script-src 'self'", 'the page may run its script')
  t.notMatch(policy, 'upgrade-insecure-requests', 'plain HTTP on this machine works')

  const script = await api.call('GET', '/api/docs/static/swagger-initializer.js', { key: null })
  t.match(script.body, '?for=forms', 'the page asks for the document of its forms')
  const { body: forms } = await api.call('GET', '/api/docs/json?for=forms', { key: null })
  const { body: document } = await api.call('GET', '/api/docs/json', { key: null })
  const examplesOf = ({ paths }: typeof document, path: string, method: string) =>
    paths[path][method].parameters.flatMap(({ example }: { example?: unknown }) => example ?? [])
  t.ok(examplesOf(document, '/customers', 'get').length > 0)
  t.strictSame(examplesOf(forms, '/customers', 'get'), [], 'a form that is sent as it is filters nothing')
  t.strictSame(examplesOf(forms, '/customers', 'post'), [], 'and repeats nothing')
  t.match(forms.paths['/customers'].get.parameters[0].description, 'For example `jose nunez`.')

  const answer = await api.call('GET', '/customers')
  t.match(answer.headers.get('content-security-policy'), "default-src 'none'", 'an answer of the API is no page')
  t.equal(answer.headers.get('x-content-type-options'), 'nosniff')
})
