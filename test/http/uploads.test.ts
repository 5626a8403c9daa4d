import { request } from 'node:http'
import Fastify from 'fastify'
import t from 'tap'
import { answerProblems } from '../../src/http/problem.js'
import { limitSlowBodies, mediaTypeOf, takeFiles, uploadOf } from '../../src/http/uploads.js'

async function open(t: { teardown(close: () => Promise<unknown>): void }) {
  const app = Fastify()
  answerProblems(app, () => [])
  limitSlowBodies(app, 100)
  app.post('/json', async () => 'json')
  app.register(async (files) => {
    takeFiles(files, ['text/csv'], 20)
    files.post('/file', { config: { isUpload: true } }, async (asked) => {
      let bytes = 0
      for await (const piece of uploadOf(asked, 300)) bytes += piece.length
      return `${mediaTypeOf(asked)} ${bytes}`
    })
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => app.close())

  /** Sends these pieces, one after each pause, and never an end where there are none left. */
  const send = (path: string, pieces: string[], pause: number, isEnded = true, headers = {}) =>
    new Promise<{ status: number; body: string }>((resolve, reject) => {
      const outgoing = request(`${url}${path}`, { method: 'POST', headers: { 'content-type': 'text/csv', ...headers } })
      outgoing.on('error', reject).on('response', async (answer) => {
        const chunks: Buffer[] = []
        for await (const chunk of answer) chunks.push(chunk as Buffer)
        resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString() })
        outgoing.destroy()
      })
      const next = () => {
        const piece = pieces.shift()
        if (piece !== undefined) outgoing.write(piece)
        else if (isEnded) outgoing.end()
        if (piece !== undefined) setTimeout(next, pause)
      }
      next()
    })
  return { send }
}

t.test('a file may take its time, as long as it keeps coming', async (t) => {
  const { send } = await open(t)
  t.strictSame(await send('/file', ['a', 'b', 'c'], 80), { status: 200, body: 'text/csv 3' })
  t.match(await send('/file', ['a'], 1, false), { status: 408, body: /upload_too_slow/ })
  t.strictSame(await send('/file', [], 0, true, { 'content-type': 'Text/CSV; charset=utf-8', 'content-length': 0 }), {
    status: 200,
    body: 'text/csv 0',
  })
})

t.test('other requests may not', async (t) => {
  const { send } = await open(t)
  const json = { 'content-type': 'application/json' }
  t.match(await send('/json', ['{'], 1, false, json), { status: 408, body: /malformed_request/ })
  t.match(await send('/json', ['{', '}'], 10, true, json), { status: 200 })
})

t.test('what is no file is refused before it is read', async (t) => {
  const { send } = await open(t)
  t.match(await send('/file', ['{}'], 1, true, { 'content-type': 'application/json' }), {
    status: 415,
    body: /unsupported_file.*text\/csv|text\/csv.*unsupported_file/,
  })
  t.match(await send('/file', ['x'], 1, true, { 'content-encoding': 'gzip' }), { status: 415, body: /gzip/ })
  t.match(await send('/file', ['x'.repeat(21)], 1, true, { 'content-length': 21 }), {
    status: 413,
    body: /file_too_large/,
  })
})
