/** What the headers of answers say, for the documentation. */
const HEADERS = {
  'X-Request-Id': {
    type: 'string',
    description: 'Names the request in the logs, the audit log and problems.',
    examples: ['019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'],
  },
  'RateLimit-Limit': { type: 'integer', description: 'Requests that the key may send in a minute.' },
  'RateLimit-Remaining': { type: 'integer', description: 'How many of them are left.' },
  'RateLimit-Reset': { type: 'integer', description: 'Seconds until all of them may be sent again.' },
  'Retry-After': { type: 'integer', description: 'Seconds to wait before the next try.' },
  'WWW-Authenticate': { type: 'string', examples: ['Bearer realm="lockstep"'], description: 'How to ask (RFC 6750).' },
  ETag: {
    type: 'string',
    description:
      'What it is now. `If-Match` with it lets a write go through only while that is so; `If-None-Match` asks for news.',
    examples: ['"3.Yq8Xm2dP0aZk"'],
  },
  Location: { type: 'string', description: 'Where it is, or where to watch what becomes of it.' },
  Link: { type: 'string', description: 'The same, as `rel="monitor"`.' },
  'Preference-Applied': { type: 'string', description: 'What of `Prefer` was done (RFC 7240).', examples: ['wait=5'] },
  'Idempotency-Replayed': {
    type: 'string',
    enum: ['true'],
    description: 'The answer of the first request with this `Idempotency-Key`. Absent on that one.',
  },
  'Content-Disposition': { type: 'string', description: 'A name for the file.' },
} as const

export type AnswerHeader = keyof typeof HEADERS

/** Of an answer that what was asked for is still to be done. */
export const LATER_HEADERS = ['Location', 'Link', 'Preference-Applied'] as const satisfies readonly AnswerHeader[]

/** The schema of an answer, with headers that it may have; for documentation only. */
export function withHeaders<S extends object>(schema: S, ...names: AnswerHeader[]): S {
  return { ...schema, headers: Object.fromEntries(names.map((name) => [name, HEADERS[name]])) }
}

interface Described {
  paths?: Record<string, Record<string, Operation> | undefined>
}

interface Operation {
  security?: readonly unknown[]
  responses?: Record<string, { headers?: Record<string, unknown> }>
}

/** What every answer has, and every answer to whoever has shown a key. */
const ALWAYS: readonly AnswerHeader[] = ['X-Request-Id']
const OF_KEYS: readonly AnswerHeader[] = ['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset']

/** Adds to an OpenAPI document the headers that no route sets by itself. */
export function describeCommonHeaders<D extends object>(document: D): D {
  for (const path of Object.values((document as Described).paths ?? {})) {
    for (const { security = [], responses = {} } of Object.values(path ?? {})) {
      for (const [status, response] of Object.entries(responses)) {
        const isKnown = security.length > 0 && status !== '401'
        const common = [...ALWAYS, ...(isKnown ? OF_KEYS : [])].map((name) => {
          const { description, ...schema } = HEADERS[name]
          return [name, { schema, description }]
        })
        response.headers = { ...response.headers, ...Object.fromEntries(common) }
      }
    }
  }
  return document
}
