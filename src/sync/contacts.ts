import { normalisePhone } from '../lib/phones.js'
import type { SyncedFields } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import type { Contacts } from '../repositories/contact-locks.js'

const E164 = /^\+[1-9]\d{6,14}$/

/** How the person of a Stripe customer can be known: Stripe keeps a phone as it was typed, the customers API in E.164. */
export function contactsOf({ settings }: Tenant, { email, phone }: SyncedFields): Contacts {
  if (phone === null) return { email, phones: [] }
  const canonical = E164.test(phone) ? phone : normalisePhone(phone, settings.defaultRegion)
  return { email, phones: canonical === null || canonical === phone ? [phone] : [phone, canonical] }
}
