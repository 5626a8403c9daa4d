/** Any value that JSON can hold. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json }

/** Whether two JSON values are the same, whatever the order of their keys. */
export function sameJson(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  if (Array.isArray(a) !== Array.isArray(b)) return false
  const left = Object.entries(a)
  const right = b as Record<string, unknown>
  if (left.length !== Object.keys(right).length) return false
  return left.every(([key, value]) => Object.hasOwn(right, key) && sameJson(value, right[key]))
}

/** Whether objects and arrays are within each other no more than so many times. What is far deeper no recursion gets through. */
export function isNestedWithin(value: unknown, most: number): boolean {
  if (typeof value !== 'object' || value === null) return true
  if (most === 0) return false
  // Of JSON, so that every key is its own; without a list of the values, since each delivery is looked at.
  for (const key in value) if (!isNestedWithin((value as Record<string, unknown>)[key], most - 1)) return false
  return true
}
