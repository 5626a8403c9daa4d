import t from 'tap'
import { makeGate, OverloadedError } from '../../src/lib/gate.js'

t.test('no more are inside than may be, by number and by bytes', async (t) => {
  let shed = 0
  const gate = makeGate({
    most: 2,
    mostBytes: 100,
    onShed: () => {
      shed += 1
    },
  })
  const leave = gate.enter(60)
  t.throws(() => gate.enter(50), OverloadedError, 'too many bytes')
  gate.enter(40)
  t.throws(() => gate.enter(0), OverloadedError, 'too many')
  t.equal(shed, 2)
  leave()
  leave()
  gate.enter(60)
  t.throws(() => gate.enter(0), OverloadedError, 'who leaves twice has left once')
  gate.reenter()()
  t.throws(() => gate.enter(0), OverloadedError)
})
