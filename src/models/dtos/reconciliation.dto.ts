import { type Static, Type } from 'typebox'
import { Any, MapOf, Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

export const RUN_KINDS = ['sweep', 'catch_up'] as const
export type RunKind = (typeof RUN_KINDS)[number]
const TRIGGERS = ['api', 'cli', 'schedule', 'start'] as const
const RUN_STATUSES = ['queued', 'running', 'succeeded', 'failed'] as const

export const StartRunSchema = Type.Object(
  {
    kind: OneOf(RUN_KINDS, {
      description:
        '`sweep` reads every Stripe customer and user and finds drift; `catch_up` reads the events that the webhook missed.',
    }),
    dryRun: Type.Optional(Type.Boolean({ default: false, description: 'Only counts what it would do.' })),
  },
  { additionalProperties: false, examples: [{ kind: 'sweep', dryRun: true }] },
)
export type StartRun = Static<typeof StartRunSchema>

export const ReconciliationSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    kind: OneOf(RUN_KINDS),
    trigger: OneOf(TRIGGERS),
    dryRun: Type.Boolean(),
    status: OneOf(RUN_STATUSES, { description: '`failed` as soon as any part of it failed.' }),
    progress: Any('How far it is.'),
    counts: MapOf(Type.Number(), {
      description: 'What it found, by kind.',
      examples: [{ created: 0, linked: 2, fixed: 1 }],
    }),
    error: Any('What went wrong; null when nothing did.'),
    requestedBy: Nullable(Type.String({ description: 'Who asked for it.' })),
    createdAt: Time('When it was asked for.'),
    startedAt: Nullable(Time('When it began.')),
    finishedAt: Nullable(Time('When it ended.')),
  },
  { description: 'A run over all events or all customers.' },
)
export type Reconciliation = Static<typeof ReconciliationSchema>
export const ReconciliationPageSchema = PageOf(ReconciliationSchema)

export const ReconciliationQuerySchema = Type.Object({ ...PAGE_QUERY }, { additionalProperties: false })

/** What a {@link Reconciliation} is made of: a row of `reconciliations`. */
export interface ReconciliationSource {
  id: string
  kind: RunKind
  trigger: Reconciliation['trigger']
  dryRun: boolean
  status: Reconciliation['status']
  progress: unknown
  counts: object
  error: unknown
  requestedBy: string | null
  createdAt: Date
  startedAt: Date | null
  finishedAt: Date | null
}

export function toReconciliation(row: ReconciliationSource): Reconciliation {
  return {
    id: row.id,
    kind: row.kind,
    trigger: row.trigger,
    dryRun: row.dryRun,
    status: row.status,
    progress: row.progress,
    counts: { ...row.counts } as Record<string, number>,
    error: row.error,
    requestedBy: row.requestedBy,
    createdAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: row.finishedAt?.toISOString() ?? null,
  }
}
