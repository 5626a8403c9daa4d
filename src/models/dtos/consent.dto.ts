import { type Static, Type } from 'typebox'
import { FORMS } from '../../lib/patterns.js'
import { CONSENT_STATUSES, type ConsentChange } from '../consent.js'
import { Id, MapOf, Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

/** Words with dots, dashes and the like between them. */

const Purpose = Type.String({
  pattern: FORMS.words.pattern,
  maxLength: 100,
  description: 'What for; a word of your own.',
  examples: ['marketing.email'],
})

export const ConsentParams = Type.Object({ id: Id('A UUID.'), purpose: Purpose })

/** The body of PUT /customers/:id/consents/:purpose. */
export const ConsentInputSchema = Type.Object(
  {
    status: OneOf(CONSENT_STATUSES),
    source: Type.String({
      pattern: FORMS.words.pattern,
      maxLength: 100,
      description: 'Where the person said so; a word of your own.',
      examples: ['web.checkout'],
    }),
    at: Type.Optional(
      Time(
        'When the person said so; now unless given. It may be earlier than what is known: the latest is what counts, and of two ' +
          'at one moment the withdrawal.',
      ),
    ),
    version: Type.Optional(
      Nullable(
        Type.String({
          minLength: 1,
          maxLength: 100,
          description: 'The version of what was shown.',
          examples: ['2026-05'],
        }),
      ),
    ),
    text: Type.Optional(
      Nullable(
        Type.String({
          minLength: 1,
          maxLength: 5000,
          description: 'The words that were shown. Kept after an erasure: name no personal data.',
          examples: ['Send me news by e-mail.'],
        }),
      ),
    ),
    evidence: Type.Optional(
      MapOf(Type.String({ maxLength: 500 }), {
        description: 'What proves it; at most 20 keys. An erasure leaves the keys, without values.',
        examples: [{ ip: '203.0.113.7', form: 'checkout-3' }],
      }),
    ),
  },
  {
    additionalProperties: false,
    examples: [{ status: 'granted', source: 'web.checkout', version: '2026-05', evidence: { ip: '203.0.113.7' } }],
  },
)
export type ConsentInput = Static<typeof ConsentInputSchema>

const consent = {
  purpose: Purpose,
  status: OneOf(CONSENT_STATUSES),
  source: Type.String({ examples: ['web.checkout'] }),
  version: Nullable(Type.String({ description: 'The version of what was shown.' })),
  text: Nullable(Type.String({ description: 'The words that were shown.' })),
  evidence: MapOf(Nullable(Type.String()), { description: 'What proves it; null for what an erasure removed.' }),
  actor: Type.String({ description: 'Who recorded it.', examples: ['key:019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c'] }),
  at: Time('When the person said so.'),
  recordedAt: Time('When it was recorded here.'),
  mergedFrom: Nullable(
    Type.String({
      format: 'uuid',
      description: 'The customer it was recorded for, where that one was merged into this.',
    }),
  ),
}

/** What holds now for one purpose. */
export const ConsentSchema = Type.Object(consent, { description: 'What a person last said of one purpose.' })
export type Consent = Static<typeof ConsentSchema>
export const ConsentListSchema = Type.Object(
  { data: Type.Array(ConsentSchema) },
  { description: 'How each purpose stands.' },
)

/** One entry of the history. */
export const ConsentChangeSchema = Type.Object(
  { id: Type.String({ format: 'uuid' }), ...consent },
  { description: 'A consent that was given or withdrawn. None is ever changed or removed.' },
)
export type ConsentChangeView = Static<typeof ConsentChangeSchema>
export const ConsentChangePageSchema = PageOf(ConsentChangeSchema)

export const ConsentHistoryQuerySchema = Type.Object(
  { purpose: Type.Optional(Purpose), ...PAGE_QUERY },
  { additionalProperties: false },
)
export type ConsentHistoryQuery = Static<typeof ConsentHistoryQuerySchema>

/** The row as the present state of its purpose. */
export function toConsent({ id: _id, customerId: _customer, at, recordedAt, ...row }: ConsentChange): Consent {
  return { ...row, at: at.toISOString(), recordedAt: recordedAt.toISOString() }
}

/** The row as an entry of the history. */
export function toConsentChange(row: ConsentChange): ConsentChangeView {
  return { id: row.id, ...toConsent(row) }
}
