import fc from 'fast-check'
import t from 'tap'
import { sameJson } from '../../src/lib/json.js'

t.test('the same, whatever the order of keys', async (t) => {
  t.ok(sameJson({ a: 1, b: { c: [1, null], d: 'x' } }, { b: { d: 'x', c: [1, null] }, a: 1 }))
  const different: [unknown, unknown][] = [
    [{ a: 1 }, { a: 1, b: undefined }],
    [{ a: undefined }, { b: undefined }],
    [{ a: null }, {}],
    [
      [1, 2],
      [2, 1],
    ],
    [[1], { 0: 1 }],
    [[], {}],
    [null, {}],
    [0, false],
    ['1', 1],
    [{}, { toString: 1 }],
    [{ toString: 1 }, {}],
    [{ constructor: Object }, { other: 1 }],
  ]
  for (const [a, b] of different) {
    t.notOk(sameJson(a, b), JSON.stringify([a, b]))
    t.notOk(sameJson(b, a), JSON.stringify([b, a]))
  }
})

t.test('a copy is the same; a reversed copy too; it is symmetric', async () => {
  const reversed = (value: unknown): unknown =>
    Array.isArray(value)
      ? value.map(reversed)
      : typeof value === 'object' && value !== null
        ? Object.fromEntries(
            Object.entries(value)
              .reverse()
              .map(([key, v]) => [key, reversed(v)]),
          )
        : value
  fc.assert(fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => sameJson(value, reversed(value))))
  fc.assert(fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => sameJson(a, b) === sameJson(b, a)))
})
