import t from 'tap'
import { makeLifecycle } from '../../src/lib/lifecycle.js'

t.test('last opened, first closed; all of them, once, whatever fails', async (t) => {
  const closed: string[] = []
  const reported: string[] = []
  const lifecycle = makeLifecycle((name, error) => reported.push(`${name}: ${String(error)}`))
  const close = (name: string) => async () => void closed.push(name)
  lifecycle.onClose('pool', close('pool'))
  lifecycle.onClose('queue', async () => {
    closed.push('queue')
    throw new Error('gone')
  })
  lifecycle.onClose('api', close('api'))
  const [first, again] = await Promise.all([lifecycle.close(), lifecycle.close()])
  t.strictSame(closed, ['api', 'queue', 'pool'])
  t.match(first, [{ message: 'queue: gone', cause: { message: 'gone' } }])
  t.equal(again, first)
  t.strictSame(reported, ['queue: Error: gone'])
})

t.test('each is closed before the one below it begins', async (t) => {
  const steps: string[] = []
  const lifecycle = makeLifecycle(() => {})
  lifecycle.onClose('below', async () => void steps.push('below'))
  lifecycle.onClose('above', async () => {
    steps.push('above begins')
    await new Promise((resolve) => setImmediate(resolve))
    steps.push('above ends')
  })
  await lifecycle.close()
  t.strictSame(steps, ['above begins', 'above ends', 'below'])
})

t.test('what opens while all is being closed is closed as well', async (t) => {
  const lifecycle = makeLifecycle(() => {})
  let isClosed = false
  lifecycle.onClose('slow', async () => {
    lifecycle.onClose('late', async () => {
      isClosed = true
      throw new Error('late')
    })
  })
  await lifecycle.close()
  t.match(await lifecycle.close(), [{ message: 'late: late' }])
  t.ok(isClosed)
})
