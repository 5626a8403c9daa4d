import { ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import type { ListOrder, SearchPlan } from './customer-filter.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** A search text, understood: conditions on `user_search s` of one tenant. */
export interface Search {
  /** Each word occurs as it was typed; what a whole id names is in as well. */
  typed: Prisma.Sql
  /** Pieces of text that all have that `typed` finds; null where nothing is known to be common to them. */
  pieces: string[] | null
  /** Each word is a whole word of theirs: some of those that `typed` finds, in half the time. Null where not all words are kept as such. */
  spelled: Prisma.Sql | null
  /** As `typed`, but one slip in each word is forgiven; null when nobody has a word that near, so that it would find the same. */
  forgiven: () => Promise<Prisma.Sql | null>
  /** Each word begins a word; on `user_search` by this name. */
  begun: (alias: 's' | 'found') => Prisma.Sql
  /** On `user_list l`: the name or the e-mail is the text, or the text is the id. */
  whole: Prisma.Sql
}

/** How a search text is to be read. */
export interface SearchRequest {
  q: string
  /** `q` as a whole phone number in E.164, if it can be read as one. */
  phone: string | null
  /** False: only whole ids are looked for, since any other hit would confirm a guess of personal data. */
  seesPersonalData: boolean
}

/** More words make a sentence, not a search; each costs an index scan. */
const MOST_WORDS = 12

/** Ways to find all words that are asked for one by one. */
const MOST_COMBINATIONS = 16

/** The longest part of a name or e-mail that `user_list` keeps. Characters. */
const SORT_KEY_LENGTH = 100

const PHONE = /^[\d\s()+./-]+$/
/** A Stripe customer's id. */
const STRIPE_ID = /^cus_[0-9A-Za-z_]+$/
/** What stands before the @ of an e-mail, and the @. */
const MAILBOX = /^([^@]+@)[^@]+$/
/** Three letters or digits in a row: what the trigram index needs to find a piece that may be anywhere. */
const LONG_RUN = /[\p{L}\p{N}]{3}/u
/** What `lockstep_words` takes for a word. */
const KEPT_WORD = /^\p{L}{4,24}$/u
/** What may have a slip: such a word, give or take one letter. */
const SLIP_WORD = /^\p{L}{3,25}$/u

/** Whether the text has the form of an id, Stripe's or ours. */
export function isWholeId(q: string): boolean {
  return isId(q.trim()) || STRIPE_ID.test(q.trim())
}

/**
 * Understands a search text; null when nothing can match it. Costs one round trip.
 *
 * @throws {ValidationError} naming `q` when it has more than twelve words.
 */
export async function readSearch(
  prisma: PrismaDb,
  tenantId: string,
  { q, phone, seesPersonalData }: SearchRequest,
): Promise<Search | null> {
  const text = q.trim()
  const [row] = await prisma.$queryRaw<{ folded: string; linked: string | null }[]>`
    select lockstep_fold(${text}) as folded,
      (select id::text from users where tenant_id = ${tenantId}::uuid and stripe_customer_id = ${text}) as linked`
  const folded = row?.folded ?? ''
  const ids = [row?.linked ?? null, isId(text) ? text.toLowerCase() : null].filter((id) => id !== null)
  const words = seesPersonalData ? wordsOf(folded) : []
  if (words.length === 0 && ids.length === 0) return null

  const isNamed = ids.length === 0 ? null : Prisma.sql`s.user_id = any(${ids}::uuid[])`
  const or = (...conditions: (Prisma.Sql | null)[]) => {
    const some = conditions.filter((condition) => condition !== null)
    return some.length === 0 ? Prisma.sql`false` : Prisma.sql`(${Prisma.join(some, ' or ')})`
  }
  const all = (conditions: Prisma.Sql[]) =>
    conditions.length === 0 ? null : Prisma.sql`(${Prisma.join(conditions, ' and ')})`
  const isSpelled = (word: string) => Prisma.sql`s.words && array[lockstep_word_hash(${tenantId}::uuid, ${word})]`
  const typed = all(words.map(occurs))
  const byPhone = words.length === 0 ? null : phoneCondition(text, phone)
  return {
    typed: or(isNamed, typed, byPhone),
    pieces: isNamed === null && byPhone === null ? words.flatMap(pieceOf) : null,
    spelled: words.length > 0 && words.every((word) => KEPT_WORD.test(word)) ? all(words.map(isSpelled)) : null,
    forgiven: async () => {
      const near = await findNearWords(prisma, tenantId, words.flatMap(slipPiecesOf))
      const isWider = near.size > 0 || words.some((word) => piecesOf(word).length > 1)
      return isWider ? or(isNamed, allOf(words.map((word) => waysOf(word, near))), byPhone) : null
    },
    begun: (alias) => or(all(words.map((word) => like(` ${escaped(word)}`, alias)))),
    whole: or(
      words.length === 0 ? null : Prisma.sql`l.name = ${cut(folded)}`,
      words.length === 0 ? null : Prisma.sql`l.email = ${cut(text.toLowerCase())}`,
      ids.length === 0 ? null : Prisma.sql`l.user_id = any(${ids}::uuid[])`,
    ),
  }
}

/**
 * Matches that are gathered in less time than it takes to look for them among the first of an order. Who is next by name or time of
 * change is anywhere in the tables, which makes looking take twice as long; and equal names stand together, so that the first may all be
 * others. To gather by time of change, `user_list` is looked up as well.
 */
const FEW = { created_at: 1_000, updated_at: 8_500, name: 15_000, email: 15_000 } as const satisfies Record<
  ListOrder['column'],
  number
>

/** How to look for what is found by `search`, a part of it by `spelled`, for a page of `limit` that would be looked for among the first `window` of this order. */
export async function planSearch(
  prisma: PrismaDb,
  tenantId: string,
  { search, spelled }: { search: Prisma.Sql; spelled: Prisma.Sql | null },
  { order, limit, window }: { order: ListOrder; limit: number; window: number },
): Promise<SearchPlan> {
  const rows = await prisma.$queryRaw<{ 'QUERY PLAN': { Plan: { Plans?: { 'Plan Rows': number }[] } }[] }[]>`
    explain (format json)
      (select from user_search s where s.tenant_id = ${tenantId}::uuid and ${search} offset 0)
      union all (select from user_search s where s.tenant_id = ${tenantId}::uuid offset 0)
      union all (select from user_search s offset 0)
      union all (select from user_search s where ${spelled ?? Prisma.sql`false`} offset 0)`
  const [found = 0, own = 0, all = 0, whole = 0] = (rows[0]?.['QUERY PLAN'][0]?.Plan.Plans ?? []).map(
    (plan) => plan['Plan Rows'],
  )
  const isThin = found <= FEW.created_at || found * window < own * limit
  const isRare = isThin || found <= FEW[order.column]
  return {
    found,
    all,
    spelled: spelled === null ? 0 : whole,
    isThin,
    isRare,
    isSure: found * 150 < all,
    isMain: own * 4 > all,
  }
}

/** The words of folded text that have a letter or digit, each once. */
function wordsOf(folded: string): string[] {
  const words = [...new Set(folded.split(' ').filter((word) => /[\p{L}\p{N}]/u.test(word)))]
  if (words.length <= MOST_WORDS) return words
  throw new ValidationError([{ path: 'q', code: 'too_many', message: `has more than ${MOST_WORDS} words` }])
}

/** The word is somewhere; a short one, which no index finds inside of words, begins a word. */
function occurs(word: string): Prisma.Sql {
  const [piece] = pieceOf(word)
  if (piece !== undefined) {
    // By the index only what stands before the @: many have the rest, which takes it four times as long to read in vain.
    const [, mailbox] = MAILBOX.exec(piece) ?? []
    if (mailbox === undefined || !LONG_RUN.test(mailbox)) return like(escaped(piece))
    return Prisma.sql`(${like(escaped(mailbox))} and (${like(escaped(piece))}) is true)`
  }
  return Prisma.sql`(${like(escaped(word))} or ${like(word.replace(/\D/g, ''))})`
}

/** What text must contain to have the word; nothing where it may have one of two things. */
function pieceOf(word: string): [string] | [] {
  if (!LONG_RUN.test(word)) return [` ${word.replace(/^[^\p{L}\p{N}]+/u, '')}`]
  const digits = word.replace(/\D/g, '')
  return PHONE.test(word) && digits !== word && digits.length >= 3 ? [] : [word]
}

/** The ways in which a word may be found; one of them has to be true. */
function waysOf(word: string, near: NearWords): Prisma.Sql[] {
  const pieces = piecesOf(word)
  if (!pieces.some((piece) => SLIP_WORD.test(piece))) return [occurs(word)]
  if (pieces.length === 1 && pieces[0] === word) return waysOfPiece(word, near)
  return [occurs(word), allOf(pieces.map((piece) => waysOfPiece(piece, near)))]
}

function waysOfPiece(piece: string, near: NearWords): Prisma.Sql[] {
  const hashes = near.get(piece)
  return [occurs(piece), ...(hashes === undefined ? [] : [Prisma.sql`s.words && ${hashes}::bigint[]`])]
}

/**
 * For each word one of its ways. Written as the combinations, as long as they are few: each of them is one scan of the index, which
 * skips through what is common by what is rare, where (a or b) and (c or d) reads all that either word has: 1 ms instead of 30.
 */
function allOf(words: Prisma.Sql[][]): Prisma.Sql {
  const combinations = words.reduce((count, ways) => count * ways.length, 1)
  if (combinations > MOST_COMBINATIONS) {
    return Prisma.sql`(${Prisma.join(
      words.map((ways) => Prisma.sql`(${Prisma.join(ways, ' or ')})`),
      ' and ',
    )})`
  }
  const arms = words.reduce<Prisma.Sql[][]>(
    (sofar, ways) => sofar.flatMap((arm) => ways.map((way) => [...arm, way])),
    [[]],
  )
  return Prisma.sql`(${Prisma.join(
    arms.map((arm) => Prisma.sql`(${Prisma.join(arm, ' and ')})`),
    ' or ',
  )})`
}

/** What may be meant by a piece of a word: the hashes of words that are one slip away, as a Postgres array. */
type NearWords = Map<string, string>

/** The words that users have, or had until lately, within one slip of these pieces. */
async function findNearWords(prisma: PrismaDb, tenantId: string, pieces: string[]): Promise<NearWords> {
  if (pieces.length === 0) return new Map()
  const rows = await prisma.$queryRaw<{ piece: string; hashes: string }[]>`
    select piece, array_agg(distinct near.word)::text as hashes
    from unnest(${pieces}::text[]) as piece
    cross join lateral (
      select w.word from search_words w
      where w.tenant_id = ${tenantId}::uuid and w.slips && lockstep_near(${tenantId}::uuid, piece) offset 0
    ) as near
    group by piece`
  return new Map(rows.map(({ piece, hashes }) => [piece, hashes]))
}

function slipPiecesOf(word: string): string[] {
  return piecesOf(word).filter((piece) => SLIP_WORD.test(piece))
}

function piecesOf(word: string): string[] {
  return word.split(/[^\p{L}\p{N}]+/u).filter((piece) => piece !== '')
}

/** A text that as a whole is a phone number, or its end, however it is written. */
function phoneCondition(text: string, phone: string | null): Prisma.Sql | null {
  const digits = text.replace(/\D/g, '')
  if (!PHONE.test(text) || digits.length < 3) return null
  // A word of digits is looked for as it is anyway.
  const ways = [...(digits === text ? [] : [like(digits)]), ...(phone === null ? [] : [like(escaped(phone))])]
  return ways.length === 0 ? null : Prisma.sql`(${Prisma.join(ways, ' or ')})`
}

function like(pattern: string, alias: 's' | 'found' = 's'): Prisma.Sql {
  return Prisma.sql`${Prisma.raw(alias)}.text like ${`%${pattern}%`}`
}

/** The text for LIKE, which then takes it as it is. */
function escaped(text: string): string {
  return text.replace(/[\\%_]/g, '\\$&')
}

function cut(text: string): string {
  return [...text].slice(0, SORT_KEY_LENGTH).join('')
}
