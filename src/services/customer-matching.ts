import { findSurvivorsByContact } from '../repositories/customer-merges.js'
import { listCustomers } from '../repositories/customer-pages.js'
import { type CustomerRow, findCustomers } from '../repositories/customers.js'
import type { PrismaDb } from '../repositories/prisma.js'

/** An e-mail and a phone in the form that rows have. */
export interface Contact {
  email: string | null
  phone: string | null
}

/** Who of the active customers has a contact. */
export type ContactMatch =
  | { outcome: 'matched'; matchedBy: 'email' | 'phone'; customers: [CustomerRow] }
  | { outcome: 'none'; matchedBy: null; customers: [] }
  /** Several have it, or one has the e-mail and another the phone: nobody guesses. */
  | { outcome: 'ambiguous'; matchedBy: null; customers: CustomerRow[] }

/** More candidates than anyone wants to look through. */
const MOST = 10

/**
 * Finds the active customer that has this e-mail (in any case), else this phone, or that lives on for one who had it and was merged. Where one has the e-mail and another the
 * phone, or several have either, it is ambiguous.
 */
export async function matchContact(
  prisma: PrismaDb,
  tenantId: string,
  { email, phone }: Contact,
): Promise<ContactMatch> {
  const find = async (filter: { email: string } | { phone: string }): Promise<CustomerRow[]> => {
    const page = { sort: 'createdAt', limit: MOST } as const
    const { data } = await listCustomers(prisma, tenantId, { ...filter, state: 'active' }, page)
    if (data.length > 0) return data
    // Who was merged is known as whom they live on in.
    return findCustomers(prisma, tenantId, await findSurvivorsByContact(prisma, tenantId, filter))
  }
  const byEmail = email === null ? [] : await find({ email })
  const byPhone = phone === null ? [] : await find({ phone })
  const all = new Map([...byEmail, ...byPhone].map((row) => [row.user.id, row]))
  const [one, ...others] = all.values()
  if (one === undefined) return { outcome: 'none', matchedBy: null, customers: [] }
  if (others.length > 0) return { outcome: 'ambiguous', matchedBy: null, customers: [one, ...others].slice(0, MOST) }
  return { outcome: 'matched', matchedBy: byEmail.length > 0 ? 'email' : 'phone', customers: [one] }
}
