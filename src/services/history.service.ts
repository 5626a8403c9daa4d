import { NotFoundError, ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { sameJson } from '../lib/json.js'
import type { FieldHistory, HistoryQuery } from '../models/dtos/history.dto.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import { HISTORY_FIELDS, historyFieldOf, type Origin, REASONS, type Reason } from '../models/history.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import { findCustomer } from '../repositories/customers.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import {
  type FieldEntry,
  findLastEdits,
  HISTORY_ORDER,
  isFieldEntryId,
  listFieldEntries,
} from '../repositories/history.js'
import type { Vault } from '../repositories/vault.js'

type Side = 'local' | 'stripe'

export type HistoryService = ReturnType<typeof makeHistoryService>

/** Tells the story of a customer's fields, as the audit log has it. Throws `NotFoundError`, and `ValidationError` for a made-up cursor or field. */
export function makeHistoryService({ prisma, vault }: { prisma: PrismaClient; vault: Vault }) {
  return {
    /** A page of it, newest first. */
    async ofCustomer(tenantId: string, customerId: string, query: HistoryQuery): Promise<Page<FieldHistory>> {
      const isKnown = isId(customerId) && (await findCustomer(prisma, tenantId, customerId)) !== null
      if (!isKnown) throw new NotFoundError('customer', customerId)
      const { limit = DEFAULT_LIMIT, cursor } = query
      const field = query.field === undefined ? undefined : historyFieldOf(query.field)
      if (field === null) {
        const message = `has no story; there are ${HISTORY_FIELDS.join(', ')} and metadata.<key>`
        throw new ValidationError([{ path: 'field', code: 'not_allowed', message }])
      }
      const after = cursor === undefined ? null : decodeCursor(cursor, HISTORY_ORDER, isFieldEntryId)
      const whose = { tenantId, customerId: customerId.toLowerCase() }
      const page = await listFieldEntries(prisma, vault, { ...whose, field }, { limit, after })
      const decided = page.data.flatMap((entry) => {
        const side = sideOf(entry)
        return isOfSync(entry) && side !== null ? [{ entry, side }] : []
      })
      const sought = decided.map(({ entry, side }) => ({
        field: entry.field,
        side,
        id: entry.id,
        atMicros: entry.atMicros,
      }))
      const found = await findLastEdits(prisma, vault, whose, sought)
      const edits = new Map(decided.map(({ entry }, index) => [entry, found[index] ?? null]))
      return { ...page, data: page.data.map((entry) => historyOf(entry, edits.get(entry) ?? null)) }
    },
  }
}

/** @param last the last edit before a decision, on the side that won */
function historyOf(entry: FieldEntry, last: FieldEntry | null): FieldHistory {
  const { change } = entry
  const valuesKnown = 'from' in change || 'to' in change
  const isDecision = originOf(entry) === 'sync' || entry.action === 'conflict.resolve'
  const side = sideOf(entry)
  // An edit of which only the fact is known may be the one; any other is it only if it gave the field this value.
  const edit = last !== null && (!('to' in last.change) || sameJson(last.change.to, change.to)) ? last : null
  const why = edit?.action === 'conflict.resolve' && change.why === 'only_change' ? 'manual' : reasonOf(change.why)
  return {
    id: entry.id,
    field: entry.field,
    at: entry.at.toISOString(),
    changedAt: textOf(change.changedAt) ?? entry.editedAt ?? timeOfSide(entry, side),
    kind: isDecision ? 'decision' : 'edit',
    side,
    by: byOf(entry),
    before: change.from ?? null,
    after: change.to ?? null,
    valuesKnown,
    why: isDecision ? why : null,
    policy: textOf(change.policy),
    sides: isDecision && side !== null && 'base' in change ? sidesOf(entry, side) : null,
    edit: edit === null ? null : { id: edit.id, at: edit.at.toISOString(), ...byOf(edit) },
  }
}

function byOf(entry: FieldEntry): FieldHistory['by'] {
  const { actor, program, requestId, cause } = entry
  const isEvent = cause?.startsWith('evt_') === true
  return {
    origin: originOf(entry),
    actor,
    program,
    requestId,
    stripeEventId: isEvent ? cause : null,
    cause: isEvent ? null : cause,
  }
}

function originOf({ actor, action }: FieldEntry): Origin {
  if (actor === 'stripe' || actor === 'sync') return actor
  if (actor.startsWith('sql:')) return 'sql'
  return action.startsWith('customer.') ? 'rest' : 'operator'
}

function isOfSync({ actor, field }: FieldEntry): boolean {
  return actor === 'sync' && field !== 'stripeCustomerId'
}

function sideOf({ actor, action, change }: FieldEntry): Side | null {
  if (change.winner === 'local' || change.winner === 'stripe') return change.winner
  if (actor === 'stripe') return 'stripe'
  return actor === 'sync' || action === 'conflict.resolve' ? null : 'local'
}

function sidesOf({ change }: FieldEntry, side: Side): FieldHistory['sides'] {
  const [winner, loser] = [change.to ?? null, change.from ?? null]
  return {
    base: change.base ?? null,
    local: side === 'local' ? winner : loser,
    stripe: side === 'stripe' ? winner : loser,
    localAt: textOf(change.localAt),
    stripeAt: textOf(change.remoteAt),
  }
}

function timeOfSide({ change }: FieldEntry, side: Side | null): string | null {
  return textOf(side === 'stripe' ? change.remoteAt : change.localAt)
}

function reasonOf(why: unknown): Reason | null {
  return REASONS.find((reason) => reason === why) ?? null
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null
}
