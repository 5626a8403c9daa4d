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
  return (value: unknown) => {
    const read = httpPart === 'body' ? value : readText(schema, value)
    if (check.Check(read)) return { value: read }
    return { error: check.Errors(read) as FastifySchemaValidationError[] }
  }
}

/** What cannot be read stays text, for the schema to refuse: `1.5` is no integer, and `yes` no boolean. */
function readText(schema: TSchema, value: unknown): unknown {
  const { properties } = schema as { properties?: Record<string, { type?: unknown }> }
  if (typeof value !== 'object' || value === null || properties === undefined) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, text]) => [
      name,
      readOne(Object.hasOwn(properties, name) ? properties[name]?.type : undefined, text),
    ]),
  )
}

function readOne(type: unknown, text: unknown): unknown {
  if (type === 'integer' && typeof text === 'string' && /^-?\d{1,15}$/.test(text)) return Number(text)
  if (type === 'boolean' && (text === 'true' || text === 'false')) return text === 'true'
  return text
}
