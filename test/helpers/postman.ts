/**
 * A Postman collection, made from the OpenAPI document of the service.
 *
 *   npm run postman                 writes lockstep.postman_collection.json
 *   npm run postman -- <file>       writes it there
 */
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { buildServer, type ServerDeps } from '../../src/http/server.js'
import { VERSION } from '../../src/lib/version.js'

/** What of OpenAPI 3.1 a collection is made of. */
interface Document {
  info: { title: string; description: string }
  paths: Record<string, Record<string, Operation>>
}
interface Operation {
  summary: string
  description?: string
  tags: string[]
  security?: unknown[]
  parameters?: Parameter[]
  requestBody?: {
    content: Record<string, { schema: Schema; example?: unknown; examples?: Record<string, { value: unknown }> }>
  }
}
interface Parameter {
  in: 'path' | 'query' | 'header'
  name: string
  required?: boolean
  description?: string
  schema: Schema
}
interface Schema {
  type?: string | string[]
  examples?: unknown[]
  default?: unknown
  enum?: unknown[]
  const?: unknown
  anyOf?: Schema[]
  properties?: Record<string, Schema>
  required?: string[]
  items?: Schema
}

interface Pair {
  key: string
  value: string
  description?: string
  disabled?: boolean
}

/** A request of a collection. */
export interface PostmanRequest {
  name: string
  request: {
    method: string
    description: string
    url: { raw: string; host: string[]; path: string[]; query: Pair[]; variable: Pair[] }
    header: Pair[]
    body?: { mode: 'raw'; raw: string; options: { raw: { language: 'json' } } }
    auth?: { type: 'noauth' }
  }
}

/** A collection in the format v2.1: https://schema.postman.com/collection/json/v2.1.0/draft-07/docs/index.html */
export interface PostmanCollection {
  info: { name: string; description: string; schema: string }
  item: { name: string; item: PostmanRequest[] }[]
  auth: { type: 'bearer'; bearer: { key: 'token'; value: string; type: 'string' }[] }
  variable: Pair[]
}

/**
 * The collection: a folder for each tag, examples as bodies, optional parameters there but switched off. Its variables are
 * `baseUrl` and `apiKey` (the key that `npm start` prints).
 */
export function postmanCollection(document: Document): PostmanCollection {
  const folders = new Map<string, PostmanRequest[]>()
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag = 'Other'] = operation.tags
      const folder = folders.get(tag) ?? []
      folders.set(tag, [...folder, requestOf(method.toUpperCase(), path, operation)])
    }
  }
  return {
    info: {
      name: document.info.title,
      description: document.info.description,
      schema: 'https://schema.getpostman.com/json/collection/v2.1.0/collection.json',
    },
    item: [...folders].map(([name, item]) => ({ name, item })),
    auth: { type: 'bearer', bearer: [{ key: 'token', value: '{{apiKey}}', type: 'string' }] },
    variable: [
      { key: 'baseUrl', value: 'http://127.0.0.1:3000' },
      { key: 'apiKey', value: '', description: 'The key that `npm start` printed.' },
    ],
  }
}

function requestOf(method: string, path: string, operation: Operation): PostmanRequest {
  const { summary, description = '', parameters = [], requestBody, security } = operation
  const of = (place: Parameter['in']) => parameters.filter((parameter) => parameter.in === place).map(pairOf)
  const parts = path.slice(1).replace(/\{(\w+)\}/g, ':$1')
  const [type, media] = Object.entries(requestBody?.content ?? {})[0] ?? []
  const contentType = type === undefined ? [] : [{ key: 'Content-Type', value: type }]
  const [first] = Object.values(media?.examples ?? {})
  const body = media === undefined ? undefined : (media.example ?? first?.value ?? exampleOf(media.schema))
  return {
    name: summary,
    request: {
      method,
      description,
      url: {
        raw: `{{baseUrl}}/${parts}`,
        host: ['{{baseUrl}}'],
        path: parts.split('/'),
        query: of('query'),
        variable: of('path').map(({ disabled: _, ...pair }) => pair),
      },
      header: [...contentType, ...of('header')],
      ...(body === undefined
        ? {}
        : {
            body: {
              mode: 'raw',
              raw: typeof body === 'string' ? body : JSON.stringify(body, null, 2),
              options: { raw: { language: 'json' } },
            },
          }),
      ...((security ?? []).length === 0 ? { auth: { type: 'noauth' } } : {}),
    },
  }
}

function pairOf({ name, description, required, schema, in: place }: Parameter): Pair {
  // An id must be one that is there: an example of one would only be a 404.
  const example = place === 'path' ? '' : exampleOf(schema)
  return {
    key: name,
    value: typeof example === 'string' ? example : JSON.stringify(example ?? ''),
    ...(description === undefined ? {} : { description }),
    ...(required === true ? {} : { disabled: true }),
  }
}

/** What the schema gives as an example; else one made of the examples of its parts. */
function exampleOf(schema: Schema): unknown {
  const given = schema.examples?.[0] ?? schema.default ?? schema.const ?? schema.enum?.[0]
  if (given !== undefined) return given
  if (schema.anyOf?.[0] !== undefined) return exampleOf(schema.anyOf[0])
  if (schema.properties !== undefined) {
    return Object.fromEntries(
      (schema.required ?? Object.keys(schema.properties)).map((name) => [
        name,
        exampleOf(schema.properties?.[name] ?? {}),
      ]),
    )
  }
  if (schema.items !== undefined) return [exampleOf(schema.items)]
  const [type] = [schema.type ?? 'string'].flat()
  return type === 'integer' || type === 'number' ? 1 : type === 'boolean' ? false : ''
}

/** The OpenAPI document of a server that is built but never asked, so that nothing else has to be there. */
export async function openApiDocument(): Promise<Document> {
  const nothing = new Proxy({}, { get: () => undefined })
  const known = {
    log: pino({ level: 'silent' }),
    health: [],
    metrics: { registry: nothing, httpDuration: { observe() {} } },
    options: { version: VERSION, bodyLimit: 1, webhookBodyLimit: 1, openMetrics: false, trustProxy: false },
  }
  const deps = new Proxy(known, { get: (some, name) => Reflect.get(some, name) ?? nothing })
  const app = await buildServer(deps as unknown as ServerDeps)
  await app.ready()
  const document = app.swagger()
  await app.close()
  return document as unknown as Document
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = process.argv[2] ?? 'lockstep.postman_collection.json'
  writeFileSync(file, `${JSON.stringify(postmanCollection(await openApiDocument()), null, 2)}\n`)
  process.stdout.write(`${file} is written: import it into Postman, and set its variable apiKey.\n`)
}
