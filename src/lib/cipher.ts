import { createCipheriv, createDecipheriv, createHash } from 'node:crypto'
import { LockstepError } from './errors.js'
import { randomBytes as pooledRandomBytes } from './random.js'

const ALGORITHM = 'aes-256-gcm'
const KEY_BYTES = 32
/** NIST SP 800-38D, 5.2.1.1 and 8.2: 96 bits, random, for fewer than 2^32 texts under one key. */
const NONCE_BYTES = 12
const TAG_BYTES = 16
const VERSION = 'v1'

/** What was sealed cannot be read: its key is not among those configured, or it is not what was sealed. */
export class UnsealError extends LockstepError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'unseal_failed', cause })
  }
}

/** Seals texts so that only who has the key can read them, or change them unseen (AES-256-GCM). */
export interface Cipher {
  /** Names the key that {@link seal} uses: the start of its SHA-256, in hex. */
  readonly keyId: string
  /** Names all keys that {@link open} knows, the present one first. */
  readonly keyIds: readonly string[]
  /**
   * The sealed text: `v1.<key id>.<base64url of nonce, ciphertext and tag>`.
   *
   * @param context where the text belongs, such as a table, column and row: it opens nowhere else.
   */
  seal(text: string, context: string): string
  /** The text again. Throws {@link UnsealError}. */
  open(sealed: string, context: string): string
}

/**
 * A cipher that seals with the first key and opens what any of them sealed.
 *
 * @param keys 32 bytes each; the first is the present one, the others are retired.
 * @param randomBytes where nonces come from; a simulation has its own.
 */
export function makeCipher(
  keys: readonly Uint8Array[],
  randomBytes: (size: number) => Uint8Array = pooledRandomBytes,
): Cipher {
  for (const key of keys) if (key.length !== KEY_BYTES) throw new TypeError(`A key must have ${KEY_BYTES} bytes.`)
  const ring = new Map(keys.map((key) => [keyIdOf(key), key]))
  const [present] = keys
  if (present === undefined) throw new TypeError('A cipher needs at least one key.')
  const keyId = keyIdOf(present)

  return {
    keyId,
    keyIds: [...ring.keys()],
    seal(text, context) {
      const nonce = randomBytes(NONCE_BYTES)
      const cipher = createCipheriv(ALGORITHM, present, nonce, { authTagLength: TAG_BYTES })
      cipher.setAAD(Buffer.from(context))
      const sealed = Buffer.concat([nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
      return `${VERSION}.${keyId}.${sealed.toString('base64url')}`
    },
    open(sealed, context) {
      const id = sealedWith(sealed)
      const key = id === null ? undefined : ring.get(id)
      if (key === undefined) {
        throw new UnsealError(
          id === null
            ? 'This is nothing that was sealed.'
            : `It was sealed with the key ${id}, which LOCKSTEP_ENCRYPTION_KEY does not have. Add that key, after a comma.`,
        )
      }
      const bytes = Buffer.from(sealed.slice(sealed.lastIndexOf('.') + 1), 'base64url')
      try {
        const decipher = createDecipheriv(ALGORITHM, key, bytes.subarray(0, NONCE_BYTES), { authTagLength: TAG_BYTES })
        decipher.setAAD(Buffer.from(context))
        decipher.setAuthTag(bytes.subarray(-TAG_BYTES))
        const text = decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES))
        return Buffer.concat([text, decipher.final()]).toString('utf8')
      } catch (cause) {
        throw new UnsealError('What was sealed has been changed, or belongs elsewhere.', cause)
      }
    },
  }
}

/** The id of the key that sealed it; null when it is nothing that {@link Cipher.seal} made. */
export function sealedWith(text: string): string | null {
  return /^v1\.([0-9a-f]{16})\.[\w-]{38,}$/.exec(text)?.[1] ?? null
}

/** The keys in `LOCKSTEP_ENCRYPTION_KEY`: base64 or hex, with commas between, the present one first. */
export function parseKeys(text: string): Uint8Array[] {
  return text
    .split(',')
    .map((key) => key.trim())
    .filter((key) => key !== '')
    .map((key) => Buffer.from(key, /^[0-9a-fA-F]{64}$/.test(key) ? 'hex' : 'base64'))
}

function keyIdOf(key: Uint8Array): string {
  return createHash('sha256').update(key).digest('hex').slice(0, 16)
}
