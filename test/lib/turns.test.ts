import t from 'tap'
import { makeTurns } from '../../src/lib/turns.js'

t.test('so many at a time, and first come, first served', async (t) => {
  const inTurn = makeTurns(2)
  const log: string[] = []
  const ends: (() => void)[] = []
  const work = (name: string) => async () => {
    log.push(name)
    await new Promise<void>((resolve) => ends.push(resolve))
    return name
  }
  const all = ['a', 'b', 'c', 'd'].map((name) => inTurn(work(name)))
  const next = async () => {
    ends.shift()?.()
    await new Promise((resolve) => setImmediate(resolve))
  }
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(log, ['a', 'b'])
  await next()
  t.strictSame(log, ['a', 'b', 'c'])
  all.push(inTurn(work('e')))
  await next()
  t.strictSame(log, ['a', 'b', 'c', 'd'], 'who comes later waits longer')
  for (let left = 3; left > 0; left -= 1) await next()
  t.strictSame(await Promise.all(all), ['a', 'b', 'c', 'd', 'e'])
})

t.test('work that fails gives its place on', async (t) => {
  const inTurn = makeTurns(1)
  const failed = inTurn(async () => {
    throw new Error('broke')
  })
  const after = inTurn(async () => 'fine')
  await t.rejects(failed, { message: 'broke' })
  t.equal(await after, 'fine')
  t.equal(await inTurn(async () => 'again'), 'again')
})
