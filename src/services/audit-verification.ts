import {
  type ChainEnds,
  type ChainedEntry,
  type ChainHead,
  findChainEnds,
  findChained,
  findLoose,
  GENESIS,
  hashEntry,
} from '../repositories/audit-chain.js'
import { type AuditTrim, findTrim } from '../repositories/audit-trim.js'
import type { Statements } from '../repositories/database.js'

/** What is wrong with the first entry that is not what it was. */
export interface Breach {
  seq: number
  /** The entry found in that place; null when there is none. */
  id: string | null
  kind: 'changed' | 'removed' | 'inserted' | 'reordered' | 'rewritten'
  message: string
}

/** What a verification came to. */
export interface Verification {
  /** How many entries were found to be what they were. */
  verified: number
  /** How many wait to be chained: normally those of the last second. */
  unchained: number
  /** Where the chain begins: behind what retention removed. */
  checkpoint: ChainHead
  /** Who removed that, and when; null where nothing was, and where the log does not tell. */
  trim: AuditTrim | null
  /** Its end. */
  head: ChainHead
  /** Null when all is well. */
  breach: Breach | null
}

/** Entries that are held in memory at a time. */
const PAGE = 500

/**
 * Goes through a tenant's whole chain, page by page, and holds each entry against the hash it was chained with, the end against
 * `audit_heads`, and, given a head that was kept elsewhere, the entry of that number against that hash: only this reveals someone
 * who rewrote the log to its end. What is missing from its beginning must be what an entry says that retention removed. Names the first
 * entry that is wrong. What is chained meanwhile is no breach.
 */
export async function verifyAudit(
  db: Statements,
  tenantId: string,
  kept: ChainHead | null = null,
): Promise<Verification> {
  for (;;) {
    const ends = (await findChainEnds(db, tenantId)) ?? { head: GENESIS, checkpoint: GENESIS }
    const trim = ends.checkpoint.seq === 0 ? null : await findTrim(db, tenantId, ends.checkpoint)
    const { verified, breach: found } = await verifyChain(db, tenantId, ends, kept)
    const breach = ends.checkpoint.seq > 0 && trim === null ? notRetention(ends.checkpoint) : found
    // Retention may have removed what was about to be read.
    const now = await findChainEnds(db, tenantId)
    if (breach !== null && now !== null && now.checkpoint.seq > ends.checkpoint.seq) continue
    const { unchained, beyond } = await findLoose(db, tenantId)
    const intruder: Breach | null =
      beyond === null
        ? null
        : { ...beyond, kind: 'inserted', message: `Entry ${beyond.seq} stands beyond the end of the chain.` }
    return { verified, unchained, ...ends, trim, breach: breach ?? intruder }
  }
}

async function verifyChain(
  db: Statements,
  tenantId: string,
  { head, checkpoint }: ChainEnds,
  kept: ChainHead | null,
): Promise<{ verified: number; breach: Breach | null }> {
  let previous = checkpoint
  let verified = 0
  const rewritten = (found: ChainHead) =>
    kept !== null && found.seq === kept.seq && !found.hash.equals(kept.hash) ? rewrittenAt(kept) : null
  const atStart = rewritten(checkpoint)
  if (atStart !== null) return { verified, breach: atStart }
  while (previous.seq < head.seq) {
    const page = await findChained(db, tenantId, previous.seq, PAGE)
    const entries = page.filter(({ seq }) => seq <= head.seq)
    if (entries.length === 0) return { verified, breach: removedAt(previous.seq + 1, 'the log ends before it') }
    for (const [index, entry] of entries.entries()) {
      const isWhole =
        entry.seq === previous.seq + 1 && hashEntry(previous.hash, entry.seq, entry.body).equals(entry.hash)
      if (!isWhole) return { verified, breach: await diagnose(db, tenantId, previous, entry, head, entries[index + 1]) }
      const breach = rewritten(entry)
      if (breach !== null) return { verified, breach: { ...breach, id: entry.id } }
      previous = entry
      verified += 1
    }
  }
  if (!previous.hash.equals(head.hash)) {
    const message = `The chain does not end with the hash that audit_heads has for entry ${head.seq}.`
    return { verified, breach: { seq: head.seq, id: null, kind: 'rewritten', message } }
  }
  if (kept !== null && kept.seq > head.seq) {
    return { verified, breach: removedAt(head.seq + 1, `the head kept elsewhere is entry ${kept.seq}`) }
  }
  return { verified, breach: null }
}

