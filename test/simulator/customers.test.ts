import t from 'tap'
import { errorOf, second, simulate } from './harness.js'

t.test('a fresh customer has the defaults of 2026', async (t) => {
  const { stripe } = await simulate(t)
  const customer = await stripe.customers.create({})
  const { id, lastResponse: _, ...rest } = customer
  t.match(id, /^cus_[A-Za-z0-9]{14}$/)
  t.match(rest, { object: 'customer', created: 1_795_176_000, livemode: false, balance: 0, metadata: {} })
  t.equal(customer.lastResponse.statusCode, 200)
})

t.test('what is sent is normalised', async (t) => {
  const { stripe } = await simulate(t)
  const customer = await stripe.customers.create({
    name: '  Ada ',
    phone: ' ',
    email: 'Ada@Example.com',
    description: '',
    address: { country: 'se', line1: 'Storgatan 1', line2: '' },
    shipping: { name: 'Ada', address: { country: 'no' } },
    preferred_locales: ['sv', 'en-US'],
    tax_exempt: '',
    invoice_settings: { footer: 'Thanks', custom_fields: [{ name: 'PO', value: '1' }] },
    business_name: 'Analytical',
    next_invoice_sequence: 7,
    balance: -5,
    metadata: { a: '1' },
  })
  t.match(customer, {
    name: 'Ada',
    phone: null,
    email: 'Ada@Example.com',
    description: null,
    address: { country: 'SE', line1: 'Storgatan 1', line2: null, city: null, postal_code: null, state: null },
    shipping: { name: 'Ada', phone: null, address: { country: 'NO', line1: null } },
    preferred_locales: ['sv', 'en-US'],
    tax_exempt: 'none',
    invoice_settings: { footer: 'Thanks', custom_fields: [{ name: 'PO', value: '1' }], default_payment_method: null },
    business_name: 'Analytical',
    next_invoice_sequence: 7,
    balance: -5,
    currency: 'usd',
  })
  t.strictSame(await stripe.customers.retrieve(customer.id), customer, 'and reads the same')
})

t.test('address and shipping are replaced whole, metadata merges, locales cannot be cleared', async (t) => {
  const { stripe, raw } = await simulate(t)
  const { id } = await stripe.customers.create({
    address: { city: 'Lund', country: 'SE' },
    shipping: { name: 'A', phone: '1', address: { city: 'Lund' } },
    metadata: { a: '1', b: '2', __proto__x: 'y' },
    preferred_locales: ['sv'],
  })
  const updated = await stripe.customers.update(id, {
    address: { city: 'Oslo' },
    shipping: { name: 'B', address: { line1: 'x' } },
    metadata: { a: '', c: '3' },
    preferred_locales: [],
  })
  t.match(updated.address, { city: 'Oslo', country: null })
  t.match(updated.shipping, { name: 'B', phone: null, address: { city: null, line1: 'x' } })
  t.strictSame(updated.metadata, { b: '2', __proto__x: 'y', c: '3' })
  t.strictSame(updated.preferred_locales, ['sv'])
  await raw(`/v1/customers/${id}`, { method: 'POST', body: new URLSearchParams({ preferred_locales: '' }) })
  const cleared = await stripe.customers.update(id, { address: '', shipping: '', metadata: '' })
  t.match(cleared, { address: null, shipping: null, preferred_locales: ['sv'] })
  t.strictSame(cleared.metadata, {})
})

t.test('a blank address part can be told to stay "", an e-mail to be trimmed', async (t) => {
  const { stripe, controls } = await simulate(t)
  t.match(await errorOf(stripe.customers.create({ email: ' a@b.co ' })), { code: 'email_invalid' })
  controls.changeSettings({ keepBlankAddressParts: true, trimEmail: true })
  t.equal((await stripe.customers.create({ email: ' a@b.co ' })).email, 'a@b.co')
  const { address } = await stripe.customers.create({ address: { line2: '' } })
  t.equal(address?.line2, '')
})

