import t from 'tap'
import { seedCustomerId, seedIndexOf } from '../../src/simulator/ids.js'
import { Timeline } from '../../src/simulator/timeline.js'
import { seeded, simulate, start } from './harness.js'

const count = 50_000
const span = 100_000

t.test('50,000 pre-made customers are spread over the span and found in every way', async (t) => {
  const { stripe, controls } = await simulate(t, { customers: count, createdSpanSeconds: span })
  const end = start / 1000
  const { id } = await stripe.customers.create({ email: 'customer3@example.com' })
  const middle = { gte: end - span / 2, lt: end - span / 2 + 100 }
  const window = await stripe.customers.list({ created: middle, limit: 100 })
  t.equal(window.data.length, 50)
  t.ok(window.data.every(({ created }) => created >= middle.gte && created < middle.lt))
  const same = await stripe.customers.list({ email: 'customer3@example.com' })
  t.strictSame(
    same.data.map((customer) => customer.id),
    [id, seedCustomerId(3)],
  )
  await stripe.customers.update(seedCustomerId(3), { email: 'moved@example.com' })
  await stripe.customers.del(seedCustomerId(4))
  t.equal((await stripe.customers.list({ email: 'customer3@example.com' })).data.length, 1)
  t.equal((await stripe.customers.list({ email: 'moved@example.com' })).data.length, 1)
  t.equal((await stripe.customers.list({ email: 'customer4@example.com' })).data.length, 0)
  t.match(await stripe.customers.retrieve(seedCustomerId(4)), { deleted: true })
  t.notOk(await stripe.customers.retrieve(seedCustomerId(count)).catch(() => undefined))

  const began = performance.now()
  let seen = 0
  let after: string | undefined
  let last = Number.POSITIVE_INFINITY
  for (;;) {
    const page = await stripe.customers.list({ limit: 100, ...(after && { starting_after: after }) })
    for (const { created } of page.data) {
      if (created > last) t.fail('out of order')
      last = created
    }
    seen += page.data.length
    after = page.data.at(-1)?.id
    if (!page.has_more) break
  }
  t.equal(seen, count)
  t.equal(controls.dump().total, count)
  t.comment(`listed ${seen} in ${Math.round(performance.now() - began)} ms`)
})

t.test('a million cost neither time nor memory at the start', async (t) => {
  const began = performance.now()
  const before = process.memoryUsage().heapUsed
  const { stripe } = await simulate(t, { customers: 1_000_000 })
  t.equal((await stripe.customers.list({ limit: 100, starting_after: seedCustomerId(500_000) })).data.length, 100)
  t.ok(performance.now() - began < 2000)
  t.ok(process.memoryUsage().heapUsed - before < 50_000_000)
})

t.test('ids of pre-made customers give their index back', (t) => {
  for (const index of [0, 1, 61, 62, 999_999, 10_000_000]) t.equal(seedIndexOf(seedCustomerId(index)), index)
  for (const id of ['cus_x', 'cus_L0ckst3p!!!!!!', 'cus_L0ckst3pzzzzzz']) t.equal(seedIndexOf(id), undefined)
  t.end()
})

t.test('a timeline stays sorted whatever the order of adding', (t) => {
  const random = seeded(3)
  const line = new Timeline<{ at: number; seq: number }>((key) => key)
  const keys = Array.from({ length: 500 }, (_, seq) => ({ at: Math.floor(random() * 50), seq }))
  for (const key of keys) line.add(key)
  const sorted = [...keys].sort((a, b) => a.at - b.at || a.seq - b.seq)
  t.strictSame([...line.ascend({ at: -1, seq: 0 })], sorted)
  t.strictSame([...line.descend({ at: 25, seq: 0 })], sorted.filter(({ at }) => at < 25).reverse())
  for (const key of keys.slice(0, 100)) line.remove(key)
  line.remove({ at: 1000, seq: 0 })
  t.equal(line.size, 400)
  t.equal(line.cut({ at: 25, seq: 0 }).length + line.size, 400)
  t.ok((line.first?.at ?? 0) >= 25)
  t.end()
})
