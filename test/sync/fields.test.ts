import fc from 'fast-check'
import t from 'tap'
import {
  fieldOfStripeParam,
  fieldValue,
  joinName,
  localFields,
  localTime,
  NO_FIELDS,
  pathsOf,
  remoteState,
  sameRemote,
  splitName,
  stripeParams,
  withPatch,
} from '../../src/sync/fields.js'
import { localChanges } from '../../src/sync/update.js'

const NOBODY = {
  email: null,
  phone: null,
  firstName: null,
  lastName: null,
  description: null,
  locale: null,
  address: null,
  shipping: null,
  metadata: {},
}

t.test('both sides are read into one canonical form', async (t) => {
  const local = localFields(
    {
      ...NOBODY,
      email: ' a@example.com ',
      firstName: ' Ada ',
      lastName: '',
      description: '   ',
      address: { line1: ' 1 St ', line2: '', city: null, state: null, postalCode: '1', country: 'se' },
      shipping: { name: '', phone: null, address: null },
      metadata: { a: '1', blank: '', lockstep_user_id: 'x', crm_id: 'theirs' },
    },
    ['crm_'],
  )
  const remote = remoteState(
    {
      email: 'a@example.com',
      name: 'Ada',
      description: '',
      address: { line1: '1 St', line2: '', city: null, postal_code: '1', country: 'SE' },
      shipping: null,
      metadata: { a: '1', lockstep_user_id: 'x', crm_id: 'theirs' },
    },
    ['crm_'],
  )
  t.strictSame(local, remote.fields)
  t.strictSame(remote.facts, { lockstep_user_id: 'x' })
  t.equal(remote.metadataKeys, 3, 'foreign keys count towards the limit')
  t.equal(local.address?.country, 'SE')
})

t.test('metadata that SQL wrote as other than text is read as text', async (t) => {
  const metadata = { n: 1, yes: true, nothing: null, list: [1] } as unknown as Record<string, string>
  t.strictSame(localFields({ ...NOBODY, metadata }, []).metadata, { n: '1', yes: 'true', list: '[1]' })
})

t.test('a projection never throws, whatever comes', async () => {
  fc.assert(fc.property(fc.anything(), (value) => typeof remoteState(value, []).fields === 'object'))
  fc.assert(
    fc.property(fc.anything(), (value) => {
      const odd = {
        name: value,
        address: value,
        shipping: value,
        metadata: value,
        preferred_locales: value,
        invoice_settings: value,
      }
      return sameRemote(remoteState(odd, []), remoteState(odd, []))
    }),
  )
})

t.test('names', async (t) => {
  t.equal(joinName('Ada', 'Lovelace'), 'Ada Lovelace')
  t.equal(joinName(null, ' Lovelace '), 'Lovelace')
  t.equal(joinName('', null), null)
  const present = { firstName: 'Mary Ann', lastName: 'Evans' }
  t.strictSame(splitName('Mary Ann Evans', present), present, 'the parts stay as long as they join to it')
  t.strictSame(splitName('George Eliot', present), { firstName: 'George', lastName: 'Eliot' })
  t.strictSame(splitName('Plato', present), { firstName: 'Plato', lastName: null })
  t.strictSame(splitName('Juan de la Cruz', present), { firstName: 'Juan', lastName: 'de la Cruz' })
  t.strictSame(splitName(null, present), { firstName: null, lastName: null })
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('a', 'b', ' '), maxLength: 12 }), (text) => {
      const name = joinName(text, null)
      const { firstName, lastName } = splitName(name, { firstName: null, lastName: null })
      // Stripe's name and ours agree after it came home, or the two would pass it to and fro for ever.
      return joinName(firstName, lastName) === name
    }),
  )
})

