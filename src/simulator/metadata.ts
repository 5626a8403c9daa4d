import { invalid } from './errors.js'
import type { Param } from './form.js'

const maxKeys = 50
const maxKeyLength = 40
const maxValueLength = 500

/**
 * Merges per key: "" deletes a key, `metadata=""` all of them, and the limits apply to the result (stripe-facts section 1).
 * Characters are counted, which Stripe doesn't say.
 */
export function mergeMetadata(current: Record<string, string>, sent: Param): Record<string, string> {
  if (sent === '') return {}
  if (typeof sent === 'string') throw invalid('Invalid hash', 'metadata')
  const next: Record<string, string> = { ...current }
  for (const [key, value] of Object.entries(sent)) {
    if (typeof value !== 'string') {
      throw invalid(
        `Metadata values must be strings, but for key ${key} you passed in a value of type hash`,
        `metadata[${key}]`,
      )
    }
    refuseTooLong('key', key, maxKeyLength)
    refuseTooLong('value', value, maxValueLength)
    if (value === '') delete next[key]
    else Object.defineProperty(next, key, { value, enumerable: true, configurable: true, writable: true })
  }
  const count = Object.keys(next).length
  if (count > maxKeys) throw invalid(`Metadata can have up to ${maxKeys} keys, but you've set ${count}.`, 'metadata')
  return next
}

function refuseTooLong(part: 'key' | 'value', text: string, limit: number): void {
  const length = [...text].length
  if (length <= limit) return
  throw invalid(
    `Metadata ${part}s can have up to ${limit} characters, but you passed in a ${part} that is ${length} characters. Invalid ${part}: ${text}`,
    'metadata',
  )
}
