/** A header of an answer, by its name in lower case. The SDK gives them as a plain object, or, over `fetch`, as `Headers`. */
export function headerOf(headers: unknown, name: string): string | undefined {
  if (headers instanceof Headers) return headers.get(name) ?? undefined
  const value = (headers as Record<string, unknown> | null | undefined)?.[name]
  return typeof value === 'string' ? value : undefined
}

/** Whether the answer is an old one, repeated for a known idempotency key: it says what was, not what is. */
export function isReplay(headers: unknown): boolean {
  return headerOf(headers, 'idempotent-replayed') === 'true'
}
