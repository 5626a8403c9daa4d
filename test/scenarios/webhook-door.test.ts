import t from 'tap'
import { eventually } from '../helpers/wait.js'
import { eventAbout, must, nowSeconds, openScene, PATIENCE, sign } from './scene.js'

t.setTimeout(580_000)

t.test('scenarios: who may bring events', async (t) => {
  const scene = await openScene(t)
  const { controls, newCustomer, quiet, deliver, eventsOf, rowOf, syncOf, storedEvents, metric } = scene
  const { webhookSecret: old, restart } = scene
  const lastStatus = () => controls.summary().recentDeliveries.at(-1)?.status
  const deliveryOf = (id: string) => controls.summary().recentDeliveries.find((delivery) => delivery.event === id)

  t.test('33. forged, old, garbled or huge: refused, never a 500, and nothing is stored', async (t) => {
    const { stripeId } = await newCustomer({ email: 'forged@example.com' })
    await quiet()
    const before = await storedEvents()
    const payload = JSON.stringify(eventAbout(scene.stripeOf(stripeId)))
    const now = nowSeconds()
    const [, good = ''] = sign(payload, old).split('v1=')
    const headers = {
      none: '',
      'an empty v1': `t=${now},v1=`,
      'only v0': `t=${now},v0=${good}`,
      'another secret': sign(payload, 'whsec_forged'),
      'another body': sign(`${payload} `, old),
      'half a signature': `t=${now},v1=${good.slice(0, 32)}`,
      // A header is bytes: fetch takes Latin-1.
      'not ASCII': `t=${now},v1=${'é'.repeat(64)}`,
      'no time': `v1=${good}`,
      'two times': `t=${now - 900},t=${now},v1=${good}`,
      'no number': `t=soon,v1=${good}`,
      'a huge number': `t=${'9'.repeat(400)},v1=${good}`,
      'a thousand signatures': `t=${now},${Array.from({ length: 200 }, () => `v1=${'0'.repeat(64)}`).join(',')}`,
      nonsense: ';;==,,',
      'ten minutes old': sign(payload, old, now - 600),
      'two months old': sign(payload, old, now - 60 * 86_400),
      'ten minutes ahead': sign(payload, old, now + 600),
      'years ahead': sign(payload, old, now + 1_000_000_000),
    }
    for (const [what, header] of Object.entries(headers)) {
      const answer = await deliver(JSON.parse(payload), { header })
      t.match(answer, { status: 400, body: { code: /^(bad_signature|timestamp_out_of_tolerance)$/ } }, what)
    }
    const bodies = ['', 'null', '[]', '{"id":', '"text"', '{}', JSON.stringify({ id: 'evt_1', object: 'event' })]
    for (const body of bodies) {
      t.match(await deliver(body), { status: 400 }, `well signed, but: ${body}`)
    }
    const huge = JSON.stringify({ padding: 'x'.repeat(3 * 1024 * 1024) })
    const refused = await deliver(huge).catch(() => null)
    // The connection may be closed before all of it has left.
    t.ok(refused === null || refused.status === 413, 'too large to be read at all')
    t.equal(await storedEvents(), before)
    t.equal(await metric('lockstep_webhook_deliveries_total{outcome="error"}'), 0)
    t.match(await deliver(JSON.parse(payload)), { status: 200 }, 'the true one is taken')
    t.equal(await storedEvents(), before + 1)
    await quiet()
  })

  t.test('34. a clock that is wrong: refused and measured; Stripe’s next try gets through', async (t) => {
    const { id, stripeId } = await newCustomer({ email: 'clock@example.com' })
    await quiet()
    // Ours is ten minutes ahead: every delivery looks old.
    controls.setDeliveryFaults({ timestampSkewSeconds: -600 })
    controls.updateCustomer(stripeId, { description: 'while the clock was wrong' })
    await eventually(() => lastStatus() === 400, PATIENCE)
    const skew = await metric('lockstep_webhook_clock_skew_seconds')
    t.ok(Math.abs(skew - 600) < 60, `an alert hangs on this figure: ${skew} s`)
    t.match(await rowOf(id), { description: null })
    controls.setDeliveryFaults()
    await quiet()
    t.match(await rowOf(id), { description: 'while the clock was wrong' }, 'tried again once it is right')

    // Ours is four minutes behind or ahead: taken. Ten minutes behind is refused too, or an old forgery could be dated ahead.
    const object = scene.stripeOf(stripeId)
    for (const seconds of [240, -240]) {
      t.match(await deliver(eventAbout(object), { timestamp: nowSeconds() + seconds }), { status: 200 })
    }
    t.match(await deliver(eventAbout(object), { timestamp: nowSeconds() + 600 }), {
      status: 400,
      body: { code: 'timestamp_out_of_tolerance' },
    })
    await quiet()
  })

  t.test(
    '32. the secret is rotated while events come: old, new or both, none is dropped; then the old one ends',
    async (t) => {
      const next = 'whsec_scenarios_next'
      const { id, stripeId } = await newCustomer({ email: 'rotate@example.com' })
      await quiet()
      await restart({ STRIPE_WEBHOOK_SECRET: `${next},${old}` })
      const payload = JSON.stringify(eventAbout(scene.stripeOf(stripeId)))
      const both = `${sign(payload, 'whsec_of_nobody')},v1=${sign(payload, old).split('v1=')[1]}`
      t.match(await deliver(JSON.parse(payload), { header: both }), { status: 200 }, 'of two signatures one is ours')
      for (const webhookSecret of [old, `${old},${next}`, `${next},${old}`, next]) {
        controls.changeSettings({ webhookSecret })
        controls.advanceClock(3_000)
        controls.updateCustomer(stripeId, { description: webhookSecret })
        await eventually(async () => (await rowOf(id)).description === webhookSecret, PATIENCE)
        // Asked of Stripe's side: after a restart the catch-up may store the event a moment before the webhook does.
        await eventually(() => deliveryOf(must(eventsOf(stripeId)[0]).id) !== undefined, PATIENCE)
        t.match(
          deliveryOf(must(eventsOf(stripeId)[0]).id),
          { attempt: 1, status: 200, delivered: true },
          `signed with ${webhookSecret}`,
        )
      }
      t.equal(await metric('lockstep_webhook_deliveries_total{outcome="bad_signature"}'), 0)

      await restart({ STRIPE_WEBHOOK_SECRET: next })
      await quiet()
      const before = await storedEvents()
      controls.changeSettings({ webhookSecret: old })
      controls.updateCustomer(stripeId, { description: 'signed with the old one' })
      await eventually(() => lastStatus() === 400, PATIENCE)
      t.equal(await storedEvents(), before, 'the old one alone counts for nothing any more')
      controls.changeSettings({ webhookSecret: next })
      await quiet()
      t.match(await rowOf(id), { description: 'signed with the old one' }, 'and nothing is lost')
      t.match(await syncOf(id), { status: 'in_sync', conflicts: [] })
      await restart({})
    },
  )
})
