import type { Statements } from './database.js'

/** What tells people apart: an e-mail, in any case, and a phone, in each form that rows may have it in. */
export interface Contacts {
  email: string | null
  phones: readonly string[]
}

/** The contacts of a row under their names for {@link lockContacts}. */
export function contactNames({ email, phone }: { email: string | null; phone: string | null }): string[] {
  return namesOfContacts({ email, phones: phone === null ? [] : [phone] })
}

/** The same of {@link Contacts}. */
export function namesOfContacts({ email, phones }: Contacts): string[] {
  return [...(email === null ? [] : [`email/${email.toLowerCase()}`]), ...phones.map((phone) => `phone/${phone}`)]
}

/**
 * Makes the transaction the only one, until it ends, to look for or make a user with one of these contacts. Taken in one order by
 * all, and before any row of users, so that no two wait for each other.
 *
 * @param names by {@link contactNames}, or of anything else that only one may do
 */
export async function lockContacts(tx: Statements, tenantId: string, names: readonly string[]): Promise<void> {
  const sorted = [...new Set(names)].sort().map((name) => `${tenantId}/${name}`)
  if (sorted.length === 0) return
  // As text, since Prisma takes no rows of nothing.
  await tx.query(
    `select pg_advisory_xact_lock(hashtextextended(name, 0))::text as locked from (
       select name from unnest($1::text[]) with ordinality as given(name, place) order by place
     ) as sorted`,
    [sorted],
    'lock-contacts',
  )
}
