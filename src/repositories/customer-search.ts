import { ValidationError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** A search text, understood: conditions on `user_search s` of one tenant. */
export interface Search {
  /** Each word occurs as it was typed; what a whole id names is in as well. */
  typed: Prisma.Sql
  /** As `typed`, but one slip in each word is forgiven; null when nobody has a word that near, so that it would find the same. */
  forgiven: () => Promise<Prisma.Sql | null>
  /** Each word begins a word. */
  begun: Prisma.Sql
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

/** The longest part of a name or e-mail that `user_list` keeps. Characters. */
const SORT_KEY_LENGTH = 100

const PHONE = /^[\d\s()+./-]+$/
/** A Stripe customer's id. */
const STRIPE_ID = /^cus_[0-9A-Za-z_]+$/
/** Three letters or digits in a row: what the trigram index needs to find a piece that may be anywhere. */
const LONG_RUN = /[\p{L}\p{N}]{3}/u
/** What may have a slip; as `lockstep_words` takes words, give or take the one letter. */
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
  const typed = all(words.map(occurs))
  const byPhone = words.length === 0 ? null : phoneCondition(text, phone)
  return {
    typed: or(isNamed, typed, byPhone),
    forgiven: async () => {
      const near = await findNearWords(prisma, tenantId, words.flatMap(slipPiecesOf))
      const isWider = near.size > 0 || words.some((word) => piecesOf(word).length > 1)
      return isWider ? or(isNamed, all(words.map((word) => occursNearly(word, near))), byPhone) : null
    },
    begun: or(all(words.map((word) => like(` ${escaped(word)}`)))),
    whole: or(
      words.length === 0 ? null : Prisma.sql`l.name = ${cut(folded)}`,
      words.length === 0 ? null : Prisma.sql`l.email = ${cut(text.toLowerCase())}`,
      ids.length === 0 ? null : Prisma.sql`l.user_id = any(${ids}::uuid[])`,
    ),
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
  if (!LONG_RUN.test(word)) return like(` ${escaped(word.replace(/^[^\p{L}\p{N}]+/u, ''))}`)
  const digits = word.replace(/\D/g, '')
  if (PHONE.test(word) && digits !== word && digits.length >= 3) {
    return Prisma.sql`(${like(escaped(word))} or ${like(digits)})`
  }
  return like(escaped(word))
}

function occursNearly(word: string, near: NearWords): Prisma.Sql {
  const pieces = piecesOf(word)
  const slipped = pieces.map((piece) => {
    const hashes = near.get(piece)
    return hashes === undefined ? occurs(piece) : Prisma.sql`(${occurs(piece)} or s.words && ${hashes}::bigint[])`
  })
  if (!pieces.some((piece) => SLIP_WORD.test(piece))) return occurs(word)
  return slipped.length === 1 && pieces[0] === word
    ? (slipped[0] ?? occurs(word))
    : Prisma.sql`(${occurs(word)} or (${Prisma.join(slipped, ' and ')}))`
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
  const written = like(digits)
  return phone === null ? written : Prisma.sql`(${written} or ${like(escaped(phone))})`
}

function like(pattern: string): Prisma.Sql {
  return Prisma.sql`s.text like ${`%${pattern}%`}`
}

/** The text for LIKE, which then takes it as it is. */
function escaped(text: string): string {
  return text.replace(/[\\%_]/g, '\\$&')
}

function cut(text: string): string {
  return [...text].slice(0, SORT_KEY_LENGTH).join('')
}
