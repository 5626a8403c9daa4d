import fc from 'fast-check'
import Stripe from 'stripe'
import t from 'tap'
import { verifyDelivery } from '../../src/stripe/webhook-signature.js'

const NOW = 1_800_000_000
const TOLERANCE = 300
const secrets = ['whsec_new', 'whsec_old']
const event = {
  id: 'evt_1',
  type: 'customer.created',
  created: NOW,
  livemode: false,
  data: { object: { id: 'cus_1' } },
}

function sign(payload: string, { secret = 'whsec_new', timestamp = NOW } = {}): string {
  return Stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp })
}

function verify(header: string | undefined, body: string | Buffer = JSON.stringify(event), known = secrets) {
  const rawBody = typeof body === 'string' ? Buffer.from(body) : body
  return verifyDelivery({ rawBody, header, secrets: known, tolerance: TOLERANCE, now: NOW * 1000 })
}

t.test('any of the configured secrets may have signed, alone or beside another', async (t) => {
  const body = JSON.stringify(event)
  t.match(verify(sign(body)), { ok: true, event })
  t.match(verify(sign(body, { secret: 'whsec_old' })), { ok: true })
  const both = `${sign(body, { secret: 'whsec_gone' })},${sign(body, { secret: 'whsec_old' }).split(',')[1]}`
  t.match(verify(both), { ok: true }, 'while Stripe rotates, a header has several signatures')
  t.match(verify(sign(body, { secret: 'whsec_gone' })), { ok: false, reason: 'bad_signature' })
  t.match(verify(sign(body), body, []), { ok: false, reason: 'bad_signature' }, 'no secret is no pass')
})

t.test('the signature is over the very bytes', async (t) => {
  const body = JSON.stringify({ ...event, data: { object: { name: 'Zoë 😀' } } })
  t.match(verify(sign(body), body), { ok: true })
  t.match(verify(sign(body), `${body} `), { reason: 'bad_signature' })
  const bytes = Buffer.from(body)
  bytes[bytes.indexOf(0xc3)] = 0xff
  t.match(verify(sign(body), bytes), { reason: 'bad_signature' }, 'bytes that are no UTF-8')
})

t.test('a time too far off, either way', async (t) => {
  const body = JSON.stringify(event)
  for (const [offset, ok] of [
    [-301, false],
    [-300, true],
    [300, true],
    [301, false],
    [1_000_000_000, false],
  ] as const) {
    const verified = verify(sign(body, { timestamp: NOW + offset }))
    t.match(verified, ok ? { ok: true } : { ok: false, reason: 'timestamp_out_of_tolerance' }, `${offset} s`)
  }
})

t.test('how far the clocks are apart, where it can be believed', async (t) => {
  const body = JSON.stringify(event)
  t.match(verify(sign(body, { timestamp: NOW - 7 })), { ok: true, skew: 7 }, 'ours is ahead, or it took 7 s')
  t.match(verify(sign(body, { timestamp: NOW + 7 })), { ok: true, skew: -7 }, 'ours is behind')
  t.match(verify(sign(body, { timestamp: NOW + 900 })), { reason: 'timestamp_out_of_tolerance', skew: -900 })
  t.match(verify(sign('{}', { timestamp: NOW - 2 }), '{}'), { reason: 'unparsable_body', skew: 2 })
  t.match(verify(sign(body, { secret: 'whsec_strange', timestamp: NOW - 900 })), {
    reason: 'bad_signature',
    skew: null,
  })
  t.match(verify(`t=${NOW - 900},v1=${'0'.repeat(64)}`), { reason: 'bad_signature', skew: null })
})

t.test('an old delivery does not pass for a new one by a second time in its header', async (t) => {
  const old = sign(JSON.stringify(event), { timestamp: NOW - 86_400 })
  t.match(verify(`t=${NOW},${old}`), { ok: false, reason: 'bad_signature' })
  t.match(verify(`${old},t=${NOW}`), { ok: false, reason: 'bad_signature' })
})

t.test('a header that is none', async (t) => {
  const good = sign(JSON.stringify(event))
  const hex = good.split('v1=')[1] ?? ''
  const headers = [
    undefined,
    '',
    'v1=',
    `t=${NOW}`,
    `t=${NOW},v1=`,
    `t=${NOW},v1=${'é'.repeat(64)}`,
    `t=${NOW},v1=${'0'.repeat(64)}`,
    `t=${NOW},v0=${hex}`,
    `t=,v1=${hex}`,
    `t=NaN,v1=${hex}`,
    `v1=${hex}`,
    `T=${NOW},V1=${hex}`,
    `${good},${good}`,
    '[object Object]',
    ','.repeat(100_000),
    `t=${NOW},${'v1=0,'.repeat(50_000)}`,
    'x'.repeat(1_000_000),
  ]
  for (const header of headers)
    t.match(verify(header), { ok: false, reason: 'bad_signature' }, String(header?.slice(0, 40)))
})

t.test('signed, but no event', async (t) => {
  t.match(verify(sign(''), ''), { ok: false })
  const bodies = [
    'not json',
    'null',
    '[]',
    '"text"',
    '{}',
    '{"__proto__":{"id":"evt_1"}}',
    ...[
      { id: 1 },
      { id: 'evt_' },
      { id: "evt_1'; drop table users" },
      { id: `evt_${'x'.repeat(300)}` },
      { type: null },
      { created: '1' },
      { created: 1.5 },
      { created: -1 },
      { created: Number.MAX_SAFE_INTEGER },
      { livemode: 'no' },
      { data: null },
      { data: {} },
      { data: { object: null } },
      { data: { object: 'cus_1' } },
    ].map((part) => JSON.stringify({ ...event, ...part })),
    // Far deeper than any event: it could be stored, but nothing that recurses gets through it.
    `${JSON.stringify(event).slice(0, -1)},"x":${'['.repeat(20_000)}${']'.repeat(20_000)}}`,
  ]
  for (const body of bodies)
    t.match(verify(sign(body), body), { ok: false, reason: 'unparsable_body' }, body.slice(0, 60))
  const huge = JSON.stringify({ ...event, data: { object: { name: 'x'.repeat(2_000_000) } } })
  t.match(verify(sign(huge), huge), { ok: true }, 'size is for the server to bound')
})

t.test('never throws, and takes nothing unsigned', async () => {
  const header = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc
      .array(fc.tuple(fc.constantFrom('t', 'v1', 'v0', ''), fc.string()), { maxLength: 4 })
      .map((parts) => parts.map(([key, value]) => `${key}=${value}`).join(',')),
  )
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 50 }), header, (body, text) => !verify(text, Buffer.from(body)).ok),
    { numRuns: 500 },
  )
})
