import t from 'tap'
import { startLoop } from '../../src/lib/loop.js'
import { eventually } from '../helpers/wait.js'

const HOUR = 3_600_000
const never = (error: unknown) => {
  throw error
}

/** Work that ends when it is told to. */
function heldWork() {
  const runs: (() => void)[] = []
  return { runs, work: () => new Promise<{ more: boolean }>((end) => runs.push(() => end({ more: false }))) }
}

t.test('it goes on at once while there is more, then rests', async (t) => {
  let left = 5
  let runs = 0
  const loop = startLoop({
    work: async () => {
      runs += 1
      left -= 1
      return { more: left > 0 }
    },
    idleMs: HOUR,
    onError: never,
  })
  await eventually(() => left === 0)
  await loop.stop()
  t.equal(runs, 5)
})

t.test('it runs again after its pause', async (t) => {
  let runs = 0
  const work = async () => {
    runs += 1
    return { more: false }
  }
  const loop = startLoop({ work, idleMs: 1, onError: never })
  await eventually(() => runs > 3)
  await loop.stop()
  const atStop = runs
  loop.wake()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(runs, atStop, 'and never after it was stopped')
})

t.test('a wake ends the pause; one during a run makes another run follow', async (t) => {
  const { runs, work } = heldWork()
  const loop = startLoop({ work, idleMs: HOUR, onError: never })
  await eventually(() => runs.length === 1)
  loop.wake()
  loop.wake()
  runs[0]?.()
  await eventually(() => runs.length === 2)
  runs[1]?.()
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(runs.length, 2, 'two wakes are one run')
  loop.wake()
  await eventually(() => runs.length === 3)
  runs[2]?.()
  await loop.stop()
})

t.test('stopping waits for the run under way', async (t) => {
  const { runs, work } = heldWork()
  const loop = startLoop({ work, idleMs: HOUR, onError: never })
  await eventually(() => runs.length === 1)
  let stopped = false
  const stopping = loop.stop().then(() => {
    stopped = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  t.notOk(stopped)
  runs[0]?.()
  await stopping
  t.ok(stopped)
})

t.test('an error is reported and ends nothing, and a wake need not wait it out', async (t) => {
  const errors: unknown[] = []
  let runs = 0
  const loop = startLoop({
    work: async () => {
      runs += 1
      throw new Error(`run ${runs}`)
    },
    idleMs: 0,
    onError: (error) => errors.push(error),
  })
  await eventually(() => runs === 1)
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(runs, 1, 'it does not spin')
  loop.wake()
  await eventually(() => runs === 2)
  await loop.stop()
  t.match(errors, [{ message: 'run 1' }, { message: 'run 2' }])
})
