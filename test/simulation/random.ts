/** A seeded source of choices: the same seed makes the same choices, on any machine. */
export interface Choices {
  /** A number in [0, 1). */
  next(): number
  /** A whole number from 0 to `below` - 1. */
  int(below: number): number
  /** True with this probability. */
  chance(probability: number): boolean
  pick<T>(items: readonly T[]): T
  /** One of the items, the likelier the greater its weight. */
  weighted<T>(items: readonly (readonly [weight: number, item: T])[]): T
}

/**
 * Choices made by sfc32 (Chris Doty-Humphrey, PractRand), which passes the usual statistical tests and needs no state beyond
 * four words. `path` sets streams of one seed apart, so that leaving out one action does not change the choices of the others.
 */
export function choicesFor(seed: number, ...path: (string | number)[]): Choices {
  let [a, b, c, d] = hash(`${seed}/${path.join('/')}`)
  const next = () => {
    const t = (a + b + d) | 0
    d = (d + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = ((c << 21) | (c >>> 11)) + t
    return ((t + 0) >>> 0) / 2 ** 32
  }
  for (let round = 0; round < 12; round += 1) next()
  const int = (below: number) => Math.floor(next() * below)
  const pick = <T>(items: readonly T[]): T => {
    const item = items[int(items.length)]
    if (item === undefined) throw new Error('nothing to pick from')
    return item
  }
  return {
    next,
    int,
    chance: (probability) => next() < probability,
    pick,
    weighted(items) {
      let rest = next() * items.reduce((sum, [weight]) => sum + weight, 0)
      for (const [weight, item] of items) {
        rest -= weight
        if (rest < 0) return item
      }
      return pick(items)[1]
    },
  }
}

/** Four words of a text (cyrb128). */
function hash(text: string): [number, number, number, number] {
  let h1 = 1779033703
  let h2 = 3144134277
  let h3 = 1013904242
  let h4 = 2773480762
  for (let i = 0; i < text.length; i += 1) {
    const k = text.charCodeAt(i)
    h1 = h2 ^ Math.imul(h1 ^ k, 597399067)
    h2 = h3 ^ Math.imul(h2 ^ k, 2869860233)
    h3 = h4 ^ Math.imul(h3 ^ k, 951274213)
    h4 = h1 ^ Math.imul(h4 ^ k, 2716044179)
  }
  return [h1 | 0, h2 | 0, h3 | 0, h4 | 0]
}
