import { parse } from 'csv-parse/sync'
import { stringify } from 'csv-stringify/sync'
import fc from 'fast-check'
import t from 'tap'
import { readCell, readCells, readHeader, writeCell } from '../../src/services/customer-columns.js'

const NASTY = fc.string({ unit: fc.constantFrom(...`='+-@"',;|\t\r\n ＝＠aé1`) })

t.test('no cell is a formula, and every text comes back', async (t) => {
  for (const text of ['=1+1', '+14155550100', '-2', '@sum(a1)', '\t=1', '\r=1', ' =1', '＝1', "'=1", "''+1"]) {
    t.match(writeCell(text), /^'/)
    t.equal(readCell(writeCell(text)), text)
  }
  for (const text of ["'t Hooft", "''", 'Ada', '', 'a=b', '1-2']) {
    t.equal(writeCell(text), text, 'what is harmless stays as it is')
    t.equal(readCell(text), text, 'also from files of other programs')
  }
  fc.assert(
    fc.property(NASTY, (text) => readCell(writeCell(text)) === text && !/^\s*[=+\-@＝＠\t\r\n]/.test(writeCell(text))),
  )
})

t.test('a header', async (t) => {
  t.strictSame(readHeader([' email ', 'metadata.a b', 'metadata']), ['email', 'metadata.a b', 'metadata'])
  const refused = (names: string[]) => {
    try {
      readHeader(names)
      return null
    } catch (error) {
      return error
    }
  }
  const error = { code: 'invalid_file' }
  t.match(refused(['first_name']), {
    ...error,
    errors: [{ path: 'first_name', code: 'unknown_column', message: 'did you mean firstName?' }],
  })
  t.match(refused(['E-Mail']), { errors: [{ message: 'did you mean email?' }] })
  t.match(refused(['adress.city']), { errors: [{ message: 'did you mean address.city?' }] })
  t.match(refused(['birthday']), { errors: [{ message: /there are id, state, .* metadata.<key>/ }] })
  t.match(refused(['ada@example.com', 'Ada', 'Lovelace']), {
    errors: [{ path: 'column 1' }, { path: 'column 2' }, { path: 'column 3' }],
  })
  t.match(refused(['email;phone']), { errors: [{ message: 'commas' }] })
  t.match(refused(['email', '', 'email', 'metadata.']), {
    errors: [
      { path: 'column 2' },
      { path: 'email', code: 'duplicate_column' },
      { path: 'metadata.', code: 'unknown_column' },
    ],
  })
})

t.test('cells', async (t) => {
  const columns = readHeader(['email', 'address.city', 'shipping.address.city', 'metadata.tier', 'metadata'])
  t.strictSame(readCells(columns, ['a@example.com', '', 'Rome', "'=1", '{"seat":"12"}']), {
    email: 'a@example.com',
    shipping: { address: { city: 'Rome' } },
    metadata: { tier: '=1', seat: '12' },
  })
  t.strictSame(readCells(columns, ['', '', '', '', '']), {}, 'blank cells say nothing')
  t.throws(() => readCells(columns, ['a']), { errors: [{ path: 'line', code: 'wrong_cell_count' }] })
  t.throws(() => readCells(columns, ['', '', '', '', '[1]']), { errors: [{ path: 'metadata', code: 'invalid_json' }] })
})

t.test('the CSV library writes what it reads', async (t) => {
  // The settings of the export and of the import.
  const write = (rows: string[][]) => stringify(rows, { record_delimiter: 'windows', quoted_match: /[\r\n]|^\s|\s$/ })
  const read = (text: string) => parse(text, { relax_column_count: true, record_delimiter: ['\r\n', '\n', '\r'] })
  const rows = fc.array(fc.tuple(NASTY, NASTY, fc.constant('x')), { minLength: 1 })
  t.doesNotThrow(() =>
    fc.assert(fc.property(rows, (given) => JSON.stringify(read(write(given))) === JSON.stringify(given))),
  )
})
