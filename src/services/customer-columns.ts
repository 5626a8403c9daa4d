import { type FieldError, ValidationError } from '../lib/errors.js'
import type { Customer } from '../models/dtos/customer.dto.js'

const ADDRESS = ['line1', 'line2', 'city', 'state', 'postalCode', 'country'] as const

/** The columns of a CSV file of customers, but for metadata, in the order that an export has. */
export const COLUMNS = [
  'id',
  'state',
  'type',
  'email',
  'phone',
  'firstName',
  'lastName',
  'description',
  'locale',
  ...ADDRESS.map((part) => `address.${part}`),
  'shipping.name',
  'shipping.phone',
  ...ADDRESS.map((part) => `shipping.address.${part}`),
] as const

/** A metadata key has a column of its own, `metadata.<key>`, or is in the JSON of this one. */
const METADATA = 'metadata'
const METADATA_KEY = 'metadata.'

/** What a program that shows the file could take for a formula, also behind blanks; and in the full width of East Asian text. */
const FORMULA = /^\s*[=+\-@\t\r\n\uFF1D\uFF0B\uFF0D\uFF20]/

/** How far a misspelt column may be from a known one, in letters, to be suggested. */
const NEAR = 3

/**
 * A cell that no spreadsheet takes for a formula: `'` comes before it. One that looks so already gets another one, so that
 * {@link readCell} gives every text back as it was.
 */
export function writeCell(text: string): string {
  return FORMULA.test(text.replace(/^'+/, '')) ? `'${text}` : text
}

/** The text that {@link writeCell} was given. */
export function readCell(cell: string): string {
  return cell.startsWith("'") && FORMULA.test(cell.replace(/^'+/, '')) ? cell.slice(1) : cell
}

/** The header of an export: all columns, those of these metadata keys, and one for all other keys. */
export function headerOf(metadataKeys: readonly string[]): string[] {
  return [...COLUMNS, ...metadataKeys.map((key) => `${METADATA_KEY}${key}`), METADATA]
}

/** The cells of a customer under {@link headerOf} the same keys. What is not set is blank. */
export function cellsOf(customer: Customer, metadataKeys: readonly string[]): string[] {
  const own = COLUMNS.map((column) => {
    const value = column
      .split('.')
      .reduce<unknown>((part, name) => (part as Record<string, unknown> | null)?.[name], customer)
    return typeof value === 'string' ? value : ''
  })
  const { metadata } = customer
  const others = Object.entries(metadata).filter(([key]) => !metadataKeys.includes(key))
  const cells = [
    ...own,
    ...metadataKeys.map((key) => (Object.hasOwn(metadata, key) ? (metadata[key] ?? '') : '')),
    others.length === 0 ? '' : JSON.stringify(Object.fromEntries(others)),
  ]
  return cells.map(writeCell)
}

/**
 * Checks the header of a file.
 *
 * @returns the columns by their exact names
 * @throws {ValidationError} `invalid_file`, with every column that is unknown, nameless or there twice.
 */
export function readHeader(names: readonly string[]): string[] {
  const errors: FieldError[] = []
  const columns = names.map((name) => (name.startsWith(METADATA_KEY) ? name : name.trim()))
  // Else the first line is most likely one of data, which is not for an error to repeat.
  const isHeader = columns.some((column) => isColumn(column) || nearestTo(column) !== null)
  for (const [index, column] of columns.entries()) {
    const path = column === '' || !isHeader ? `column ${index + 1}` : shorten(column)
    const reject = (code: string, message: string) => errors.push({ path, code, message })
    if (column === '') reject('unknown_column', 'has no name; the first line must name every column')
    else if (!isColumn(column)) reject('unknown_column', `is not a column of customers${hintFor(column)}`)
    else if (columns.indexOf(column) < index) reject('duplicate_column', 'is there twice')
  }
  if (errors.length > 0) throw new ValidationError(errors, 'invalid_file')
  return columns
}

/**
 * What the cells of one line say, as the body of a request would. Blank cells say nothing.
 *
 * @param columns as {@link readHeader} gave them
 * @throws {ValidationError} when the cells do not fit the columns, or the JSON of `metadata` is none.
 */
export function readCells(columns: readonly string[], cells: readonly string[]): Record<string, unknown> {
  if (cells.length !== columns.length) {
    const message = `has ${cells.length} cells where the header has ${columns.length}`
    throw new ValidationError([{ path: 'line', code: 'wrong_cell_count', message }])
  }
  const input: Record<string, unknown> = {}
  const metadata: [string, unknown][] = []
  for (const [index, column] of columns.entries()) {
    const text = readCell(cells[index] ?? '')
    if (text === '') continue
    if (column === METADATA) metadata.push(...Object.entries(parseMetadata(text)))
    else if (column.startsWith(METADATA_KEY)) metadata.push([column.slice(METADATA_KEY.length), text])
    else put(input, column.split('.'), text)
  }
  if (metadata.length > 0) input.metadata = Object.fromEntries(metadata)
  return input
}

function put(target: Record<string, unknown>, [name = '', ...rest]: string[], text: string): void {
  if (rest.length === 0) {
    target[name] = text
    return
  }
  target[name] ??= {}
  put(target[name] as Record<string, unknown>, rest, text)
}

function parseMetadata(text: string): object {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {
    // Said below.
  }
  throw new ValidationError([
    { path: METADATA, code: 'invalid_json', message: 'must be a JSON object, such as {"tier":"gold"}' },
  ])
}

function isColumn(name: string): boolean {
  if (name === METADATA || (COLUMNS as readonly string[]).includes(name)) return true
  return name.startsWith(METADATA_KEY) && name.length > METADATA_KEY.length
}

function hintFor(name: string): string {
  if (/[;\t]/.test(name)) return '; the columns must have commas between them'
  const nearest = nearestTo(name)
  if (nearest !== null) return `; did you mean ${nearest}?`
  return `; there are ${COLUMNS.join(', ')}, metadata.<key> and metadata`
}

function nearestTo(name: string): string | null {
  const plain = plainOf(name)
  const [nearest] = [...COLUMNS, METADATA]
    .map((column) => ({ column, distance: distance(plain, plainOf(column)) }))
    .sort((a, b) => a.distance - b.distance)
  return nearest !== undefined && nearest.distance <= Math.min(NEAR, plain.length / 2) ? nearest.column : null
}

/** `First Name`, `first_name` and `firstName` are one. */
function plainOf(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, '')
}

/** Levenshtein's: how many letters to add, drop or change. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, change))
    }
    row = next
  }
  return row.at(-1) ?? 0
}

/** A file without a header has a customer's data there: enough to find the place, not more. */
function shorten(name: string): string {
  return name.length > 60 ? `${name.slice(0, 60)}…` : name
}
