import type Stripe from 'stripe'
import { type CustomerFields, type CustomerRecord, customerOf } from './customer-store.js'
import { invalid, missingParameter } from './errors.js'
import { expandCustomer } from './expand.js'
import { items, type Params } from './form.js'
import { allowOnly, limitOf } from './list.js'
import type { Account } from './state.js'
import { compareKeys, end, type Key, merge } from './timeline.js'

type Operator = ':' | '~' | '>' | '<' | '>=' | '<='

interface Clause {
  field: string
  /** The key of a `metadata["key"]` clause. */
  key?: string
  operator: Operator
  value: string | null
  negated: boolean
}

export interface SearchQuery {
  clauses: Clause[]
  any: boolean
}

const url = '/v1/customers/search'
const clausePattern =
  /^(-)?([a-z_]+)(?:\["((?:[^"\\]|\\.)*)"\])?(:|~|>=|<=|>|<)(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^\s"']+))/
const textFields = ['email', 'name', 'phone']

/** `GET /v1/customers/search` over what had been indexed by `asOf` (ms); never read-after-write (stripe-facts section 1). */
export function searchCustomers(
  account: Account,
  params: Params,
  asOf: number,
): Stripe.ApiSearchResult<Stripe.Customer> {
  allowOnly(params, ['expand', 'limit', 'page', 'query'])
  if (typeof params.query !== 'string' || params.query === '') throw missingParameter('query')
  const query = parseQuery(params.query)
  const limit = limitOf(params)
  const expand = items(params.expand)
  const wantsCount = expand.includes('total_count')
  const rest: Params = Object.fromEntries(expand.flatMap((name, at) => (name === 'total_count' ? [] : [[at, name]])))

  const found: Stripe.Customer[] = []
  let last: Key | undefined
  let hasMore = false
  let total = 0
  for (const record of candidates(account, query, wantsCount ? end : pageKey(params.page))) {
    const fields = indexedFields(record, asOf)
    if (fields === null) continue
    const customer = customerOf({ ...record, fields }, account.livemode)
    if (!matches(customer, query)) continue
    total++
    if (wantsCount && compareKeys(account.customers.keyOf(record), pageKey(params.page)) >= 0) continue
    if (found.length < limit) {
      found.push(expandCustomer(customer, { expand: rest }, 'data.'))
      last = account.customers.keyOf(record)
    } else {
      hasMore = true
      if (!wantsCount) break
    }
  }
  return {
    object: 'search_result',
    data: found,
    has_more: hasMore,
    next_page: hasMore && last ? Buffer.from(`${last.at}.${last.seq}`).toString('base64url') : null,
    url,
    ...(wantsCount && { total_count: Math.min(total, 10_000) }),
  }
}

/** The search language as far as customers need it: clauses joined by AND (or nothing) or by OR, never both. */
export function parseQuery(text: string): SearchQuery {
  const clauses: Clause[] = []
  const joins = new Set<string>()
  let rest = text.trim()
  while (rest !== '') {
    const match = clausePattern.exec(rest)
    if (!match) throw unparsable(text)
    clauses.push(clauseOf(match, text))
    rest = rest.slice(match[0].length)
    const join = /^\s+(?:(and|or)\s+)?/i.exec(rest)
    if (!join) {
      if (rest !== '') throw unparsable(text)
      break
    }
    rest = rest.slice(join[0].length)
    if (rest !== '') joins.add((join[1] ?? 'and').toLowerCase())
    else if (join[1]) throw unparsable(text)
  }
  if (clauses.length === 0) throw unparsable(text)
  if (joins.size > 1) {
    throw invalid('Queries may not mix AND and OR operators: use only one of them in a query.', 'query')
  }
  return { clauses, any: joins.has('or') }
}

export function matches(customer: Stripe.Customer, { clauses, any }: SearchQuery): boolean {
  const holds = (clause: Clause) => holdsFor(customer, clause) !== clause.negated
  return any ? clauses.some(holds) : clauses.every(holds)
}