t.test('wrong parameters are refused as Stripe does', async (t) => {
  const { stripe } = await simulate(t)
  const cases: Array<[Record<string, unknown>, object]> = [
    [
      { nope: 1, email: 'x' },
      { code: 'parameter_unknown', param: 'nope', message: 'Received unknown parameter: nope' },
    ],
    [{ address: { planet: 'x' } }, { code: 'parameter_unknown', param: 'address[planet]' }],
    [{ delinquent: true }, { code: 'parameter_unknown', param: 'delinquent' }],
    [{ email: 'x' }, { code: 'email_invalid', param: 'email', message: 'Invalid email address: x' }],
    [
      { email: `${'x'.repeat(512)}@b.co` },
      { param: 'email', message: /xxxx\.\.\.b\.co; must be at most 512 characters/ },
    ],
    [{ phone: '1'.repeat(21) }, { param: 'phone', message: /^Invalid string length/ }],
    [{ name: 'x'.repeat(257) }, { param: 'name', code: undefined }],
    [{ description: 'x'.repeat(5001) }, { param: 'description' }],
    [{ business_name: 'x'.repeat(151) }, { param: 'business_name' }],
    [{ metadata: { ['k'.repeat(41)]: 'v' } }, { message: /Metadata keys can have up to 40 characters/ }],
    [{ metadata: { k: 'v'.repeat(501) } }, { message: /passed in a value that is 501 characters/ }],
    [{ metadata: { k: { deep: 1 } } }, { param: 'metadata[k]' }],
    [{ metadata: 'x' }, { param: 'metadata' }],
    [{ preferred_locales: ['not a tag'] }, { param: 'preferred_locales[0]' }],
    [{ tax_exempt: 'maybe' }, { param: 'tax_exempt' }],
    [{ balance: 'much' }, { code: 'parameter_invalid_integer', param: 'balance' }],
    [{ balance: { a: 1 } }, { code: 'parameter_invalid_integer', param: 'balance' }],
    [{ shipping: { name: 'x' } }, { code: 'parameter_missing', param: 'shipping[address]' }],
    [{ shipping: { address: { city: 'x' } } }, { code: 'parameter_missing', param: 'shipping[name]' }],
    [{ shipping: { address: '', name: 'x' } }, { code: 'parameter_invalid_empty' }],
    [{ address: 'x' }, { param: 'address' }],
    [{ name: { a: 1 } }, { param: 'name' }],
    [{ invoice_prefix: 'abc' }, { param: 'invoice_prefix' }],
    [{ invoice_prefix: '' }, { code: 'parameter_invalid_empty' }],
    [{ payment_method: 'pm_1' }, { code: 'resource_missing', param: 'payment_method', statusCode: 400 }],
    [{ source: '' }, { code: 'parameter_invalid_empty', param: 'source' }],
    [{ test_clock: 'clock_1' }, { code: 'resource_missing', param: 'test_clock' }],
    [{ invoice_settings: { default_payment_method: 'pm_1' } }, { code: 'resource_missing' }],
    [{ invoice_settings: { custom_fields: [{ name: 'x' }] } }, { code: 'parameter_missing' }],
    [{ invoice_settings: { custom_fields: [{ name: 'x', value: '' }] } }, { code: 'parameter_invalid_empty' }],
    [
      { invoice_settings: { custom_fields: [1, 2, 3, 4, 5].map(() => ({ name: 'x', value: 'y' })) } },
      { message: /maximum 4/ },
    ],
    [{ expand: ['owner'] }, { message: 'This property cannot be expanded (owner).' }],
  ]
  for (const [params, error] of cases) {
    const found = await errorOf(stripe.customers.create(params))
    t.match(
      found,
      { statusCode: 400, type: 'StripeInvalidRequestError', ...error },
      JSON.stringify(params).slice(0, 60),
    )
  }
  t.equal((await stripe.customers.list()).data.length, 0, 'nothing was made')
  t.equal((await stripe.events.list()).data.length, 0)
})

t.test('metadata limits hold for the merged result', async (t) => {
  const { stripe } = await simulate(t)
  const keys = (from: number, to: number) =>
    Object.fromEntries(Array.from({ length: to - from }, (_, at) => [`k${from + at}`, 'v']))
  const { id } = await stripe.customers.create({ metadata: keys(0, 50) })
  t.match(await errorOf(stripe.customers.update(id, { metadata: keys(50, 51) })), { message: /up to 50 keys/ })
  await stripe.customers.update(id, { metadata: { k0: '', k50: 'v' } })
})

t.test('an invoice prefix is unique, deleted customers included', async (t) => {
  const { stripe } = await simulate(t)
  const { id } = await stripe.customers.create({ invoice_prefix: 'ABC' })
  await stripe.customers.update(id, { invoice_prefix: 'ABC' })
  await stripe.customers.del(id)
  t.match(await errorOf(stripe.customers.create({ invoice_prefix: 'ABC' })), { code: 'resource_already_exists' })
})

