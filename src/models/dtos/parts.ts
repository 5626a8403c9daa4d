import { type Static, type TArray, type TObject, type TSchema, type TUnsafe, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'

/**
 * The schema, or null. A `type` list rather than `anyOf`, so that a wrong value is reported once, against the one thing
 * it can be.
 */
export function Nullable<S extends TSchema>(schema: S): TUnsafe<Static<S> | null> {
  const { type, ...rest } = schema as S & { type: string; enum?: unknown[] }
  return Type.Unsafe<Static<S> | null>({
    ...rest,
    type: [type, 'null'],
    ...(rest.enum === undefined ? {} : { enum: [...rest.enum, null] }),
  })
}

/** One of a list of words. */
export function OneOf<const W extends readonly string[]>(
  words: W,
  options: { description?: string; examples?: unknown[]; default?: W[number] } = {},
): TUnsafe<W[number]> {
  return Type.Unsafe<W[number]>({ type: 'string', enum: [...words], ...options })
}

/** A moment: ISO 8601, UTC. */
export function Time(description: string) {
  return Type.String({ format: 'date-time', description, examples: ['2026-11-20T09:30:00.000Z'] })
}

/** Any JSON value. */
export function Any(description: string): TUnsafe<unknown> {
  return Type.Unsafe<unknown>({ description })
}

/** A map of text to `value`. Not `Type.Record`, whose pattern lets a key with a line break past unchecked. */
export function MapOf<S extends TSchema>(
  value: S,
  options: { description?: string; examples?: unknown[] } = {},
): TUnsafe<Record<string, Static<S>>> {
  return Type.Unsafe<Record<string, Static<S>>>({ type: 'object', additionalProperties: value, ...options })
}

/** A page of `item`, as every list answers it. */
export function PageOf<S extends TSchema>(
  item: S,
): TObject<{ data: TArray<S>; nextCursor: TUnsafe<string | null>; hasMore: ReturnType<typeof Type.Boolean> }> {
  return Type.Object(
    {
      data: Type.Array(item),
      nextCursor: Nullable(
        Type.String({ description: 'Send it as `cursor` for the next page; null on the last one.' }),
      ),
      hasMore: Type.Boolean(),
    },
    { description: 'A page, in the order asked for.' },
  )
}

/** The parameters that every list takes. */
export const PAGE_QUERY = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 20, description: 'Rows on a page.' })),
  cursor: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 500,
      description: '`nextCursor` of the page before; opaque, do not build one.',
    }),
  ),
}

/** What a list reads when the request names no `limit`. */
export const DEFAULT_LIMIT = 20

/** Any UUID that Postgres takes. */
export const UUID = FORMS.uuid.pattern

/** A UUID in a request. */
export function Id(description: string) {
  return Type.String({ pattern: UUID, description, examples: ['019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'] })
}

/** The path parameter of a resource with a UUID. */
export const IdParams = Type.Object({ id: Id('A UUID.') })

/** Text for a search: Postgres cannot hold U+0000. */
export function SearchText(description: string, maxLength: number) {
  return Type.String({ minLength: 1, maxLength, pattern: FORMS.noNul.pattern, description })
}
