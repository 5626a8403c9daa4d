import { request as send } from 'node:http'
import t, { type Test } from 'tap'
import { isProblem, openApi, type TestApi } from '../helpers/api.js'
import { eventually } from '../helpers/wait.js'

/** An API for two requests at a time, whose keys are looked up when the test says so. */
async function openSmall(t: Test) {
  let gates: (() => void)[] = []
  let isHeld = false
  const lookedUp: string[] = []
  const api = await openApi(t, ({ options, credentials }) => ({
    options: { ...options, mostRequests: 2, openMetrics: true },
    credentials: {
      async verify(token) {
        lookedUp.push(token)
        if (isHeld) await new Promise<void>((resolve) => gates.push(resolve))
        return credentials.verify(token)
      },
    },
  }))
  // What checks each answer against the OpenAPI document reads that at its first.
  await api.call('GET', '/customers')
  lookedUp.length = 0
  return {
    api,
    lookedUp,
    hold() {
      isHeld = true
    },
    held: () => gates.length,
    release() {
      isHeld = false
      for (const open of gates) open()
      gates = []
    },
  }
}

const shedOf = async (api: TestApi, part: string) => {
  const { body } = await api.call('GET', '/metrics', { key: null })
  return Number(new RegExp(`lockstep_requests_shed_total\\{part="${part}"\\} (\\d+)`).exec(body)?.[1] ?? 0)
}

/** Waits until both places are free: a client has its answer a moment before the server sees the end of it. */
async function bothAreFree(api: TestApi): Promise<void> {
  await eventually(async () => {
    const all = await Promise.all([1, 2].map(() => api.call('GET', '/customers')))
    return all.every(({ status }) => status === 200)
  })
}

t.test('beyond the bound 503 at once, before the key is looked up; then as before', async (t) => {
  const { api, lookedUp, hold, held, release } = await openSmall(t)
  hold()
  const under = [api.call('GET', '/customers'), api.call('GET', '/customers')]
  await eventually(() => held() === 2)

  const answer = await api.call('GET', '/customers')
  isProblem(t, answer, 503, 'overloaded')
  t.ok(Number(answer.headers.get('retry-after')) >= 1)
  t.equal(lookedUp.length, 2, 'no key was looked up for it')
  t.equal(await shedOf(api, 'api'), 1)

  t.equal((await api.call('GET', '/health/live', { key: null })).status, 200)
  t.equal((await api.call('GET', '/health/ready', { key: null })).status, 200)
  t.equal((await api.call('POST', '/webhooks/stripe', { body: '{}', key: null })).status, 200, 'Stripe is let in')

  release()
  for (const { status } of await Promise.all(under)) t.equal(status, 200)
  await bothAreFree(api)
})

t.test('who only waits keeps nobody out, and too many are not waited with', async (t) => {
  const { api } = await openSmall(t)
  const { body: customer } = await api.call('POST', '/customers', { body: { email: 'ada@example.com' } })
  const path = `/customers/${customer.id}/sync`
  const prefer = { prefer: 'wait=30' }
  const waiting = [api.call('POST', path, { headers: prefer }), api.call('POST', path, { headers: prefer })]
  await eventually(() => api.asked.filter((asked) => asked.startsWith('wait ')).length === 2)

  t.equal((await api.call('GET', '/customers')).status, 200)
  const third = await api.call('POST', path, { headers: prefer })
  t.equal(third.status, 202, 'it is told where to look')
  t.equal(third.headers.get('location'), path)
  t.equal(await shedOf(api, 'wait'), 1)

  await api.settle(customer.id)
  for (const { status } of await Promise.all(waiting)) t.equal(status, 200)
  await bothAreFree(api)
})

t.test('a client that goes away gives its place back, once the work has ended', async (t) => {
  const { api, hold, held, release } = await openSmall(t)
  hold()
  const { hostname, port } = new URL(api.url)
  const headers = { authorization: `Bearer ${api.keys.admin}` }
  const clients = [1, 2].map(() =>
    send({ hostname, port, path: '/customers', headers })
      .on('error', () => {})
      .end(),
  )
  await eventually(() => held() === 2)
  for (const client of clients) client.destroy()
  release()
  await bothAreFree(api)
})

t.test('files have a bound of their own', async (t) => {
  const { api, hold, held, release } = await openSmall(t)
  hold()
  const exports = Array.from({ length: 16 }, () => api.call('GET', '/customers/export'))
  await eventually(() => held() === 16)
  isProblem(t, await api.call('GET', '/customers/export'), 503, 'overloaded')
  t.equal(await shedOf(api, 'long'), 1)
  release()
  for (const { status } of await Promise.all(exports)) t.equal(status, 200)
  t.equal((await api.call('GET', '/customers')).status, 200)
})

t.test('a process that is late for all turns requests away, and takes them again once it is not', async (t) => {
  const { api } = await openSmall(t)
  let isBlocking = true
  const block = () => {
    const until = Date.now() + 700
    while (Date.now() < until);
    if (isBlocking) setTimeout(block, 1)
  }
  t.teardown(() => {
    isBlocking = false
  })
  block()
  let answer = await api.call('GET', '/customers')
  await eventually(
    async () => {
      answer = await api.call('GET', '/customers')
      return answer.status === 503
    },
    { timeout: 60_000 },
  )
  isProblem(t, answer, 503, 'overloaded')
  t.equal((await api.call('GET', '/health/live', { key: null })).status, 200)
  isBlocking = false
  await eventually(async () => (await api.call('GET', '/customers')).status === 200)
})
