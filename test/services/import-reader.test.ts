import fc from 'fast-check'
import t from 'tap'
import type { FileFormat } from '../../src/models/import.js'
import { checkHeader, type ReadLine, readLines } from '../../src/services/import-reader.js'
import { LINE_LIMIT } from '../../src/services/line-splitter.js'

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}

async function read(file: string | Buffer, format: FileFormat = 'csv', size = 65_536): Promise<ReadLine[]> {
  const lines: ReadLine[] = []
  for await (const batch of readLines(inPieces(Buffer.from(file), size), format)) lines.push(...batch)
  return lines
}

/** Line number and what it says, or why it says nothing. */
const gist = (lines: ReadLine[]) =>
  lines.map(({ line, input, errors }) => [line, input ?? errors.map(({ path, code }) => `${path} ${code}`).join()])

t.test('CSV as programs write it', async (t) => {
  const expected = [
    [2, { email: 'a@example.com', firstName: 'A' }],
    [3, { email: 'b@example.com' }],
  ]
  for (const [name, file] of Object.entries({
    LF: 'email,firstName\na@example.com,A\nb@example.com,\n',
    CRLF: 'email,firstName\r\na@example.com,A\r\nb@example.com,\r\n',
    CR: 'email,firstName\ra@example.com,A\rb@example.com,',
    'byte order mark': '\ufeffemail,firstName\na@example.com,A\nb@example.com,',
    quotes: '"email","firstName"\n"a@example.com","A"\n"b@example.com",""',
  })) {
    for (const size of [1, 2, 3, 7, 65_536])
      t.strictSame(gist(await read(file, 'csv', size)), expected, `${name}, by ${size}`)
  }
  const text = 'email,description\r\na@example.com,"one\r\n""two"", three"\r\n\r\n,,\r\nb@example.com,x'
  t.strictSame(
    gist(await read(text.replace('\n,,', '\n,'), 'csv', 1)),
    [
      [2, { email: 'a@example.com', description: 'one\r\n"two", three' }],
      [6, { email: 'b@example.com', description: 'x' }],
    ],
    'a line is where it begins; blank ones are none',
  )
})

t.test('a bad line does not stop the others', async (t) => {
  const bad = Buffer.concat([
    Buffer.from('email,firstName\na"b,x\n"a"b,x\na,b,c\n'),
    Buffer.from([0xff, 0x2c, 0x41, 0x0a]),
    Buffer.from(`${'x'.repeat(LINE_LIMIT)},y\nanonymous,\0\ngood@example.com,Z\n`),
  ])
  const expected = [
    [2, 'line invalid_csv'],
    [3, 'line invalid_csv'],
    [4, 'line wrong_cell_count'],
    [5, 'line invalid_utf8'],
    [6, 'line too_long'],
    [7, { email: 'anonymous', firstName: '\0' }],
    [8, { email: 'good@example.com', firstName: 'Z' }],
  ]
  t.strictSame(gist(await read(bad)), expected)
  t.strictSame(gist(await read(bad, 'csv', 1000)), expected)
  const lines = [
    '{"email":"a@example.com","metadata":{"a":null},"type":null}',
    '',
    '{"email":',
    '[]',
    'null',
    '{"name":"x","id":"1","type":"odd","email":7}',
    '{"metadata":{"__proto__":"x"}}',
    `{"email":"${'x'.repeat(LINE_LIMIT)}"}`,
    '{"email":"b@example.com"}',
  ]
  t.strictSame(gist(await read(`\ufeff${lines.join('\r\n')}`, 'ndjson', 5)), [
    [1, { email: 'a@example.com', metadata: { a: null } }],
    [3, 'line invalid_json'],
    [4, 'line wrong_type'],
    [5, 'line wrong_type'],
    [6, 'name unknown_field,id wrong_format,type not_allowed,email wrong_type'],
    [7, 'metadata.__proto__ invalid_key'],
    [8, 'line too_long'],
    [9, { email: 'b@example.com' }],
  ])
})

t.test('a file that cannot be read as a whole', async (t) => {
  const refused = (file: string | Buffer, code: string) =>
    t.rejects(read(file), { code: 'invalid_file', errors: [{ code }] }, JSON.stringify(String(file).slice(0, 20)))
  await refused('', 'empty')
  await refused('\ufeff', 'empty')
  await refused('\n\n', 'empty')
  await refused('email,email\n', 'duplicate_column')
  await refused(Buffer.from('email\na@example.com', 'utf16le'), 'unknown_column')
  await refused(Buffer.from('\ufeffemail\na@example.com', 'utf16le'), 'not_utf8')
  await refused('email\n"a@example.com\nb@example.com\n', 'unclosed_quote')
  await refused(`email\n"${'x'.repeat(2 * LINE_LIMIT)}"\n`, 'unclosed_quote')
  t.strictSame(await read('email\n'), [], 'only a header is no mistake')
  t.strictSame(await read('', 'ndjson'), [])
  await t.rejects(checkHeader(Buffer.from('e-mail\na')), { code: 'invalid_file' })
  await t.rejects(checkHeader(Buffer.from('\n')), { code: 'invalid_file' })
  await checkHeader(Buffer.from('\n email \n"a'))
})

t.test('a digest names the file up to its line', async (t) => {
  const digests = async (file: string, size?: number) => (await read(file, 'csv', size)).map(({ digest }) => digest)
  const [a, b] = await digests('email\na\nb\n')
  t.not(a, b)
  t.strictSame(await digests('email\r\na\r\n\r\nb', 1), [a, b], 'whatever ends its lines')
  t.not((await digests('email\nx\nb\n'))[1], b, 'the lines before count')
  t.not((await digests('phone\na\nb\n'))[1], b, 'and so does the header')
})

t.test('however the file is cut into pieces, it says the same', async (t) => {
  const text = fc.string({ unit: fc.constantFrom('a', 'é', '"', ',', '\n', '\r', ' ') })
  await fc.assert(
    fc.asyncProperty(text, fc.integer({ min: 1, max: 9 }), async (rest, size) => {
      const file = `email,phone\n${rest}`
      const [whole, pieces] = await Promise.all(
        [65_536, size].map((one) => read(file, 'csv', one).catch((error) => error.code)),
      )
      t.strictSame(pieces, whole)
    }),
    { numRuns: 200 },
  )
})
