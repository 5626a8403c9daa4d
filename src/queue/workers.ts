import { setTimeout as sleep } from 'node:timers/promises'
import type { BaseLogger } from 'pino'
import type { QueueBackend } from './backend.js'
import type { Payloads, QueueName } from './queues.js'
import { locks, queueNames, queues } from './queues.js'

/**
 * What to do with a job. It may come twice, late or out of order. `signal` fires when the process is closing and cannot wait
 * any longer. To throw is to fail the job.
 */
export type Handlers = {
  [Name in QueueName]: (payload: Payloads[Name], signal: AbortSignal) => Promise<void>
}

/** Running workers. */
export interface Workers {
  /**
   * Takes no more jobs and lets those under way finish: for `patience` milliseconds by themselves, then, told by their
   * signal, for another second. What is still not done then is given up, and found again by another process.
   */
  close(options?: { patience?: number }): Promise<void>
}

/** What a job gets after its signal before it is given up, in milliseconds. */
const LAST_PATIENCE = 1_000

/** Starts a worker per queue. Errors of the queue's server are logged, and waited out. */
export function makeWorkers({
  backend,
  handlers,
  concurrency,
  log,
}: {
  backend: QueueBackend
  handlers: Handlers
  /** Reconcile jobs at once. */
  concurrency: number
  log: BaseLogger
}): Workers {
  const abort = new AbortController()

  const start = <Name extends QueueName>(name: Name) => {
    const rules = queues[name]
    const handle: Handlers[Name] = handlers[name]
    const worker = backend.openWorker(name, (job) => handle(job.data as Payloads[Name], abort.signal), {
      ...locks,
      concurrency: rules.concurrency === 'configured' ? concurrency : rules.concurrency,
      // Milliseconds until the server is asked again after it failed to answer.
      runRetryDelay: 1_000,
    })
    worker.on('failed', (job, error) => {
      if (!abort.signal.aborted) log.error({ err: error, queue: name, job: job?.data }, 'job failed')
    })
    worker.on('stalled', (jobId) => log.warn({ queue: name, jobId }, 'job of a process that is gone is taken up again'))
    return worker
  }
  const workers = queueNames.map(start)

  const close = async (patience: number) => {
    const finished = Promise.all(workers.map((worker) => worker.close()))
    const done = finished.then(() => true)
    const timer = new AbortController()
    const wait = (ms: number) => sleep(ms, false, { signal: timer.signal, ref: true }).catch(() => false)
    if (!(await Promise.race([done, wait(patience)]))) {
      abort.abort(new Error('The process is closing.'))
      if (!(await Promise.race([done, wait(LAST_PATIENCE)]))) {
        log.warn('gave up jobs that did not end in time; another process takes them up')
      }
    }
    timer.abort()
  }

  let closing: Promise<void> | undefined
  return {
    close: ({ patience = 10_000 } = {}) => {
      closing ??= close(patience)
      return closing
    },
  }
}
