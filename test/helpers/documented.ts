import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

/** An answer of the API, to be held against what the OpenAPI document of the same server says of it. */
interface AnswerToCheck {
  method: string
  /** With the query. */
  path: string
  status: number
  contentType: string | null
  /** Absent where nobody looks at them. */
  headers?: Headers
  text: string
}

interface Operation {
  responses: Record<
    string,
    { content?: Record<string, { schema?: unknown }>; headers?: Record<string, { description?: string }> }
  >
}

interface Document {
  paths: Record<string, Record<string, Operation>>
}

/** Headers that callers go by: an answer that has one has to say so. Those in the second list every answer has. */
const HEADERS = [
  'etag',
  'location',
  'link',
  'retry-after',
  'www-authenticate',
  'preference-applied',
  'idempotency-replayed',
  'content-disposition',
  'ratelimit-limit',
  'ratelimit-remaining',
  'ratelimit-reset',
]
const HEADERS_OF_ALL = ['x-request-id']

/** What is refused before it is known which operation was meant; the document says so once for all. */
const BEFORE_A_ROUTE = new Set([414, 431])

const documents = new Map<string, Promise<Checker>>()

/** Throws when an answer is not one that the server's own OpenAPI document describes: operation, status, type and body. */
export async function mustBeDocumented(url: string, answer: AnswerToCheck): Promise<void> {
  const path = answer.path.split('?')[0] ?? ''
  // HEAD is GET without a body; documents are no part of themselves; an unfinished answer has nothing to hold.
  if (path.startsWith('/api/docs') || answer.method === 'HEAD') return
  let checker = documents.get(url)
  if (checker === undefined) {
    checker = loadChecker(url)
    documents.set(url, checker)
  }
  const complaint = (await checker)({ ...answer, path })
  if (complaint !== null) {
    throw new Error(
      `OpenAPI: ${answer.method} ${path} answered ${answer.status}: ${complaint}\n${answer.text.slice(0, 600)}`,
    )
  }
}

type Checker = (answer: AnswerToCheck) => string | null

async function loadChecker(url: string): Promise<Checker> {
  const document = (await (await fetch(`${url}/api/docs/json`)).json()) as Document
  const ajv = new Ajv2020({ strict: false, allErrors: true })
  addFormats.default(ajv)
  ajv.addSchema({ $id: 'openapi', ...document })
  const validators = new Map<string, ValidateFunction>()

  const conforms = (pointer: string, value: unknown): string | null => {
    let validate = validators.get(pointer)
    if (validate === undefined) {
      validate = ajv.compile({ $ref: `openapi#${pointer}` })
      validators.set(pointer, validate)
    }
    return validate(value) ? null : ajv.errorsText(validate.errors)
  }
  const problem = (text: string) => conforms('/components/schemas/Problem', JSON.parse(text))
  const templates = Object.keys(document.paths).map((template) => ({ template, parts: template.split('/') }))

  const headersFit = (response: Operation['responses'][string], headers: Headers): string | null => {
    const documented = Object.keys(response.headers ?? {}).map((name) => name.toLowerCase())
    const silent = HEADERS.filter((name) => headers.has(name) && !documented.includes(name))
    const missing = HEADERS_OF_ALL.filter((name) => !headers.has(name) || !documented.includes(name))
    const wrong = [...silent, ...missing]
    return wrong.length === 0 ? null : `its headers ${wrong.join(', ')} are not as documented`
  }

  return ({ method, path, status, contentType, headers, text }) => {
    const given = path.split('/')
    const fits = templates
      .filter(
        ({ parts }) =>
          parts.length === given.length && parts.every((part, at) => part.startsWith('{') || part === given[at]),
      )
      // `/customers/match` before `/customers/{id}`.
      .sort((a, b) => a.template.split('{').length - b.template.split('{').length)
    const { template } = fits.find((fit) => document.paths[fit.template]?.[method.toLowerCase()]) ?? {}
    const operation = template === undefined ? undefined : document.paths[template]?.[method.toLowerCase()]
    if (template === undefined || operation === undefined) {
      return status >= 400 && status < 500 ? problem(text) : 'no such operation'
    }
    if (BEFORE_A_ROUTE.has(status)) return problem(text)
    const response = operation.responses[status]
    if (response === undefined) return `it documents only ${Object.keys(operation.responses).join(', ')}`
    const complaint = headers === undefined ? null : headersFit(response, headers)
    if (complaint !== null) return complaint
    if (text === '') return null
    const type = (contentType ?? '').split(';')[0]?.trim() ?? ''
    const media = response.content?.[type]
    if (media === undefined) return `it documents only the types ${Object.keys(response.content ?? {}).join(', ')}`
    if (media.schema === undefined || !/[/+]json$/.test(type)) return null
    const escaped = [template, method.toLowerCase(), 'responses', String(status), 'content', type]
      .map((part) => part.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D'))
      .join('/')
    return conforms(`/paths/${escaped}/schema`, JSON.parse(text))
  }
}