function rewrittenAt({ seq }: ChainHead): Breach {
  const message = `Entry ${seq} is not that of the head kept elsewhere: the log was rewritten from some entry up to ${seq} on.`
  return { seq, id: null, kind: 'rewritten', message }
}

function notRetention({ seq }: ChainHead): Breach {
  const message = `All entries up to ${seq} are gone, and no entry says that retention removed them.`
  return { seq, id: null, kind: 'removed', message }
}

function removedAt(seq: number, why: string): Breach {
  return { seq, id: null, kind: 'removed', message: `Entry ${seq} was removed: ${why}.` }
}

/** Says what happened, as far as the rest of the chain tells: whose hash fits where. */
async function diagnose(
  db: Statements,
  tenantId: string,
  previous: ChainHead,
  entry: ChainedEntry,
  head: ChainHead,
  following: ChainedEntry | undefined,
): Promise<Breach> {
  const place = previous.seq + 1
  if (entry.seq > place) return removedAt(place, `the next one is ${entry.seq}`)
  const found = { seq: place, id: entry.id }
  const stoodAt = await findFormerPlace(db, tenantId, place, entry)
  if (stoodAt !== null) {
    const message = `Entry ${place} (${entry.id}) was moved: it was chained as entry ${stoodAt}.`
    return { ...found, kind: 'reordered', message }
  }
  const [next] = following === undefined ? await findChained(db, tenantId, entry.seq, 1) : [following]
  if (next !== undefined && hashEntry(previous.hash, place, next.body).equals(next.hash)) {
    return {
      ...found,
      kind: 'inserted',
      message: `Entry ${place} (${entry.id}) was inserted: the one after it fits in its place.`,
    }
  }
  const last = await lastSeq(db, tenantId)
  const gone = head.seq - last
  if (gone > 0 && next !== undefined && hashEntry(entry.hash, next.seq + gone, next.body).equals(next.hash)) {
    return removedAt(place, `those after it were given lower numbers, ${gone} in all are missing`)
  }
  return {
    ...found,
    kind: 'changed',
    message: `Entry ${place} (${entry.id}) was changed after it was chained, or another was put in its place.`,
  }
}

/** The number under which this very entry was chained, if it stands in another place now. */
async function findFormerPlace(
  db: Statements,
  tenantId: string,
  place: number,
  entry: ChainedEntry,
): Promise<number | null> {
  let before: ChainHead | null = null
  let after = place
  for (;;) {
    const page: ChainedEntry[] = await findChained(db, tenantId, after, PAGE)
    for (const other of page) {
      // Whether the rows carried their hashes along or not, and whether the two stood side by side.
      const previousHashes: Buffer[] = [entry.hash, other.hash, ...(before === null ? [] : [before.hash])]
      const fits = previousHashes.some((hash) => {
        const asWas = hashEntry(hash, other.seq, entry.body)
        return asWas.equals(entry.hash) || asWas.equals(other.hash)
      })
      if (fits) return other.seq
      before = other
    }
    const last = page.at(-1)
    if (page.length < PAGE || last === undefined) return null
    after = last.seq
  }
}

async function lastSeq(db: Statements, tenantId: string): Promise<number> {
  const [row] = await db.query<{ seq: string | null }>('select max(seq) as seq from audit_log where tenant_id = $1', [
    tenantId,
  ])
  return Number(row?.seq ?? 0)
}
