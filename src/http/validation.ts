import type { FastifySchemaCompiler, FastifySchemaValidationError } from 'fastify'
import type { TSchema } from 'typebox'
import { Compile } from 'typebox/compile'

/** How many wrong fields one answer names at most. */
export const MAX_FIELD_ERRORS = 100

/**
 * Makes the validator of one part of a request by TypeBox itself, which made the schema. Bodies are taken as they are: no
 * value is coerced, no unknown field dropped. Parameters and headers are text, so numbers and booleans are read out of them.
 */
export const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const check = Compile(schema)
  const read = httpPart === 'body' ? (value: unknown) => value : textReader(schema)
  return (value: unknown) => {
    const given = read(value)
    if (check.Check(given)) return { value: given }
    return { error: check.Errors(given) as FastifySchemaValidationError[] }
  }
}

/** What reads the numbers and booleans among the schema's properties; most requests have none, and are taken as they are. */
function textReader(schema: TSchema): (value: unknown) => unknown {
  const { properties = {} } = schema as { properties?: Record<string, { type?: unknown }> }
  const read = Object.entries(properties).filter(([, { type }]) => type === 'integer' || type === 'boolean')
  if (read.length === 0) return (value) => value
  return (value) => {
    if (typeof value !== 'object' || value === null) return value
    const given: Record<string, unknown> = { ...value }
    for (const [name, { type }] of read) if (Object.hasOwn(given, name)) given[name] = readOne(type, given[name])
    return given
  }
}

/** What cannot be read stays text, for the schema to refuse: `1.5` is no integer, and `yes` no boolean. */
function readOne(type: unknown, text: unknown): unknown {
  if (type === 'integer' && typeof text === 'string' && /^-?\d{1,15}$/.test(text)) return Number(text)
  if (type === 'boolean' && (text === 'true' || text === 'false')) return text === 'true'
  return text
}