t.test('deletion leaves a stub that can be read but not changed', async (t) => {
  const { stripe } = await simulate(t)
  const { id } = await stripe.customers.create({ email: 'a@b.co' })
  t.strictSame({ ...(await stripe.customers.del(id)) }, { id, object: 'customer', deleted: true })
  t.strictSame({ ...(await stripe.customers.retrieve(id)) }, { id, object: 'customer', deleted: true })
  const missing = { code: 'resource_missing', param: 'id', message: `No such customer: '${id}'` }
  t.match(await errorOf(stripe.customers.update(id, { name: 'x' })), { ...missing, statusCode: 400 })
  t.match(await errorOf(stripe.customers.del(id)), { ...missing, statusCode: 404 })
  for (const params of [{}, { email: 'a@b.co' }]) t.equal((await stripe.customers.list(params)).data.length, 0)
  const never = { code: 'resource_missing', statusCode: 404, message: "No such customer: 'cus_x'" }
  t.match(await errorOf(stripe.customers.retrieve('cus_x')), never)
  t.match(await errorOf(stripe.customers.update('cus_x', {})), never)
})

t.test('list: newest first, cursors both ways, created windows, exact e-mail, clamped limit', async (t) => {
  const { stripe, clock, raw } = await simulate(t)
  const ids: string[] = []
  for (let at = 0; at < 7; at++) {
    const { id } = await stripe.customers.create({ email: at % 2 ? 'a@b.co' : 'A@b.co' })
    ids.unshift(id)
    if (at !== 2) clock.advance(second)
  }
  const seen = async (params: object) => {
    const list = await stripe.customers.list(params)
    return [list.data.map(({ id }) => ids.indexOf(id)), list.has_more]
  }
  t.strictSame(await seen({}), [[0, 1, 2, 3, 4, 5, 6], false])
  t.strictSame(await seen({ limit: 3 }), [[0, 1, 2], true])
  t.strictSame(await seen({ limit: 3, starting_after: ids[2] }), [[3, 4, 5], true])
  t.strictSame(await seen({ limit: 3, starting_after: ids[5] }), [[6], false])
  t.strictSame(await seen({ limit: 3, ending_before: ids[5] }), [[2, 3, 4], true])
  t.strictSame(await seen({ limit: 3, ending_before: ids[2] }), [[0, 1], false])
  const base = 1_795_176_000
  t.strictSame(await seen({ created: base + 2 }), [[3, 4], false], 'two in one second')
  t.strictSame(await seen({ created: { gt: base + 2, lte: base + 4 } }), [[1, 2], false])
  t.strictSame(await seen({ created: { gte: base + 2, lt: base + 4 }, ending_before: ids[4] }), [[2, 3], false])
  t.strictSame(await seen({ email: 'a@b.co' }), [[1, 3, 5], false])
  t.strictSame(await seen({ email: 'a@b.co', limit: 1, starting_after: ids[1] }), [[3], true])
  t.strictSame(await seen({ email: 'a@b.co', limit: 1, ending_before: ids[5] }), [[3], true])
  t.equal((await raw('/v1/customers?limit=0')).body.data.length, 1)
  t.equal((await raw('/v1/customers?limit=1000')).body.data.length, 7)
  const all: string[] = []
  for await (const { id } of stripe.customers.list({ limit: 2 })) all.push(id)
  t.strictSame(all, ids, 'the SDK pages through')

  t.match(await errorOf(stripe.customers.list({ starting_after: 'cus_x' })), {
    statusCode: 400,
    code: 'resource_missing',
    param: 'starting_after',
  })
  await stripe.customers.del(ids[3] ?? '')
  t.match(await errorOf(stripe.customers.list({ ending_before: ids[3] ?? '' })), {
    statusCode: 400,
    param: 'ending_before',
  })
  t.match(await errorOf(stripe.customers.list({ ending_before: ids[1] ?? '', starting_after: ids[2] ?? '' })), {
    code: 'parameters_exclusive',
  })
  t.match(await errorOf(stripe.customers.list({ limit: 'x' as never })), { code: 'parameter_invalid_integer' })
  t.match(await errorOf(stripe.customers.list({ name: 'x' } as never)), { code: 'parameter_unknown' })
  t.match(await errorOf(stripe.customers.list({ created: { near: 1 } as never })), { param: 'created[near]' })
  t.match(await errorOf(stripe.customers.list({ test_clock: 'c' })), { code: 'resource_missing' })
})

t.test('expansions show what is otherwise left out', async (t) => {
  const { stripe } = await simulate(t)
  const { id } = await stripe.customers.create({ expand: ['tax', 'subscriptions'] })
  t.match(await stripe.customers.retrieve(id, { expand: ['tax_ids', 'sources', 'invoice_credit_balance'] }), {
    tax_ids: { object: 'list', data: [] },
    sources: { data: [] },
    invoice_credit_balance: {},
  })
  const { data } = await stripe.customers.list({ expand: ['data.tax'] })
  t.match(data[0]?.tax, { automatic_tax: 'unrecognized_location' })
})
