import { type FieldChanges, isPlainField, mapFieldValues } from '../audit.js'
import type { AuditEntry } from './audit.dto.js'
import type { Customer } from './customer.dto.js'
import type { FieldHistory } from './history.dto.js'
import type { OrderView } from './order.dto.js'
import type { Conflict, Duplicate, EventDetail } from './review.dto.js'
import type { SyncView } from './sync.dto.js'

/** Stands for text that is not shown. */
const HIDDEN = '***'

/** A customer for eyes that may not see personal data: enough is left to tell two apart, not to reach anyone. */
export function maskCustomer(customer: Customer): Customer {
  return {
    ...customer,
    firstName: initial(customer.firstName),
    lastName: initial(customer.lastName),
    email: maskEmail(customer.email),
    phone: maskPhone(customer.phone),
    description: hide(customer.description),
    address: maskAddress(customer.address),
    shipping:
      customer.shipping === null
        ? null
        : {
            name: initial(customer.shipping.name),
            phone: maskPhone(customer.shipping.phone),
            address: maskAddress(customer.shipping.address),
          },
    metadata: hideValues(customer.metadata),
  }
}

/** The same for a page of customers. */
export function maskCustomerPage<P extends { data: Customer[] }>(page: P): P {
  return { ...page, data: page.data.map(maskCustomer) }
}

/** An order, whose attendees nobody can be reached by. */
export function maskOrder(order: OrderView): OrderView {
  const attendees = order.attendees.map(({ snapshot, ...attendee }) => ({
    ...attendee,
    snapshot: {
      type: snapshot.type,
      firstName: initial(snapshot.firstName),
      lastName: initial(snapshot.lastName),
      email: maskEmail(snapshot.email),
      phone: maskPhone(snapshot.phone),
    },
  }))
  return { ...order, attendees }
}

/** The same for a page of orders. */
export function maskOrderPage<P extends { data: OrderView[] }>(page: P): P {
  return { ...page, data: page.data.map(maskOrder) }
}

/** The values of a conflict; the field, the times and the winner stay. */
export function maskConflict(conflict: Conflict): Conflict {
  const { base, local, remote } = conflict
  return { ...conflict, base: maskField(base), local: maskField(local), remote: maskField(remote) }
}

/** The same for a page of conflicts. */
export function maskConflictPage<P extends { data: Conflict[] }>(page: P): P {
  return { ...page, data: page.data.map(maskConflict) }
}

/** What each side holds; whether and where they differ stays. */
export function maskSyncView(view: SyncView): SyncView {
  return {
    ...view,
    local: maskSide(view.local),
    remote: maskSide(view.remote),
    base: maskSide(view.base),
    conflicts: view.conflicts.map(maskConflict),
  }
}

/** A consent, whose evidence nobody can be found by. */
export function maskConsent<C extends { evidence: Record<string, string | null> }>(consent: C): C {
  const hidden = Object.entries(consent.evidence).map(([key, value]) => [key, hide(value)])
  return { ...consent, evidence: Object.fromEntries(hidden) }
}

/** The same for many. */
export function maskConsentPage<P extends { data: { evidence: Record<string, string | null> }[] }>(page: P): P {
  return { ...page, data: page.data.map(maskConsent) }
}

/** What a merge came to; which fields stood against each other stays. */
export function maskMerge<M extends { conflicts: { survivor: unknown; loser: unknown }[] }>(merge: M): M {
  const conflicts = merge.conflicts.map((one) => ({
    ...one,
    survivor: maskField(one.survivor),
    loser: maskField(one.loser),
  }))
  return { ...merge, conflicts }
}

/** The same for a page of merges. */
export function maskMergePage<P extends { data: { conflicts: { survivor: unknown; loser: unknown }[] }[] }>(
  page: P,
): P {
  return { ...page, data: page.data.map(maskMerge) }
}

/** What was decided about a duplicate, with the merge that it came to. */
export function maskDuplicate(duplicate: Duplicate): Duplicate {
  const { merge } = duplicate
  return merge === undefined || merge === null ? duplicate : { ...duplicate, merge: maskMerge(merge) }
}

/** The payload, but for what of it is no personal data. */
export function maskEvent(event: EventDetail): EventDetail {
  const { payload } = event
  const { id, object, type, created, livemode, api_version, account, data } = (payload ?? {}) as Record<string, unknown>
  const about = ((data ?? {}) as { object?: Record<string, unknown> }).object
  return {
    ...event,
    payload: {
      id,
      object,
      type,
      created,
      livemode,
      api_version,
      account,
      data: { object: { id: about?.id, object: about?.object } },
    },
  }
}

/** A page of the audit log: which fields changed stays. */
export function maskAuditPage<P extends { data: AuditEntry[] }>(page: P): P {
  const data = page.data.map((entry) => {
    const { fields, ...rest } = (entry.changes ?? {}) as { fields?: unknown }
    const isMap = typeof fields === 'object' && fields !== null && !Array.isArray(fields)
    return isMap ? { ...entry, changes: { ...rest, fields: mapFieldValues(fields as FieldChanges, maskField) } } : entry
  })
  return { ...page, data }
}

/** A page of a customer's history: when, by whom and why stays. */
export function maskHistoryPage<P extends { data: FieldHistory[] }>(page: P): P {
  const data = page.data.map((item) => {
    if (isPlainField(item.field)) return item
    const { before, after, sides } = item
    const masked =
      sides === null
        ? null
        : { ...sides, base: maskField(sides.base), local: maskField(sides.local), stripe: maskField(sides.stripe) }
    return { ...item, before: maskField(before), after: maskField(after), sides: masked }
  })
  return { ...page, data }
}

function maskSide(side: SyncView['local']): SyncView['local'] {
  if (side === null) return null
  return {
    email: maskEmail(side.email),
    phone: maskPhone(side.phone),
    name: initial(side.name),
    description: hide(side.description),
    locale: side.locale,
    address: maskField(side.address),
    shipping: maskField(side.shipping),
    metadata: hideValues(side.metadata),
  }
}

/** `ada@example.com` as `a***@example.com`. */
function maskEmail(email: string | null): string | null {
  if (email === null) return null
  const at = email.lastIndexOf('@')
  return at < 1 ? HIDDEN : `${firstOf(email)}${HIDDEN}${email.slice(at)}`
}

/** The last two digits of a phone number. */
function maskPhone(phone: string | null): string | null {
  return phone === null ? null : `${HIDDEN}${phone.slice(-2)}`
}

function initial(name: string | null): string | null {
  return name === null ? null : `${firstOf(name)}${HIDDEN}`
}

function firstOf(text: string): string {
  return [...text][0] ?? ''
}

function hide(text: string | null): string | null {
  return text === null ? null : HIDDEN
}

function hideValues(values: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.keys(values).map((key) => [key, HIDDEN]))
}

/** The country of an address tells of nobody. */
function maskAddress(address: Customer['address']): Customer['address'] {
  if (address === null) return null
  const { country, ...rest } = address
  const hidden = Object.fromEntries(Object.entries(rest).map(([name, text]) => [name, hide(text)]))
  return { ...hidden, country } as Customer['address']
}

/** A value of whatever field: whether there is one stays. */
function maskField(value: unknown): unknown {
  return value === null || value === undefined ? value : HIDDEN
}
