import { setTimeout as sleep } from 'node:timers/promises'
import { ADMIN_KEY } from './stage.js'

/** A run as the API shows it. */
export interface Run {
  id: string
  status: 'queued' | 'running' | 'succeeded' | 'failed'
  counts: Record<string, number>
  error: unknown
  startedAt: string | null
  finishedAt: string | null
}

const POLL_MS = 50

/** Asks a service for a sweep and waits until it is done; answers how long that took from the request on. */
export async function runSweep(
  port: number,
  onPoll: (run: Run) => Promise<void> | void = () => {},
  pollMs = POLL_MS,
): Promise<{ run: Run; seconds: number }> {
  const started = performance.now()
  let run = await ask(port, 'POST', '/reconciliations', { kind: 'sweep' })
  while (run.status === 'queued' || run.status === 'running') {
    await sleep(pollMs)
    run = await ask(port, 'GET', `/reconciliations/${run.id}`)
    await onPoll(run)
  }
  const seconds = (performance.now() - started) / 1000
  if (run.status === 'failed') throw new Error(`The sweep failed: ${JSON.stringify(run.error)}`)
  return { run, seconds }
}

async function ask(port: number, method: string, path: string, body?: object): Promise<Run> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method,
    headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`)
  return (await response.json()) as Run
}
