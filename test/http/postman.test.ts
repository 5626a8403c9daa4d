import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { openApi } from '../helpers/api.js'
import { openApiDocument, type PostmanRequest, postmanCollection } from '../helpers/postman.js'

/** What Postman sends of these: those that are switched on. */
function sent(pairs: { key: string; value: string; disabled?: boolean }[]): Record<string, string> {
  const on = pairs.filter(({ disabled }) => disabled !== true)
  return Object.fromEntries(on.map(({ key, value }) => [key.toLowerCase(), value]))
}

t.test('the Postman collection has every operation, and what it sends is taken', async (t) => {
  const api = await openApi(t)
  const document = await openApiDocument()
  const collection = postmanCollection(document)
  const requests = collection.item.flatMap(({ item }) => item)
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  )
  const nameOf = ({ request: { method, url } }: PostmanRequest) =>
    `${method} /${url.path.join('/').replace(/:(\w+)/g, '{$1}')}`
  t.strictSame(requests.map(nameOf).sort(), operations.sort())
  t.notMatch(JSON.stringify(collection), /lsk_[a-z0-9]/, 'it holds no key')

  const { body: customer } = await api.call('POST', '/customers', { body: { email: 'first@example.com' } })
  for (const one of requests) {
    const { method, url, header, body, auth } = one.request
    if (url.path[0] === 'webhooks') continue
    const id = { customers: customer.id, events: 'evt_1' }[url.path[0] ?? ''] ?? newId()
    const path = `/${url.path.map((part) => (part.startsWith(':') ? id : part)).join('/')}`
    const query = new URLSearchParams(sent(url.query))
    const answer = await api.call(method, `${path}${query.size > 0 ? `?${query}` : ''}`, {
      ...(auth === undefined ? {} : { key: null }),
      headers: sent(header),
      ...(body === undefined ? {} : { body: body.raw }),
    })
    // Things that are not there, in no state for it, or for another role, are no fault of the request.
    const isTaken = [200, 201, 202, 204, 403, 404, 409, 502].includes(answer.status)
    t.ok(isTaken, `${nameOf(one)}: ${answer.status}`)
    t.not(answer.body.code, 'validation_failed', nameOf(one))
  }
})
