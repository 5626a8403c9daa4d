import t from 'tap'
import { canonical, decodeForm, items, paramsOf } from '../../src/simulator/form.js'

const plain = (value: unknown) => JSON.parse(JSON.stringify(value))

t.test('decodes nested hashes and lists, indexed or not', (t) => {
  t.strictSame(plain(decodeForm('a=1&b[c][d]=x+y&b%5Be%5D=%C3%A5&l[0]=p&l[1]=q&m[]=r&m[]=s&flag&&a=2')), {
    a: '2',
    b: { c: { d: 'x y' }, e: 'å' },
    l: { 0: 'p', 1: 'q' },
    m: { 0: 'r', 1: 's' },
    flag: '',
  })
  t.strictSame(plain(decodeForm('a=%zz&b=1&b[c]=2')), { a: '%zz', b: { c: '2' } })
  t.equal(decodeForm('metadata[__proto__]=x').metadata instanceof Object, false)
  t.end()
})

t.test('lists in index order, equal params alike', (t) => {
  t.strictSame(items(decodeForm('l[10]=c&l[2]=b&l[0]=a').l), ['a', 'b', 'c'])
  t.strictSame([items(undefined), items(''), items('x')], [[], [], ['x']])
  t.equal(canonical(decodeForm('a=1&b[c]=2&b[d]=3')), canonical(decodeForm('b[d]=3&b[c]=2&a=1')))
  t.not(canonical(decodeForm('a=1')), canonical(decodeForm('a=')))
  t.end()
})

t.test('JSON becomes what the SDK would have sent', (t) => {
  const json = { a: 1, b: null, c: undefined, d: [], e: {}, f: ['x', { y: true }], g: { h: null } }
  t.strictSame(plain(paramsOf(json)), { a: '1', b: '', f: { 0: 'x', 1: { y: 'true' } }, g: { h: '' } })
  t.end()
})
