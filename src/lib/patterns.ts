/** A form that text must have, and how it is told to who sent another: a regular expression is no answer to a person. */
export interface TextForm {
  pattern: string
  /** Goes on after the field's name: `must be …`. */
  words: string
}

/** The forms that schemas ask for. */
export const FORMS = {
  uuid: {
    /** Any UUID that Postgres takes: other programs may give rows ids of any version. */
    pattern: '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$',
    words: 'must be a UUID',
  },
  noNul: { pattern: '^[^\\u0000]*$', words: 'must not have the character U+0000' },
  noControl: { pattern: '^[^\\u0000-\\u001f]*$', words: 'must not have control characters, such as line breaks' },
  eventId: { pattern: '^[A-Za-z0-9_]{1,255}$', words: 'must be the id of an event, such as evt_1AbcDef' },
  slug: {
    pattern: '^[a-z0-9][a-z0-9-]{0,61}[a-z0-9]$',
    words: 'must be 2 to 63 lower-case letters, digits and hyphens, with no hyphen at either end',
  },
  words: {
    pattern: '^[a-z0-9]+(?:[._-][a-z0-9]+)*$',
    words: 'must be lower-case letters and digits, in parts with one of . _ - between them, such as marketing.email',
  },
  stripeKey: {
    pattern: '^[sr]k_(test|live)_[A-Za-z0-9_]{1,500}$',
    words: 'must be a secret or restricted key of Stripe: sk_test_…, sk_live_…, rk_test_… or rk_live_…',
  },
  webhookSecret: {
    pattern: '^whsec_[A-Za-z0-9_+/=-]{1,500}$',
    words: 'must be the signing secret of a webhook endpoint: whsec_…',
  },
  stripeAccount: { pattern: '^acct_[A-Za-z0-9]{1,250}$', words: 'must be the id of a Stripe account: acct_…' },
  currency: { pattern: '^[A-Za-z]{3}$', words: 'must be a currency in three letters, such as usd' },
  country: { pattern: '^[A-Z]{2}$', words: 'must be a country in two capital letters, such as GB' },
} as const satisfies Record<string, TextForm>

const WORDS: ReadonlyMap<unknown, string> = new Map(Object.values(FORMS).map(({ pattern, words }) => [pattern, words]))

/** What is wrong with text that does not have the form of a schema's `pattern`. */
export function wordsOfPattern(pattern: unknown): string {
  return WORDS.get(pattern) ?? 'does not have the form that its description tells'
}
