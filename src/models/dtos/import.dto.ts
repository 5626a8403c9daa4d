import { type Static, Type } from 'typebox'
import { FILE_FORMATS, IMPORT_STATUSES, type Import as ImportRow, ON_MATCH } from '../import.js'
import { USER_STATES } from '../user.js'
import { CustomerPatchSchema, CustomerQuerySchema } from './customer.dto.js'
import { Nullable, OneOf, PAGE_QUERY, PageOf, Time, UUID } from './parts.js'

const ON_MATCH_RULES =
  'What becomes of a line whose customer is there already: `skip` leaves the customer alone, `update` changes what the line gives (a blank ' +
  'CSV cell gives nothing, a `null` in NDJSON removes), `fail` refuses the line. A line with an `id` is matched by that alone, any other by e-mail ' +
  'in any case, then phone, among active customers; when several fit, the line is refused.'

/** One line of a file, once it is read: what PATCH takes, with an id and a state. */
export const ImportLineSchema = Type.Object(
  {
    id: Type.Optional(Type.String({ pattern: UUID })),
    state: Type.Optional(OneOf(USER_STATES)),
    ...CustomerPatchSchema.properties,
  },
  { additionalProperties: false },
)
export type ImportLine = Static<typeof ImportLineSchema>

export const ImportQuerySchema = Type.Object(
  {
    dryRun: Type.Optional(Type.Boolean({ default: false, description: 'Only say what would happen; change nothing.' })),
    onMatch: Type.Optional(OneOf(ON_MATCH, { default: 'skip', description: ON_MATCH_RULES })),
  },
  { additionalProperties: false },
)

export const ImportSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    source: OneOf(['api', 'cli'] as const),
    format: OneOf(FILE_FORMATS),
    onMatch: OneOf(ON_MATCH, { description: ON_MATCH_RULES }),
    dryRun: Type.Boolean(),
    status: OneOf(IMPORT_STATUSES, {
      description:
        '`succeeded`: the whole file was gone through; `counts.failed` says how many lines were refused. `failed`: it ended before the file did, ' +
        'for the reason in `error`; the lines before it stand. `cancelled`: someone ended it; the lines that were done stand.',
    }),
    bytes: Type.Integer({ description: 'How large the uploaded file is.' }),
    lines: Type.Integer({ description: 'Lines done, without blank ones and the header.' }),
    counts: Type.Object(
      {
        created: Type.Integer(),
        updated: Type.Integer(),
        unchanged: Type.Integer({ description: 'The customer had the values of the line already.' }),
        skipped: Type.Integer({ description: 'The customer was there already, or is not active in the file.' }),
        failed: Type.Integer({ description: 'Refused; GET /imports/:id/errors says why.' }),
      },
      { description: 'What became of them.' },
    ),
    error: Nullable(
      Type.Object(
        { code: Type.String(), message: Type.String() },
        { description: 'Why it ended before the file did.' },
      ),
    ),
    requestedBy: Type.String({ description: 'Who asked for it.' }),
    createdAt: Time('When it was asked for.'),
    startedAt: Nullable(Time('When it began.')),
    finishedAt: Nullable(Time('When it ended.')),
  },
  { description: 'A file of customers, and how far it is.' },
)
export type Import = Static<typeof ImportSchema>
export const ImportPageSchema = PageOf(ImportSchema)
export const ImportPageQuerySchema = Type.Object({ ...PAGE_QUERY }, { additionalProperties: false })
export type ImportPageQuery = Static<typeof ImportPageQuerySchema>

export const ImportErrorSchema = Type.Object(
  {
    line: Type.Integer({ description: 'Where the line begins in the file; 1 is the first.', examples: [17] }),
    errors: Type.Array(
      Type.Object({
        path: Type.String({ examples: ['address.country'] }),
        code: Type.String({ examples: ['invalid_country'] }),
        message: Type.String(),
      }),
    ),
  },
  { description: 'A line that was refused, and why. It names fields and shows no values.' },
)
export type ImportError = Static<typeof ImportErrorSchema>
export const ImportErrorPageSchema = PageOf(ImportErrorSchema)

const { limit: _limit, cursor: _cursor, sort: _sort, count: _count, ...FILTERS } = CustomerQuerySchema.properties

/** The parameters of GET /customers/export: the filters of GET /customers, and the format. */
export const ExportQuerySchema = Type.Object(
  {
    format: Type.Optional(OneOf(FILE_FORMATS, { default: 'csv', description: 'How to write the customers.' })),
    ...FILTERS,
  },
  { additionalProperties: false },
)
export type ExportQuery = Static<typeof ExportQuerySchema>

/** The row as the API answers it. */
export function toImport(row: ImportRow): Import {
  const { tenantId: _tenant, digest: _digest, requestId: _request, ip: _ip, ...rest } = row
  return {
    ...rest,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  }
}
