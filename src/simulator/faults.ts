import type { Random } from './ids.js'

/** What can go wrong with an API call, and what has happened to the change by then. */
export const faultKinds = {
  '429': 'rate limit, before anything happened',
  lock_timeout: "429 lock_timeout: the object's lock was held; the SDK retries it",
  '500': 'the call failed before the change; stored under its idempotency key',
  '500_after': 'the change was made, the answer is a 500; stored under its idempotency key',
  timeout_before: 'no answer; the change was not made',
  timeout_after: 'no answer; the change was made',
  reset_before: 'connection reset; the change was not made',
  reset_after: 'connection reset; the change was made',
  truncate: 'the change was made; the answer breaks off in its body',
  '401': 'the key is no longer valid',
  '403': 'the restricted key lacks the permission',
  wrong_mode: 'resource_missing with the suffix that a similar object exists in the other mode',
  delay: 'only slow (delayMs)',
} as const

export type FaultKind = keyof typeof faultKinds

export interface FaultRule {
  id: number
  /** `customers.create`, `customers.*`, `*` … */
  operation: string
  kind: FaultKind
  /** How often it still happens; without it, until removed. */
  times?: number
  /** 0 to 1; default 1. */
  probability?: number
  delayMs?: number
}

/** The rules that API calls are held against; the first that applies counts. */
export class Faults {
  #rules: FaultRule[] = []
  #last = 0
  readonly #random: Random

  constructor(random: Random) {
    this.#random = random
  }

  get rules(): readonly FaultRule[] {
    return this.#rules
  }

  add(rule: Omit<FaultRule, 'id' | 'operation'> & { operation?: string }): FaultRule {
    const added: FaultRule = { operation: '*', ...rule, id: ++this.#last }
    this.#rules.push(added)
    return added
  }

  /** Without an id: all of them. */
  remove(id?: number): void {
    this.#rules = id === undefined ? [] : this.#rules.filter((rule) => rule.id !== id)
  }

  /** The fault that this call is to suffer. */
  take(operation: string): FaultRule | undefined {
    for (const rule of this.#rules) {
      const { operation: pattern, probability = 1, times } = rule
      const applies = pattern.endsWith('*') ? operation.startsWith(pattern.slice(0, -1)) : operation === pattern
      if (!applies || (probability < 1 && this.#random() >= probability)) continue
      if (times !== undefined) {
        rule.times = times - 1
        if (rule.times <= 0) this.remove(rule.id)
      }
      return rule
    }
    return undefined
  }
}
