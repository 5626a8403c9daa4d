import type { Clock } from '../lib/clock.js'
import { ConflictError, type FieldError, NotFoundError, ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { sameJson } from '../lib/json.js'
import type { ConsentChange, NewConsentChange } from '../models/consent.js'
import {
  type Consent,
  type ConsentChangeView,
  type ConsentHistoryQuery,
  type ConsentInput,
  toConsent,
  toConsentChange,
} from '../models/dtos/consent.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import { type Actor, recordAudit } from '../repositories/audit-log.js'
import {
  CONSENT_ORDER,
  countOtherPurposes,
  findConsent,
  findConsents,
  hasConsentChange,
  insertConsentChange,
  listConsentChanges,
} from '../repositories/consents.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import type { Db } from '../repositories/database.js'
import { findUser, lockUser } from '../repositories/users.js'
import { storable } from '../sync/fields.js'

/** Purposes of one customer: the present consents are answered whole. */
const MOST_PURPOSES = 100
const MOST_EVIDENCE = 20
const EVIDENCE_KEY_LENGTH = 40
/** How far a client's clock may be ahead of ours, in milliseconds. A grant dated later would hide withdrawals to come. */
const CLOCK_SLACK_MS = 60_000

export type ConsentService = ReturnType<typeof makeConsentService>

/**
 * Consents of customers: what holds now, and all that was ever said. Nothing recorded is changed or removed. Throws
 * `ValidationError`, `NotFoundError`, `ConflictError` and `DatabaseError`.
 */
export function makeConsentService({ db, clock }: { db: Db; clock: Clock }) {
  async function mustExist(tenantId: string, id: string): Promise<void> {
    if (!isId(id) || (await findUser(db, tenantId, id)) === null) throw new NotFoundError('customer', id)
  }

  return {
    /** What holds now, by purpose; also of a customer that is archived or erased. */
    async list(tenantId: string, id: string): Promise<{ data: Consent[] }> {
      await mustExist(tenantId, id)
      return { data: (await findConsents(db, tenantId, id)).map(toConsent) }
    },

    /** All that was recorded, latest recorded first. */
    async history(
      tenantId: string,
      id: string,
      { purpose, limit = DEFAULT_LIMIT, cursor }: ConsentHistoryQuery,
    ): Promise<Page<ConsentChangeView>> {
      const after = cursor === undefined ? null : decodeCursor(cursor, CONSENT_ORDER, isId)
      await mustExist(tenantId, id)
      const about = { customerId: id, purpose: purpose ?? null }
      const page = await listConsentChanges(db, tenantId, about, { limit, after })
      return { ...page, data: page.data.map(toConsentChange) }
    },

    /**
     * Records what the person said, and answers what holds now: that, or something said later. The same again changes nothing.
     *
     * @throws {ConflictError} `customer_erased` for a grant by someone who was erased (a withdrawal is still recorded, without
     *   evidence); `too_many_purposes` beyond a hundred.
     */
    async record(by: Actor, id: string, purpose: string, input: ConsentInput): Promise<Consent> {
      const { tenantId } = by
      const { status, source, version = null, text = null } = input
      const { at, evidence } = check(input, clock.now())
      if (!isId(id)) throw new NotFoundError('customer', id)
      const present = await db.transaction(async (tx) => {
        // Held, so that neither a merge nor an erasure comes between.
        const user = await lockUser(tx, tenantId, id)
        if (user === null) throw new NotFoundError('customer', id)
        const isErased = user.state === 'erased'
        if (isErased && status === 'granted') {
          throw new ConflictError(
            'The customer was erased for good; only a withdrawal can be recorded.',
            'customer_erased',
          )
        }
        const change = { customerId: id, purpose, status, source, version, text, at, actor: by.actor }
        const next: NewConsentChange = { ...change, evidence: isErased ? {} : evidence }
        const now = await findConsent(tx, tenantId, id, purpose)
        if (await isKnown(tx, tenantId, now, next)) return now
        if (now === null && (await countOtherPurposes(tx, tenantId, id, purpose)) >= MOST_PURPOSES) {
          throw new ConflictError(`The customer has consents for ${MOST_PURPOSES} purposes.`, 'too_many_purposes')
        }
        await insertConsentChange(tx, tenantId, next)
        await recordAudit(tx, by, {
          action: 'consent.record',
          entity: 'customer',
          entityId: id,
          changes: { purpose, status, source, at: at?.toISOString() ?? null },
        })
        return findConsent(tx, tenantId, id, purpose)
      })
      if (present === null) throw new Error('A row is gone within the transaction that wrote it.')
      return toConsent(present)
    },
  }
}

/** Without a time of its own, what says the same as what holds is a repeat. */
async function isKnown(
  db: Db,
  tenantId: string,
  present: ConsentChange | null,
  next: NewConsentChange,
): Promise<boolean> {
  if (next.at !== null) return hasConsentChange(db, tenantId, next)
  const wordsOf = ({ status, source, version, text, evidence }: Omit<NewConsentChange, 'at'>) => ({
    status,
    source,
    version,
    text,
    evidence,
  })
  return present !== null && sameJson(wordsOf(present), wordsOf(next))
}

function check({ at, version, text, evidence = {} }: ConsentInput, now: number) {
  const errors: FieldError[] = []
  const time = at === undefined ? null : new Date(at)
  if (time !== null) {
    if (Number.isNaN(time.getTime()) || time.getUTCFullYear() < 1970) {
      errors.push({ path: 'at', code: 'wrong_format', message: 'is not a time since 1970 that can be told' })
    } else if (time.getTime() > now + CLOCK_SLACK_MS) {
      errors.push({ path: 'at', code: 'in_future', message: 'must not be in the future' })
    }
  }
  const entries = Object.entries(evidence)
  if (entries.length > MOST_EVIDENCE) {
    errors.push({ path: 'evidence', code: 'too_many_keys', message: `has more than ${MOST_EVIDENCE} keys` })
  }
  for (const [key] of entries) {
    if (key !== '' && key.length <= EVIDENCE_KEY_LENGTH) continue
    const message = `the key must have 1 to ${EVIDENCE_KEY_LENGTH} characters`
    errors.push({ path: `evidence.${key}`, code: 'invalid_key', message })
  }
  const texts: [string, string | null | undefined][] = [
    ['version', version],
    ['text', text],
    ...entries.map(([key, value]): [string, string] => [`evidence.${key}`, key + value]),
  ]
  for (const [path, value] of texts) {
    if (value === null || value === undefined || storable(value) === value) continue
    errors.push({ path, code: 'invalid_characters', message: 'holds characters that cannot be stored' })
  }
  if (errors.length > 0) throw new ValidationError(errors)
  return { at: time, evidence }
}
