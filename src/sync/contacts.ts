import { normalisePhone } from '../lib/phones.js'
import type { SyncedFields } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import type { Contacts } from '../repositories/contact-locks.js'

const E164 = /^\+[1-9]\d{6,14}$/

/** How the person of a Stripe customer can be known: Stripe keeps a phone as it was typed, the customers API in E.164. */
export function contactsOf(tenant: Tenant, { email, phone }: SyncedFields): Contacts {
  if (phone === null) return { email, phones: [] }
  const canonical = canonicalPhone(tenant, phone)
  return { email, phones: canonical === null || canonical === phone ? [phone] : [phone, canonical] }
}

/**
 * What two sides that meet have agreed on about a phone that both have in another form: what the side has that is not in E.164, so that the
 * other one counts as its edit. Null where they have not the same number, or the same form.
 */
export function agreedPhone(tenant: Tenant, local: string | null, remote: string | null): string | null {
  if (local === null || remote === null || local === remote) return null
  const canonical = canonicalPhone(tenant, local)
  if (canonical === null || canonical !== canonicalPhone(tenant, remote)) return null
  return local === canonical ? remote : remote === canonical ? local : null
}

function canonicalPhone({ settings }: Tenant, phone: string): string | null {
  return E164.test(phone) ? phone : normalisePhone(phone, settings.defaultRegion)
}
