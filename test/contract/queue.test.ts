import { randomUUID } from 'node:crypto'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import type { Test } from 'tap'
import t from 'tap'
import type { QueueBackend } from '../../src/queue/backend.js'
import { openQueueBackend } from '../../src/queue/backend.js'
import type { Producer } from '../../src/queue/producer.js'
import { makeProducer } from '../../src/queue/producer.js'
import type { Handlers, Workers } from '../../src/queue/workers.js'
import { makeWorkers } from '../../src/queue/workers.js'
import { cloneDatabase } from '../helpers/database.js'
import { testLog as log } from '../helpers/log.js'
import { eventually } from '../helpers/wait.js'

type OpenBackend = (t: Test) => Promise<QueueBackend>

interface Bench {
  producer: Producer
  /** Starts workers; handlers that are not given do nothing. */
  work(handlers: Partial<Handlers>, concurrency?: number): Workers
}

async function openBench(t: Test, openBackend: OpenBackend): Promise<Bench> {
  const backend = await openBackend(t)
  const producer = makeProducer(backend)
  const started: Workers[] = []
  t.teardown(async () => {
    for (const workers of started) await workers.close({ patience: 0 })
    await producer.close()
    await backend.close()
  })
  const idle = async () => {}
  return {
    producer,
    work: (handlers, concurrency = 4) => {
      const all = { reconcile: idle, reconciliation: idle, schedule: idle, ...handlers }
      const workers = makeWorkers({ backend, handlers: all, concurrency, log })
      started.push(workers)
      return workers
    },
  }
}

/** A door that handlers wait at until the test opens it. */
function makeDoor(): { wait: Promise<void>; open: () => void } {
  let open = () => {}
  const wait = new Promise<void>((resolve) => {
    open = resolve
  })
  return { wait, open }
}

