import t from 'tap'
import { errorOf, second, simulate } from './harness.js'

t.test('clauses, negation, AND and OR', async (t) => {
  const { stripe, clock } = await simulate(t)
  await stripe.customers.create({ name: 'Ada King Lovelace', email: 'Ada@b.co', metadata: { plan: 'x', 'a"b': '1' } })
  clock.advance(second)
  await stripe.customers.create({ name: "O'Brien", email: 'o@b.co', phone: '+4670' })
  clock.advance(second)
  await stripe.customers.create({ name: 'Ada Byron' })
  const found = async (query: string) =>
    (await stripe.customers.search({ query })).data.map(({ name }) => name?.split(' ').at(-1)).join()
  const cases: Record<string, string> = {
    'email:"ada@B.co"': 'Lovelace',
    'name:"king lovelace"': 'Lovelace',
    'name:"ada lovelace"': '',
    'name:ada': 'Byron,Lovelace',
    'name~"yro"': 'Byron',
    "name:'O\\'Brien'": "O'Brien",
    'phone:"+4670"': "O'Brien",
    'metadata["plan"]:"x"': 'Lovelace',
    'metadata["a\\"b"]:"1"': 'Lovelace',
    '-metadata["plan"]:null': 'Lovelace',
    'email:null': 'Byron',
    '-email:null AND name:ada': 'Lovelace',
    'name:ada -email:null': 'Lovelace',
    'phone:"+4670" OR email:null': "Byron,O'Brien",
    'created>1795176000 and created<=1795176001': "O'Brien",
    'created:1795176000': 'Lovelace',
    'created>=1795176001 AND created<1795176002': "O'Brien",
  }
  for (const [query, names] of Object.entries(cases)) t.equal(await found(query), names, query)
  for (const query of [
    'email',
    'email:"x" name:',
    'city:"x"',
    'email>"x"',
    'name~"ab"',
    'created~"123"',
    'created:abc',
    'email:"a" AND',
    'email:"a"phone:"b"',
    'email:"a" AND name:"b" OR phone:"c"',
  ]) {
    t.match(await errorOf(stripe.customers.search({ query })), { statusCode: 400, param: 'query' }, query)
  }
  t.match(await errorOf(stripe.customers.search({} as never)), { code: 'parameter_missing' })
})

t.test('search sees a change only after the lag', async (t) => {
  const { stripe, clock } = await simulate(t, { searchLagMs: 60_000, customers: 1 })
  const names = async () => (await stripe.customers.search({ query: '-name:null' })).data.map(({ name }) => name)
  const { id } = await stripe.customers.create({ name: 'One' })
  t.strictSame(await names(), ['Ada Lovelace'])
  clock.advance(60_000)
  t.strictSame(await names(), ['One', 'Ada Lovelace'])
  await stripe.customers.update(id, { name: 'Two' })
  clock.advance(30_000)
  await stripe.customers.update(id, { name: 'Three' })
  t.strictSame(await names(), ['One', 'Ada Lovelace'])
  clock.advance(30_000)
  t.strictSame(await names(), ['Two', 'Ada Lovelace'])
  clock.advance(30_000)
  t.strictSame(await names(), ['Three', 'Ada Lovelace'])
  await stripe.customers.del(id)
  t.strictSame(await names(), ['Three', 'Ada Lovelace'], 'deleted, and still found')
  clock.advance(60_000)
  t.strictSame(await names(), ['Ada Lovelace'])
})

t.test('pages by token, counts when asked', async (t) => {
  const { stripe } = await simulate(t, { customers: 25 })
  const all: string[] = []
  for await (const { email } of stripe.customers.search({ query: 'email~"customer"', limit: 10 })) all.push(email ?? '')
  t.equal(new Set(all).size, 25)
  const counted = await stripe.customers.search({ query: 'created>0', limit: 10, expand: ['total_count', 'data.tax'] })
  t.match(counted, { total_count: 25, has_more: true, next_page: String })
  t.ok(counted.data[0]?.tax)
  const next = await stripe.customers.search({
    query: 'created>0',
    page: counted.next_page ?? '',
    expand: ['total_count'],
  })
  t.equal(next.total_count, 25)
  t.not(next.data[0]?.id, counted.data[0]?.id)
  t.equal((await stripe.customers.search({ query: 'email:"customer7@example.com"' })).data.length, 1)
  t.match(await errorOf(stripe.customers.search({ query: 'created>0', page: 'x' })), { param: 'page' })
})
