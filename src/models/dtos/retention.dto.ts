import { type Static, Type } from 'typebox'
import { LEAST_DAYS, MOST_DAYS, RETENTION_POLICIES, type RetentionRun, type RetentionSettings } from '../retention.js'
import { Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

const days = (name: keyof RetentionSettings, description: string) =>
  Type.Optional(
    Nullable(
      Type.Integer({
        minimum: LEAST_DAYS[name],
        maximum: MOST_DAYS,
        description: `${description} Null: never.`,
        examples: [365],
      }),
    ),
  )

/** The part `retention` of a tenant's settings. */
export const RetentionSettingsSchema = Type.Object(
  {
    anonymousAfterDays: days(
      'anonymousAfterDays',
      'Erases anonymous customers of whom nothing was heard for so many days.',
    ),
    archivedAfterDays: days('archivedAfterDays', 'Erases customers so many days after they were archived.'),
    inactiveAfterDays: days('inactiveAfterDays', 'Erases active customers of whom nothing was heard for so many days.'),
    eventsAfterDays: days('eventsAfterDays', 'Deletes events of Stripe’s so many days after they came.'),
    auditAfterDays: days('auditAfterDays', 'Deletes entries of the audit log after so many days.'),
    importsAfterDays: Type.Optional(
      Nullable(
        Type.Integer({
          minimum: LEAST_DAYS.importsAfterDays,
          maximum: MOST_DAYS,
          description: 'Deletes imports and their reports so many days after they ended. Null: after 30.',
          examples: [7],
        }),
      ),
    ),
  },
  {
    additionalProperties: false,
    description: 'What is removed, and after how many days. Absent: never; imports after 30.',
  },
)

/** The body of POST /retention-runs. */
export const StartRetentionSchema = Type.Object(
  { dryRun: Type.Optional(Type.Boolean({ default: false, description: 'Only says what it would remove.' })) },
  { additionalProperties: false, examples: [{ dryRun: true }] },
)

const PolicyResultSchema = Type.Object({
  policy: OneOf(RETENTION_POLICIES),
  days: Type.Integer(),
  cutoff: Time('What is older goes.'),
  found: Type.Integer({ description: 'How many it applies to.' }),
  removed: Type.Integer({ description: 'Of these, those that went; none in a dry run.' }),
  kept: Type.Integer({
    description: 'Of these, those that stay for now: they have open orders, or changed meanwhile.',
  }),
  failed: Type.Integer({ description: 'Of these, those that could not be removed; the next run tries again.' }),
  customerIds: Type.Array(Type.String(), { description: 'Which customers it applies to, the first thousand.' }),
})

export const RetentionRunSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    trigger: OneOf(['api', 'cli', 'schedule'] as const),
    dryRun: Type.Boolean(),
    status: OneOf(['queued', 'running', 'succeeded', 'failed'] as const),
    policies: Type.Array(PolicyResultSchema, {
      description: 'What each policy of the tenant came to; none: there is no policy.',
    }),
    error: Nullable(Type.Object({ code: Type.String(), message: Type.String() })),
    requestedBy: Nullable(Type.String({ description: 'Who asked for it; null for the daily run.' })),
    createdAt: Time('When it was asked for.'),
    startedAt: Nullable(Time('When it began.')),
    finishedAt: Nullable(Time('When it ended.')),
  },
  { description: 'A run of the tenant’s retention policies.' },
)
export type RetentionRunView = Static<typeof RetentionRunSchema>
export const RetentionRunPageSchema = PageOf(RetentionRunSchema)
export const RetentionRunQuerySchema = Type.Object({ ...PAGE_QUERY }, { additionalProperties: false })

/** The row as the API answers it. */
export function toRetentionRun(run: RetentionRun): RetentionRunView {
  const { id, trigger, dryRun, status, results, error, requestedBy, createdAt, startedAt, finishedAt } = run
  return {
    id,
    trigger,
    dryRun,
    status,
    policies: results,
    error,
    requestedBy,
    createdAt: createdAt.toISOString(),
    startedAt: startedAt?.toISOString() ?? null,
    finishedAt: finishedAt?.toISOString() ?? null,
  }
}
