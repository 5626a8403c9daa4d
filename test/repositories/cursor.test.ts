import t from 'tap'
import { isId, newId } from '../../src/lib/ids.js'
import { decodeCursor, encodeCursor, pageOf } from '../../src/repositories/cursor.js'

const position = { value: '2026-02-28T23:59:59.123456Z', id: newId() }

t.test('there and back', async (t) => {
  t.strictSame(decodeCursor(encodeCursor('newest', position), 'newest', isId), position)
})

t.test('made up', async (t) => {
  for (const value of ['2026-02-29T00:00:00.000000Z', '2026-01-01T24:00:00.000000Z', '2026-01-01', 'infinity', '']) {
    t.throws(() => decodeCursor(encodeCursor('newest', { ...position, value }), 'newest', isId), {
      code: 'invalid_cursor',
    })
  }
  t.throws(() => decodeCursor(encodeCursor('oldest', position), 'newest', isId), /belongs to another order/)
  t.throws(() => decodeCursor('☃', 'newest', isId), { code: 'invalid_cursor' })
})

t.test('a page knows whether there is another', async (t) => {
  const place = (id: string) => ({ ...position, id })
  t.match(pageOf(['a', 'b'], 2, 's', place), { data: ['a', 'b'], hasMore: false, nextCursor: null })
  const page = pageOf(['a', 'b', 'c'], 2, 's', place)
  t.match(page, { data: ['a', 'b'], hasMore: true })
  t.equal(decodeCursor(page.nextCursor ?? '', 's', () => true).id, 'b')
  t.match(pageOf([], 2, 's', place), { data: [], hasMore: false, nextCursor: null })
})
