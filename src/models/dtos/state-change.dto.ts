import { type Static, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import { USER_STATES } from '../user.js'
import { Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

/** The states that a customer's history may name: `deleted` is a row that another program removed. */
const HISTORY_STATES = [...USER_STATES, 'deleted'] as const

/** One state that a customer had. */
export const StateChangeSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    from: Nullable(OneOf(USER_STATES, { description: 'Null where the customer began.' })),
    to: OneOf(HISTORY_STATES, { description: '`deleted`: another program removed the row.' }),
    actor: Type.String({
      description: 'Who: `key:<id>`, the subject of a token, `cli`, `system`, `stripe`, or `sql` for another program.',
      examples: ['key:019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'],
    }),
    reason: Nullable(Type.String({ description: 'Why, as whoever did it said.', examples: ['closed the account'] })),
    at: Time('When.'),
  },
  { description: 'A change of a customer’s state: who, when and why.' },
)
export type StateChange = Static<typeof StateChangeSchema>
export const StateChangePageSchema = PageOf(StateChangeSchema)
export const StateChangeQuerySchema = Type.Object({ ...PAGE_QUERY }, { additionalProperties: false })

/** What a {@link StateChange} is made of: a row of `customer_state_changes`. */
export type StateChangeSource = Omit<StateChange, 'at'> & { at: Date }

/** The row as the API answers it. */
export function toStateChange({ id, from, to, actor, reason, at }: StateChangeSource): StateChange {
  return { id, from, to, actor, reason, at: at.toISOString() }
}

/** The parameter by which a request says why it changes a state. */
export const ReasonParam = Type.Optional(
  Type.String({
    minLength: 1,
    maxLength: 200,
    pattern: FORMS.noControl.pattern,
    description: 'Why, for GET /customers/:id/states. It is kept after an erasure: name no personal data.',
    examples: ['closed the account'],
  }),
)
