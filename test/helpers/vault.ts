import { makeVault, type Vault } from '../../src/repositories/vault.js'

/** The encryption key of {@link testVault}, for a process that is to read what it seals. */
export const TEST_KEY = Buffer.alloc(32, 'test')

/** A vault of one key, always the same: what one seals another one opens. */
export function testVault(): Vault {
  return makeVault({ keys: [TEST_KEY], now: Date.now })
}
