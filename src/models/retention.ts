import type { FieldError } from '../lib/errors.js'

/**
 * What a tenant wants removed, and after how many days. An absent or null policy removes nothing; that is the default of each, but
 * for `importsAfterDays`.
 * `anonymousAfterDays`: customers of type `anonymous` of whom nothing was heard for so long are erased. `archivedAfterDays`:
 * customers that were archived so long ago are erased. `inactiveAfterDays`: active customers of whom nothing was heard for so long
 * are erased. `eventsAfterDays`: settled events of Stripe's are deleted. `auditAfterDays`: entries of the audit log are deleted.
 * `importsAfterDays`: imports that have ended are deleted, with their reports; without it the housekeeping does so after 30 days.
 */
export interface RetentionSettings {
  anonymousAfterDays?: number | null
  archivedAfterDays?: number | null
  inactiveAfterDays?: number | null
  eventsAfterDays?: number | null
  auditAfterDays?: number | null
  importsAfterDays?: number | null
}

/** The policies about customers, whom they erase, and those about records, which they delete. */
export const CUSTOMER_POLICIES = ['anonymous', 'archived', 'inactive'] as const
export type CustomerPolicy = (typeof CUSTOMER_POLICIES)[number]
export const RECORD_POLICIES = ['events', 'audit', 'imports'] as const
export type RecordPolicy = (typeof RECORD_POLICIES)[number]
export const RETENTION_POLICIES = [...CUSTOMER_POLICIES, ...RECORD_POLICIES] as const
export type RetentionPolicy = (typeof RETENTION_POLICIES)[number]

const SETTING: Readonly<Record<RetentionPolicy, keyof RetentionSettings>> = {
  anonymous: 'anonymousAfterDays',
  archived: 'archivedAfterDays',
  inactive: 'inactiveAfterDays',
  events: 'eventsAfterDays',
  audit: 'auditAfterDays',
  imports: 'importsAfterDays',
}

/** A hundred years. */
export const MOST_DAYS = 36_500
/** Stripe lists events for 30 days: one that was forgotten earlier could come again. Nobody can have the audit log forget this month. */
export const LEAST_DAYS: Readonly<Record<keyof RetentionSettings, number>> = {
  anonymousAfterDays: 1,
  archivedAfterDays: 1,
  inactiveAfterDays: 1,
  eventsAfterDays: 31,
  auditAfterDays: 31,
  importsAfterDays: 1,
}

/**
 * The policies of the settings, in days. What is not understood is named in `errors`; then nothing may be removed, since what was
 * meant is not known.
 *
 * @param value `tenants.settings.retention`, as it is stored
 */
export function readRetention(value: unknown): {
  days: Partial<Record<RetentionPolicy, number>>
  errors: FieldError[]
} {
  if (value === undefined || value === null) return { days: {}, errors: [] }
  if (typeof value !== 'object' || Array.isArray(value)) {
    return { days: {}, errors: [{ path: 'retention', code: 'wrong_type', message: 'must be an object' }] }
  }
  const errors: FieldError[] = []
  const days: Partial<Record<RetentionPolicy, number>> = {}
  for (const [name, given] of Object.entries(value)) {
    const path = `retention.${name}`
    const policy = RETENTION_POLICIES.find((one) => SETTING[one] === name)
    if (policy === undefined) {
      errors.push({
        path,
        code: 'unknown_field',
        message: `is no policy; those are ${Object.values(SETTING).join(', ')}`,
      })
    } else if (given !== null) {
      const least = LEAST_DAYS[SETTING[policy]]
      if (typeof given === 'number' && Number.isInteger(given) && given >= least && given <= MOST_DAYS)
        days[policy] = given
      else
        errors.push({ path, code: 'not_allowed', message: `must be whole days from ${least} to ${MOST_DAYS}, or null` })
    }
  }
  return { days, errors }
}

/** What a policy came to in a run. */
export interface PolicyResult {
  policy: RetentionPolicy
  days: number
  /** What is older goes, ISO 8601. */
  cutoff: string
  /** How many it applies to. */
  found: number
  /** Of these, those that went: none in a dry run. */
  removed: number
  /** Of these, those that stay for now: they have open orders, or changed meanwhile. */
  kept: number
  /** Of these, those that could not be removed. */
  failed: number
  /** Which customers it applies to, the first thousand; none for records. */
  customerIds: string[]
}

/** Where a run stands: enough to go on from after a crash. */
export interface RetentionProgress {
  /** The last customer that was looked at. */
  after?: string | null
  /** The customers are done; what is left are records. */
  isPastCustomers?: boolean
}

export type RetentionTrigger = 'api' | 'cli' | 'schedule'

/** A row of `retention_runs`. */
export interface RetentionRun {
  id: string
  tenantId: string
  trigger: RetentionTrigger
  dryRun: boolean
  status: 'queued' | 'running' | 'succeeded' | 'failed'
  progress: RetentionProgress
  results: PolicyResult[]
  error: { code: string; message: string } | null
  requestedBy: string | null
  createdAt: Date
  startedAt: Date | null
  finishedAt: Date | null
}