function contract(t: Test, openBackend: OpenBackend): void {
  t.test('a user has one job under way and one waiting, at most', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const door = makeDoor()
    const [user, other] = [randomUUID(), randomUUID()]
    const runs: string[] = []
    let active = 0
    let together = 0
    await producer.enqueueReconcile([user, other, user])
    work({
      reconcile: async ({ userId }) => {
        runs.push(userId)
        if (userId === user) {
          active += 1
          together = Math.max(together, active)
          await door.wait
          active -= 1
        }
      },
    })
    await eventually(() => runs.length === 2, { what: 'both users are worked on' })
    for (let n = 0; n < 5; n += 1) await producer.enqueueReconcile([user])
    await sleep(50)
    t.equal(runs.filter((id) => id === user).length, 1, 'no second one beside the first')
    door.open()
    await eventually(() => runs.filter((id) => id === user).length === 2, { what: 'one more turn' })
    await eventually(async () => {
      const { reconcile } = await producer.counts()
      return reconcile.waiting + reconcile.active === 0
    })
    t.equal(runs.filter((id) => id === user).length, 2, 'five calls were one more turn')
    t.equal(together, 1)

    await producer.enqueueReconcile([user])
    await eventually(() => runs.filter((id) => id === user).length === 3, { what: 'the key is free again' })
  })

  t.test('what a person waits for goes before what a sweep found', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const door = makeDoor()
    const order: string[] = []
    work(
      {
        reconcile: async ({ userId }) => {
          order.push(userId)
          await door.wait
        },
      },
      1,
    )
    await producer.enqueueReconcile(['first'])
    await eventually(() => order.length === 1)
    await producer.enqueueReconcile(['background-1', 'background-2'], 'background')
    await producer.enqueueReconcile(['interactive-1', 'interactive-2'])
    t.same((await producer.counts()).reconcile, { waiting: 4, active: 1, delayed: 0, failed: 0 })
    door.open()
    await eventually(() => order.length === 5)
    t.same(order, ['first', 'interactive-1', 'interactive-2', 'background-1', 'background-2'])
  })

  t.test('an idle worker sees a job at once', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    let arrived = 0
    work({
      reconcile: async () => {
        arrived = performance.now()
      },
    })
    await producer.enqueueReconcile([randomUUID()])
    await eventually(() => arrived > 0)
    const waits: number[] = []
    for (let n = 0; n < 15; n += 1) {
      await sleep(20)
      arrived = 0
      const sent = performance.now()
      await producer.enqueueReconcile([randomUUID()])
      await eventually(() => arrived > 0, { interval: 1 })
      waits.push(arrived - sent)
    }
    waits.sort((a, b) => a - b)
    const median = waits[7] ?? Number.POSITIVE_INFINITY
    t.comment(`median ${median.toFixed(1)} ms, slowest ${waits.at(-1)?.toFixed(1)} ms`)
    t.ok(median < 50)
  })

  t.test('a job that throws frees its key and shows in the counts', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const user = randomUUID()
    let runs = 0
    work({
      reconcile: async () => {
        runs += 1
        if (runs === 1) throw new Error('The first one fails.')
      },
    })
    await producer.enqueueReconcile([user])
    await eventually(async () => (await producer.counts()).reconcile.failed === 1)
    await producer.enqueueReconcile([user])
    await eventually(() => runs === 2)
  })

  t.test('a run is queued once, and handed over by its id', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const seen: string[] = []
    await producer.enqueueRun('run-1')
    await producer.enqueueRun('run-1')
    await producer.enqueueRun('run-2')
    t.equal((await producer.counts()).reconciliation.waiting, 2)
    work({
      reconciliation: async ({ runId }) => {
        seen.push(runId)
      },
    })
    await eventually(() => seen.length === 2)
    t.same(seen, ['run-1', 'run-2'])
  })

  t.test('the crontab ticks, once per task, and follows its table', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const ticks: string[] = []
    work({
      schedule: async ({ task }) => {
        ticks.push(task)
      },
    })
    const schedules = [
      { task: 'often', every: 100 },
      { task: 'hourly', pattern: '0 * * * *' },
    ]
    await Promise.all([producer.ensureSchedules(schedules), producer.ensureSchedules(schedules)])
    await producer.ensureSchedules(schedules)
    await eventually(() => ticks.length >= 3)
    t.same([...new Set(ticks)], ['often'])

    await producer.ensureSchedules([{ task: 'hourly', pattern: '30 * * * *' }])
    await sleep(150)
    const soFar = ticks.length
    await sleep(300)
    t.equal(ticks.length, soFar, 'a task that left the table ticks no more')
    t.equal((await producer.counts()).schedule.delayed, 1, 'one tick waits for its hour')
  })

  t.test('closing waits for the jobs under way, and takes no more', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const door = makeDoor()
    const done: string[] = []
    let began = 0
    const workers = work(
      {
        reconcile: async ({ userId }) => {
          began += 1
          await door.wait
          done.push(userId)
        },
      },
      1,
    )
    await producer.enqueueReconcile(['first', 'second'])
    await eventually(() => began === 1)
    const closing = workers.close()
    await sleep(20)
    door.open()
    await closing
    t.same(done, ['first'])
    t.equal((await producer.counts()).reconcile.waiting, 1)
  })

  t.test('closing is bounded: a job that goes on too long is told, then given up', async (t) => {
    const { producer, work } = await openBench(t, openBackend)
    const told: boolean[] = []
    const workers = work({
      reconcile: async ({ userId }, signal) => {
        told.push(false)
        if (userId === 'obedient') {
          await sleep(60_000, undefined, { signal }).catch(() => {})
          told.push(signal.aborted)
        }
        // Not for ever, or it would hold up the teardown.
        else await sleep(2_500)
      },
    })
    await producer.enqueueReconcile(['obedient', 'deaf'])
    await eventually(() => told.length === 2)
    const began = performance.now()
    await workers.close({ patience: 50 })
    t.ok(performance.now() - began < 2_000)
    t.same(told, [false, false, true])
  })
}

