import type { Credentials } from './authenticate.js'
import { isJwt } from './jwt.js'

/** Tells API keys from tokens and has each checked by its kind. @param jwt null where no tokens are taken */
export function makeCredentials(keys: Credentials, jwt: Credentials['verify'] | null): Credentials {
  return {
    verify: (token) => (jwt !== null && isJwt(token) ? jwt(token) : keys.verify(token)),
  }
}
