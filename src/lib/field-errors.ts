import type { FieldError } from './errors.js'
import { wordsOfPattern } from './patterns.js'

/** What a JSON schema validator says of one broken rule. */
export interface SchemaError {
  instancePath: string
  keyword: string
  params: Record<string, unknown>
  message?: string | undefined
}

const UNKNOWN = 'unknown_field'

/** The kinds of schema error, as the codes of {@link FieldError}. */
const FIELD_CODES: Readonly<Record<string, string>> = {
  additionalProperties: UNKNOWN,
  required: 'required',
  type: 'wrong_type',
  enum: 'not_allowed',
  const: 'not_allowed',
  format: 'wrong_format',
  pattern: 'wrong_format',
  minLength: 'too_short',
  maxLength: 'too_long',
  minimum: 'too_small',
  maximum: 'too_large',
  minProperties: 'too_few',
  minItems: 'too_few',
  maxItems: 'too_many',
  uniqueItems: 'not_unique',
}

/** The formats that schemas name, in words. */
const FORMATS: Readonly<Record<string, string>> = {
  'date-time': 'a time, such as 2026-01-31T12:00:00Z',
  uuid: 'a UUID',
}

/**
 * Schema errors by field, in words without values. A field is named once per kind of error.
 *
 * @param part what to name when the whole is wrong, such as `body`
 */
export function fieldErrorsOf(validation: readonly SchemaError[], part: string): FieldError[] {
  const errors = new Map<string, FieldError>()
  for (const { instancePath, keyword, params, message } of validation) {
    const code = FIELD_CODES[keyword]
    // Such as `anyOf`, or what stands in for `additionalProperties`: its parts tell more.
    if (code === undefined) continue
    const segments = instancePath.split('/').slice(1).map(unescapePointer)
    for (const path of pathsOf(segments, keyword, params, part)) {
      errors.set(`${path} ${code}`, { path, code, message: wordsFor(keyword, params, message) })
    }
  }
  const found = [...errors.values()]
  // A field whose value is wrong is, to the validator, also one that no rule allows.
  const isWrong = (path: string) =>
    found.some((error) => error.code !== UNKNOWN && (error.path === path || error.path.startsWith(`${path}.`)))
  const said = found.filter(({ path, code }) => code !== UNKNOWN || !isWrong(path))
  if (said.length > 0) return said
  return [{ path: part, code: 'invalid', message: 'is not valid' }]
}

function pathsOf(segments: string[], keyword: string, params: Record<string, unknown>, part: string): string[] {
  const names =
    keyword === 'additionalProperties'
      ? namesIn(params.additionalProperties ?? params.additionalProperty)
      : keyword === 'required'
        ? namesIn(params.requiredProperties ?? params.missingProperty)
        : []
  if (names.length > 0) return names.map((name) => [...segments, name].join('.'))
  return [segments.length === 0 ? part : segments.join('.')]
}

function namesIn(value: unknown): string[] {
  return (Array.isArray(value) ? value : [value]).filter((name) => typeof name === 'string')
}

/** RFC 6901. */
function unescapePointer(segment: string): string {
  return segment.replaceAll('~1', '/').replaceAll('~0', '~')
}

function wordsFor(keyword: string, params: Record<string, unknown>, message: string | undefined): string {
  switch (keyword) {
    case 'additionalProperties':
      return 'is not a field of this request'
    case 'required':
      return 'is missing'
    case 'type':
      return `must be ${namesIn(params.type).join(' or ')}`
    case 'enum':
      return `must be one of ${(Array.isArray(params.allowedValues) ? params.allowedValues : []).map(String).join(', ')}`
    case 'format':
      return `must be ${FORMATS[String(params.format)] ?? `of the format ${String(params.format)}`}`
    case 'pattern':
      return wordsOfPattern(params.pattern)
    case 'minLength':
    case 'minItems':
    case 'minProperties':
      return params.limit === 1 ? 'must not be empty' : (message ?? 'is too short')
    default:
      return message ?? 'is not valid'
  }
}
