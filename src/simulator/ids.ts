const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** A source of numbers in [0, 1), as `Math.random` is; a seeded one makes every id of a run repeatable. */
export type Random = () => number

/** `length` characters of base 62: Stripe's ids are opaque and not sortable (stripe-facts section 2). */
export function token(random: Random, length: number): string {
  let text = ''
  for (let at = 0; at < length; at++) text += alphabet[Math.floor(random() * alphabet.length)]
  return text
}

/** Eight upper-case hexadecimal digits fixed by `id`, as a fresh customer's invoice prefix looks. */
export function prefixFor(id: string): string {
  let hash = 0x811c9dc5
  for (let at = 0; at < id.length; at++) hash = Math.imul(hash ^ id.charCodeAt(at), 0x01000193) >>> 0
  return hash.toString(16).toUpperCase().padStart(8, '0')
}

const seedPrefix = 'cus_L0ckst3p'
const prime = 2_147_483_647 // 2^31 - 1: multiplying by a fixed factor permutes the indexes, so ids don't sort by age
const factor = 1_220_703 // below 2^22, so that a product stays exact in a double
const inverse = modularInverse(BigInt(factor), BigInt(prime))

/** The id of the pre-made customer with this index; the index can be had back from it, so a million of them need no table. */
export function seedCustomerId(index: number): string {
  return seedPrefix + base62(((index + 1) * factor) % prime, 6)
}

/** The index that `seedCustomerId` made this id from, if it did. */
export function seedIndexOf(id: string): number | undefined {
  if (!id.startsWith(seedPrefix) || id.length !== seedPrefix.length + 6) return undefined
  let number = 0
  for (const character of id.slice(seedPrefix.length)) {
    const digit = alphabet.indexOf(character)
    if (digit === -1) return undefined
    number = number * 62 + digit
  }
  if (number >= prime) return undefined
  return Number((BigInt(number) * inverse) % BigInt(prime)) - 1
}

function base62(number: number, width: number): string {
  let text = ''
  for (let rest = number; text.length < width; rest = Math.floor(rest / 62)) text = `${alphabet[rest % 62]}${text}`
  return text
}

/** By Fermat: a^(p-2) is the inverse of a modulo a prime p. */
function modularInverse(value: bigint, modulus: bigint): bigint {
  let result = 1n
  let base = value
  for (let exponent = modulus - 2n; exponent > 0n; exponent >>= 1n) {
    if (exponent & 1n) result = (result * base) % modulus
    base = (base * base) % modulus
  }
  return result
}
