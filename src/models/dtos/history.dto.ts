import { type Static, Type } from 'typebox'
import { HISTORY_FIELDS, ORIGINS, REASONS } from '../history.js'
import { Any, Nullable, OneOf, PAGE_QUERY, PageOf, SearchText, Time } from './parts.js'

const By = Type.Object(
  {
    origin: OneOf(ORIGINS, {
      description: 'REST API, plain SQL, Stripe (dashboard or API), the sync, or an operator.',
    }),
    actor: Type.String({ description: 'As in the audit log.', examples: ['key:019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'] }),
    program: Nullable(Type.String({ description: 'Of plain SQL: the `application_name` of the connection.' })),
    requestId: Nullable(Type.String({ description: 'Of the API request.' })),
    stripeEventId: Nullable(Type.String({ examples: ['evt_1NG8Du2eZvKYlo2CUI79vXWy'] })),
    cause: Nullable(
      Type.String({ description: 'What else led to it: `run:<id>`, `conflict:<id>`, `duplicate:<id>`.' }),
    ),
  },
  { description: 'Who did it.' },
)

/** One change of one field, or one decision of the sync about it. */
export const FieldHistorySchema = Type.Object(
  {
    id: Type.String({ format: 'uuid', description: 'Of the entry in the audit log.' }),
    field: Type.String({ examples: ['email', 'name', 'metadata.tier', 'state', 'stripeCustomerId'] }),
    at: Time('When it was recorded.'),
    changedAt: Nullable(
      Time('When the value came about, where that was earlier: an edit in Stripe, or the edit decided about.'),
    ),
    kind: OneOf(['edit', 'decision'] as const, {
      description:
        '`edit`: someone gave the field a value. `decision`: the sync, or an operator, settled whose value both sides have.',
    }),
    side: Nullable(OneOf(['local', 'stripe'] as const, { description: 'Whose value it is.' })),
    by: By,
    before: Any('Of an edit: the value before. Of a decision: what the side held that was given the value.'),
    after: Any('The value from then on. `[erased]` where the person was erased.'),
    valuesKnown: Type.Boolean({
      description:
        'False for an edit by plain SQL, of which only the fact is recorded: the decision that follows has the values.',
    }),
    why: Nullable(OneOf(REASONS, { description: 'Of a decision: why this value won.' })),
    policy: Nullable(Type.String({ description: 'The tenant’s policy, where it decided.' })),
    sides: Nullable(
      Type.Object(
        {
          base: Any('What both had last agreed on.'),
          local: Any('What the row held.'),
          stripe: Any('What Stripe held.'),
          localAt: Nullable(Time('When the row’s value was set.')),
          stripeAt: Nullable(Time('When Stripe’s value was set.')),
        },
        { description: 'Of a decision: what each side held.' },
      ),
    ),
    edit: Nullable(
      Type.Object(
        { id: Type.String({ format: 'uuid' }), at: Time('When it was recorded.'), ...By.properties },
        { description: 'Of a decision: the edit, or the manual decision, that the value is from, where it is known.' },
      ),
    ),
  },
  { description: 'A change of one field: when, from which side, by whom, before and after, and why it won.' },
)
export type FieldHistory = Static<typeof FieldHistorySchema>
export const FieldHistoryPageSchema = PageOf(FieldHistorySchema)

export const HistoryQuerySchema = Type.Object(
  {
    field: Type.Optional(
      SearchText(
        `Of this field: ${HISTORY_FIELDS.join(', ')}; \`metadata\` for all its keys, \`metadata.tier\` for one; \`firstName\` and \`lastName\` are of \`name\`.`,
        512,
      ),
    ),
    ...PAGE_QUERY,
  },
  { additionalProperties: false },
)
export type HistoryQuery = Static<typeof HistoryQuerySchema>