function clauseOf(match: RegExpExecArray, query: string): Clause {
  const [, minus, field = '', key, operator = ':', double, single, bare] = match
  const quoted = double ?? single
  const value = quoted === undefined ? (bare ?? '') : quoted.replace(/\\(.)/g, '$1')
  const clause: Clause = {
    field,
    operator: operator as Operator,
    value: quoted === undefined && bare?.toLowerCase() === 'null' ? null : value,
    negated: minus !== undefined,
    ...(key !== undefined && { key: key.replace(/\\(.)/g, '$1') }),
  }
  const isMetadata = field === 'metadata' && key !== undefined
  if (!isMetadata && field !== 'created' && (!textFields.includes(field) || key !== undefined)) {
    throw invalid(`Field \`${field}\` is an unsupported search field for resource \`customers\`.`, 'query')
  }
  if (field === 'created') {
    if (clause.operator === '~' || clause.value === null || !/^\d+$/.test(clause.value)) throw unparsable(query)
  } else if (clause.operator !== ':' && clause.operator !== '~') {
    throw invalid(`Operator \`${operator}\` is not supported for the field \`${field}\`.`, 'query')
  }
  if (clause.operator === '~' && [...(clause.value ?? '')].length < 3) {
    throw invalid('Substring searches need at least 3 characters.', 'query')
  }
  return clause
}

const unparsable = (query: string) =>
  invalid(
    `We were unable to parse your search query: ${query}. See https://stripe.com/docs/search#query-syntax.`,
    'query',
  )

function holdsFor(customer: Stripe.Customer, { field, key, operator, value }: Clause): boolean {
  if (field === 'created') return compare(customer.created, operator, Number(value))
  const actual = field === 'metadata' ? customer.metadata[key ?? ''] : customer[field as 'email' | 'name' | 'phone']
  if (value === null) return actual == null
  if (actual == null) return false
  if (operator === '~') return actual.toLowerCase().includes(value.toLowerCase())
  return field === 'metadata' ? actual === value : hasWords(actual, value)
}

function compare(actual: number, operator: Operator, value: number): boolean {
  switch (operator) {
    case '>':
      return actual > value
    case '<':
      return actual < value
    case '>=':
      return actual >= value
    case '<=':
      return actual <= value
    default:
      return actual === value
  }
}

/** Exact match of string fields ignores case and looks for the value's words in a row: name:"a b" matches "a b c". */
function hasWords(actual: string, value: string): boolean {
  const words = (text: string) => ` ${text.toLowerCase().split(/\s+/).filter(Boolean).join(' ')} `
  return words(actual).includes(words(value))
}

/** What the index holds of a record: the version that was current at `asOf`, or null for none. */
function indexedFields(record: CustomerRecord, asOf: number): CustomerFields | null {
  const version = record.earlier?.find(({ until }) => until > asOf)
  if (version) return version.fields
  return record.deletedAt ? null : record.fields
}

/**
 * The records that may match, newest first, deleted ones too. A query that pins the e-mail or needs metadata (which no
 * untouched pre-made customer has) looks at records only; any other walks all.
 */
function candidates(account: Account, query: SearchQuery, below: Key): Iterable<CustomerRecord> {
  const { customers } = account
  const newer = (a: CustomerRecord, b: CustomerRecord) => compareKeys(customers.keyOf(a), customers.keyOf(b)) > 0
  const sort = (records: CustomerRecord[]) => {
    const under = records.filter((record) => compareKeys(customers.keyOf(record), below) < 0)
    return under.sort((a, b) => (newer(a, b) ? -1 : 1))
  }
  const pinned = query.any
    ? undefined
    : query.clauses.find(({ field, operator, value, negated }) => {
        return !negated && operator === ':' && value !== null && (field === 'email' || field === 'metadata')
      })
  const records = [...customers.records()]
  if (pinned) {
    const seeds = pinned.field === 'email' ? customers.withEmail((pinned.value ?? '').toLowerCase()) : []
    return sort([...new Set([...records, ...seeds])])
  }
  const deleted = sort(records.filter((record) => record.deletedAt))
  return merge(customers.descend(below), deleted, newer)
}

function pageKey(token: unknown): Key {
  if (token === undefined || token === '') return end
  const match = /^(\d+)\.(\d+)$/.exec(Buffer.from(String(token), 'base64url').toString())
  if (!match) throw invalid('Invalid page token.', 'page')
  return { at: Number(match[1]), seq: Number(match[2]) }
}
