import { Redis } from 'ioredis'
import t from 'tap'
import { makeRequestLimits } from '../../src/access/request-limits.js'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('a key has its share of a minute', async (t) => {
  const api = await openApi(t, () => ({ limits: makeRequestLimits({ perMinute: 3, redis: null }) }))
  for (const remaining of ['2', '1', '0']) {
    const { status, headers } = await api.call('GET', '/customers')
    t.equal(status, 200)
    t.equal(headers.get('ratelimit-limit'), '3')
    t.equal(headers.get('ratelimit-remaining'), remaining)
    t.match(headers.get('ratelimit-reset'), /^([1-9]|[1-5]\d|60)$/)
  }
  const before = await api.snapshot()
  const refused = await api.call('POST', '/customers', { body: { email: 'a@example.com' } })
  isProblem(t, refused, 429, 'rate_limited')
  t.equal(refused.headers.get('retry-after'), refused.headers.get('ratelimit-reset'))
  t.equal(await api.snapshot(), before)
  t.equal((await api.call('GET', '/customers', { key: api.keys.viewer })).status, 200, 'others have their own')
  t.equal((await api.call('GET', '/health/live', { key: null })).status, 200)
})

t.test('an address that tries keys is slowed down, and right keys from there are not', async (t) => {
  const api = await openApi(t)
  const answers = await Promise.all(
    Array.from({ length: 70 }, () => api.call('GET', '/customers', { key: 'lsk_aaaaaaaa_wrong' })),
  )
  t.equal(answers.filter(({ status }) => status === 401).length, 60)
  const refused = answers.find(({ status }) => status === 429)
  if (refused === undefined) throw new Error('none was refused')
  isProblem(t, refused, 429, 'rate_limited')
  t.equal(refused.headers.get('ratelimit-limit'), '60')
  t.equal(refused.headers.get('ratelimit-remaining'), '0')
  t.equal(refused.headers.get('retry-after'), refused.headers.get('ratelimit-reset'))
  t.equal((await api.call('GET', '/customers')).status, 200)
})

t.test('processes share a Redis', { skip: process.env.TEST_REDIS_URL === undefined && 'no Redis' }, async (t) => {
  const redis = new Redis(process.env.TEST_REDIS_URL ?? '')
  t.teardown(() => redis.disconnect())
  await redis.ping()
  const prefix = `test-${newId()}`
  const [one, other] = [1, 2].map(() => makeRequestLimits({ perMinute: 2, redis, prefix }))
  t.match(await one?.countRequest('key:a'), { remaining: 1, isExceeded: false })
  t.match(await other?.countRequest('key:a'), { remaining: 0, isExceeded: false })
  t.match(await one?.countRequest('key:a'), { remaining: 0, isExceeded: true })
  t.match(await one?.countRequest('key:b'), { remaining: 1, isExceeded: false })
})