t.test('what is sent: whole addresses, "" to unset, single metadata keys, the other locales kept', async (t) => {
  const address = { line1: '1 St', line2: null, city: null, state: null, postalCode: '1', country: 'SE' }
  t.strictSame(
    stripeParams(
      { email: null, name: 'Ada', address, shipping: null, locale: 'fr', 'metadata.a': '1', 'metadata.b': null },
      { lockstep_type: 'new' },
      ['de', 'it', 'fr'],
    ),
    {
      email: '',
      name: 'Ada',
      address: { line1: '1 St', country: 'SE', postal_code: '1' },
      shipping: '',
      preferred_locales: ['fr', 'it'],
      metadata: { lockstep_type: 'new', a: '1', b: '' },
    },
  )
  t.strictSame(stripeParams({}, {}), {})
})

t.test('the field that a complaint of Stripe is about', async (t) => {
  t.equal(fieldOfStripeParam('email'), 'email')
  t.equal(fieldOfStripeParam('shipping[address][country]'), 'shipping')
  t.equal(fieldOfStripeParam('preferred_locales[0]'), 'locale')
  t.equal(fieldOfStripeParam('metadata[tier]'), 'metadata.tier')
  t.equal(fieldOfStripeParam('metadata[a[b]]'), 'metadata.a[b]')
  t.equal(fieldOfStripeParam('metadata'), 'metadata')
  t.equal(fieldOfStripeParam('tax_exempt'), null)
  for (const key of ['order.id', 'a/b', 'a[b', 'a]', '.', 'constructor']) {
    t.equal(fieldOfStripeParam(`metadata[${key}]`), `metadata.${key}`)
  }
})

t.test('metadata keys with names that every object inherits are keys like any other', async (t) => {
  for (const key of ['constructor', 'toString', '__proto__', 'hasOwnProperty']) {
    const path = `metadata.${key}` as const
    t.equal(fieldValue(NO_FIELDS, path), null, `${key}: absent`)
    const held = withPatch(NO_FIELDS, { [path]: 'v' })
    t.equal(fieldValue(held, path), 'v', `${key}: set`)
    t.strictSame(pathsOf(held).at(-1), path)
    t.equal(fieldValue(withPatch(held, { [path]: null }), path), null, `${key}: gone again`)
    t.equal(JSON.stringify(stripeParams({ [path]: 'v' }, {})), `{"metadata":{"${key}":"v"}}`)
    const there = remoteState({ metadata: JSON.parse(`{"${key}":"v"}`) }, [])
    t.equal(fieldValue(there.fields, path), 'v', `${key}: at Stripe`)
    const nobody = { firstName: null, lastName: null, metadata: {} }
    t.equal(JSON.stringify(localChanges(nobody, { [path]: 'v' })), `{"metadata":{"${key}":"v"}}`)
  }
})

t.test('what Postgres cannot hold is not there', async (t) => {
  const half = '\ud83d'
  const odd = remoteState(
    {
      name: `A\u0000da${half}`,
      description: '\u0000',
      preferred_locales: ['sv\u0000'],
      address: { line1: `1${half} St` },
      metadata: { 'k\u0000': `v${half}`, smile: '😀' },
    },
    [],
  )
  t.match(odd.fields, {
    name: 'Ada',
    description: null,
    locale: 'sv',
    address: { line1: '1 St' },
    metadata: { k: 'v', smile: '😀' },
  })
  t.notMatch(JSON.stringify(odd), /\\u/)
})

t.test('times and changes of the row', async (t) => {
  t.equal(localTime({ first_name: '2026-01-01', last_name: '2026-01-02' }, 'name'), '2026-01-02')
  t.equal(localTime({ 'metadata.k': '2026-01-03' }, 'metadata.k'), '2026-01-03')
  t.equal(localTime({}, 'email'), null)
  t.strictSame(
    localChanges(
      { firstName: 'A', lastName: 'B', metadata: { keep: '1', drop: '2' } },
      { name: 'C D', 'metadata.drop': null, 'metadata.add': '3' },
    ),
    { firstName: 'C', lastName: 'D', metadata: { keep: '1', add: '3' } },
  )
  t.strictSame(withPatch(NO_FIELDS, { 'metadata.k': 'v' }).metadata, { k: 'v' })
  t.strictSame(NO_FIELDS.metadata, {}, 'nothing is changed in place')
})
