/** A decoded form value: text, or a hash of values. Arrays are hashes with the keys 0, 1, 2 … until a field asks for one. */
export type Param = string | Params
export interface Params {
  [key: string]: Param
}

/**
 * Decodes Stripe's form encoding (`a[b][c]=v`, `list[0]=v`, `list[]=v`), in a query or a body. Of a key sent twice the last
 * counts, as in Stripe's own parser; hashes have no prototype, so `metadata[__proto__]` is an ordinary key.
 */
export function decodeForm(text: string): Params {
  const root = hash()
  for (const pair of text.split('&')) {
    if (pair === '') continue
    const equals = pair.indexOf('=')
    const path = pathOf(plain(equals === -1 ? pair : pair.slice(0, equals)))
    place(root, path, equals === -1 ? '' : plain(pair.slice(equals + 1)))
  }
  return root
}

/** Turns JSON in Stripe's field names into the params that the same request, form-encoded by the SDK, would decode to. */
export function paramsOf(json: Record<string, unknown>): Params {
  const params = hash()
  for (const [key, value] of Object.entries(json)) {
    const param = paramOf(value)
    if (param !== undefined) params[key] = param
  }
  return params
}

/** The items of an array parameter, in index order; text stands for itself (`expand=x`). */
export function items(param: Param | undefined): Param[] {
  if (param === undefined) return []
  if (typeof param === 'string') return param === '' ? [] : [param]
  return Object.keys(param)
    .sort((a, b) => Number(a) - Number(b))
    .flatMap((key) => param[key] ?? [])
}

/** A text that is equal for equal params, whatever their order: what idempotency compares. */
export function canonical(param: Param): string {
  if (typeof param === 'string') return JSON.stringify(param)
  const keys = Object.keys(param).sort()
  return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(param[key] ?? '')}`).join(',')}}`
}

const hash = (): Params => Object.create(null) as Params

function paramOf(value: unknown): Param | undefined {
  if (value === undefined) return undefined
  if (value === null) return ''
  if (Array.isArray(value)) return value.length === 0 ? undefined : paramsOf({ ...value })
  if (typeof value === 'object') {
    const params = paramsOf(value as Record<string, unknown>)
    return Object.keys(params).length === 0 ? undefined : params
  }
  return String(value)
}

function pathOf(key: string): string[] {
  const head = /^[^[]*/.exec(key)?.[0] ?? key
  const rest = [...key.slice(head.length).matchAll(/\[([^\]]*)\]/g)].map((match) => match[1] ?? '')
  return [head, ...rest]
}

function place(root: Params, path: string[], value: string): void {
  let at = root
  for (const [depth, name] of path.entries()) {
    const key = name === '' && depth > 0 ? String(Object.keys(at).length) : name
    if (depth === path.length - 1) {
      at[key] = value
      return
    }
    const next = at[key]
    if (next === undefined || typeof next === 'string') at[key] = hash()
    at = at[key] as Params
  }
}

/** Percent-decodes; what isn't valid stays as it is. */
export function plain(text: string): string {
  const spaced = text.replaceAll('+', ' ')
  try {
    return decodeURIComponent(spaced)
  } catch {
    return spaced
  }
}