t.test('on Postgres', async (t) => {
  const { url } = await cloneDatabase(t, { empty: true })
  let prefix = 0
  const openBackend: OpenBackend = () => {
    prefix += 1
    return openQueueBackend({ databaseUrl: url, prefix: `test${prefix}`, log })
  }
  contract(t, openBackend)

  t.test('says whether the server is there', async (t) => {
    const backend = await openBackend(t)
    await backend.ping()
    await backend.close()
    await t.rejects(openQueueBackend({ databaseUrl: 'postgresql://nobody@127.0.0.1:1/none', log }), {
      code: 'ECONNREFUSED',
    })
  })

  t.test('a server that is away while workers start is waited for', async (t) => {
    const { url } = await cloneDatabase(t)
    const server = new URL(url)
    const through = new URL(url)
    let isAway = false
    let refused = 0
    const open = new Set<Socket>()
    const door = createServer((client) => {
      if (isAway) refused += 1
      const upstream = isAway ? client.destroy() : connect(Number(server.port), server.hostname)
      for (const socket of [client, upstream]) {
        open.add(socket)
        socket.on('error', () => {})
        socket.on('close', () => {
          open.delete(socket)
          client.destroy()
          upstream.destroy()
        })
      }
      if (upstream !== client) client.pipe(upstream).pipe(client)
    })
    await new Promise<void>((resolve) => door.listen(0, '127.0.0.1', resolve))
    t.teardown(() => door.close())
    through.hostname = '127.0.0.1'
    through.port = String((door.address() as AddressInfo).port)
    const { producer, work } = await openBench(t, () => openQueueBackend({ databaseUrl: through.href, log }))

    isAway = true
    for (const socket of open) socket.destroy()
    await eventually(() => open.size === 0, { interval: 1 })
    const done: string[] = []
    work({
      reconcile: async ({ userId }) => {
        done.push(userId)
      },
    })
    await eventually(async () => refused > 0)
    isAway = false
    const user = randomUUID()
    await producer.enqueueReconcile([user])
    await eventually(async () => done.includes(user), { timeout: 20_000 })
  })

  t.test('several processes may start at once on an empty database', async (t) => {
    const fresh = await cloneDatabase(t, { empty: true })
    const backends = await Promise.all([1, 2, 3].map(() => openQueueBackend({ databaseUrl: fresh.url, log })))
    for (const backend of backends) await backend.close()
    t.equal(backends.length, 3)
  })
})

const redisUrl = process.env.TEST_REDIS_URL
t.test('on Redis', { skip: redisUrl ? false : 'TEST_REDIS_URL is not set and no Redis was found' }, async (t) => {
  const openBackend: OpenBackend = async (t) => {
    const prefix = `test-${randomUUID()}`
    t.teardown(async () => {
      const redis = new Redis(redisUrl ?? '')
      const keys = await redis.keys(`bull:${prefix}*`)
      if (keys.length > 0) await redis.del(...keys)
      redis.disconnect()
    })
    return openQueueBackend({ redisUrl, databaseUrl: '', prefix, log })
  }
  contract(t, openBackend)

  t.test('an emptied Redis loses only what is found again', async (t) => {
    // A database of its own, since it is flushed.
    const url = new URL(redisUrl ?? '')
    url.pathname = '/14'
    const backend = await openQueueBackend({ redisUrl: url.href, databaseUrl: '', log })
    const producer = makeProducer(backend)
    const door = makeDoor()
    const seen: string[] = []
    const ticks: string[] = []
    const workers = makeWorkers({
      backend,
      handlers: {
        reconcile: async ({ userId }) => {
          seen.push(userId)
          if (userId === 'under-way') await door.wait
        },
        reconciliation: async () => {},
        schedule: async ({ task }) => {
          ticks.push(task)
        },
      },
      concurrency: 1,
      log,
    })
    t.teardown(async () => {
      door.open()
      await workers.close({ patience: 0 })
      await producer.close()
      await backend.close()
    })
    const schedules = [{ task: 'often', every: 100 }]
    await producer.ensureSchedules(schedules)
    await producer.enqueueReconcile(['under-way', 'waiting'])
    await eventually(() => seen.includes('under-way') && ticks.length > 0)

    const admin = new Redis(url.href)
    await admin.flushdb()
    admin.disconnect()
    door.open()
    await sleep(300)
    const ticked = ticks.length
    t.notOk(seen.includes('waiting'), 'what waited is gone')

    await producer.ensureSchedules(schedules)
    await producer.enqueueReconcile(['waiting', 'under-way'])
    await eventually(() => seen.includes('waiting'), { what: 'the workers still work' })
    await eventually(() => seen.filter((id) => id === 'under-way').length === 2, { what: 'its key is free' })
    await eventually(() => ticks.length > ticked, { what: 'the crontab ticks again' })
  })

  t.test('rejects soon when Redis is away, instead of waiting for it', async (t) => {
    const backend = await openQueueBackend({ redisUrl: 'redis://127.0.0.1:1', databaseUrl: '', log })
    t.teardown(() => backend.close())
    await t.rejects(backend.ping())
  })
})
