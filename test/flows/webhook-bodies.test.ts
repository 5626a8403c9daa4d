import { once } from 'node:events'
import { request } from 'node:http'
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { type Service, startService } from '../helpers/service.js'
import { deliver, eventOf, metric, sign, storedEvents } from '../helpers/webhooks.js'

// 400 MB of body take seconds alone, and much longer beside other tests.
t.setTimeout(580_000)

const LIMIT = 2 * 1024 * 1024

/** A POST of which the test sends as much as it likes. */
function post(service: Service, headers: Record<string, string>) {
  const { hostname, port } = new URL(service.app.apiUrl ?? '')
  const socket = connect(Number(port), hostname)
  // The server closes while the client still writes: to the client that is a broken pipe.
  socket.on('error', () => {})
  let answer = ''
  socket.on('data', (chunk) => (answer += chunk))
  const closed = new Promise<string>((resolve) => socket.on('close', () => resolve(answer)))
  const lines = Object.entries({ host: hostname, 'content-type': 'application/json', ...headers })
  socket.write(
    `POST /webhooks/stripe HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
  )
  return { socket, closed }
}

const CHUNK = 0x10000
const PIECE = `${CHUNK.toString(16)}\r\n${'x'.repeat(CHUNK)}\r\n`

/** Sends chunks until it has sent so many, or the server has had enough; answers how many left. */
async function sendChunks(socket: Socket, most: number): Promise<number> {
  let sent = 0
  for (; sent < most && !socket.destroyed && socket.writable; sent += 1) {
    const hasRoom = socket.write(PIECE)
    // Whatever wakes it, also a breaking connection, is looked at by the condition of the loop.
    if (hasRoom) await new Promise((resolve) => setImmediate(resolve))
    else await Promise.race([once(socket, 'drain'), once(socket, 'close')]).catch(() => {})
  }
  return sent
}

t.test('bodies that are too large', async (t) => {
  const service = await startService(t)
  const { simulator, newCustomer, quiet } = service
  const { stripeId } = await newCustomer({ email: 'large@example.com' })
  await quiet()
  const object = simulator.controls.getCustomer(stripeId)
  const before = await storedEvents(service)
  const counted = () => metric(service, 'lockstep_webhook_deliveries_total{outcome="body_too_large"}')
  const isRefusal = (t: Test, answer: string) => {
    t.match(answer, /^HTTP\/1\.1 413 /)
    t.match(answer, /^connection: close\r$/im, 'the connection is not used again')
    t.match(answer, '"code":"body_too_large"')
  }

  t.test('one that says so is refused before any of it comes', async (t) => {
    const { closed } = post(service, { 'content-length': String(10 * 1024 * 1024) })
    isRefusal(t, await closed)
    t.equal(await counted(), 1)
  })

  t.test('one that says nothing is refused once it is too long', async (t) => {
    const { socket, closed } = post(service, { 'transfer-encoding': 'chunked' })
    await sendChunks(socket, LIMIT / CHUNK + 1)
    isRefusal(t, await closed)
    t.equal(await counted(), 2)
  })

  t.test('and would it never end, no more of it is taken', async (t) => {
    const { socket, closed } = post(service, { 'transfer-encoding': 'chunked' })
    const sent = (await sendChunks(socket, Number.POSITIVE_INFINITY)) * CHUNK
    await closed
    t.ok(sent < LIMIT + 16 * 1024 * 1024, `${sent} bytes left, some of them only into the buffers between`)
    t.equal(await counted(), 3)
  })

  t.test('many at once leave the memory as it was', async (t) => {
    const first = process.memoryUsage().rss
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(
        Array.from({ length: 4 }, async () => {
          const { socket, closed } = post(service, { 'transfer-encoding': 'chunked' })
          await sendChunks(socket, 160)
          await closed
        }),
      )
    }
    t.equal(await counted(), 43)
    const grown = process.memoryUsage().rss - first
    t.ok(grown < 200 * 1024 * 1024, `400 MB were offered; the process has grown by ${Math.round(grown / 1048576)} MB`)
  })

  t.test('nothing of them is stored, and the largest that fits is', async (t) => {
    t.equal(await storedEvents(service), before)
    const event = eventOf(object, { padding: '' })
    const padding = 'x'.repeat(LIMIT - Buffer.byteLength(JSON.stringify(event)))
    const payload = JSON.stringify({ ...event, padding })
    t.equal(Buffer.byteLength(payload), LIMIT)
    t.match(await deliver(service, payload), { status: 200 })
    t.match(await deliver(service, `${payload} `), { status: 413 })

    const chunked = JSON.stringify(eventOf(object, { padding: padding.slice(100) }))
    const call = request(`${service.app.apiUrl}/webhooks/stripe`, {
      method: 'POST',
      headers: { 'stripe-signature': sign(service, chunked), 'transfer-encoding': 'chunked' },
    })
    for (let at = 0; at < chunked.length; at += 100_000) call.write(chunked.slice(at, at + 100_000))
    call.end()
    const [response] = await once(call, 'response')
    t.equal(response.statusCode, 200, 'without a length, too')
    response.resume()
    await quiet()
    t.equal(await storedEvents(service), before + 2)
  })
})
