import { type CountryCode, parsePhoneNumberFromString } from 'libphonenumber-js'

/** The longest that Stripe takes (docs.stripe.com/api/customers). */
export const PHONE_LIMIT = 20

/**
 * The number in E.164, or null when it cannot be one.
 *
 * @param defaultRegion ISO 3166-1 alpha-2 country, by which a number without a country code is read
 */
export function normalisePhone(value: string, defaultRegion: string): string | null {
  const parsed = parsePhoneNumberFromString(value, { defaultCountry: defaultRegion as CountryCode, extract: false })
  // Possible, not valid: numbering plans change faster than libraries do.
  if (parsed === undefined || !parsed.isPossible() || parsed.ext !== undefined) return null
  return parsed.number.length <= PHONE_LIMIT ? parsed.number : null
}
