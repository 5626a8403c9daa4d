import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../helpers/free-port.js'
import { answers } from '../helpers/redis.js'
import type { Stage } from './stage.js'

const TRIES = 100

/** The Redis that `REDIS_URL` names, else a throw-away one where `redis-server` is installed, durable as Redis is by default; else null. */
export async function findRedis(stage: Stage): Promise<string | null> {
  if (process.env.REDIS_URL) return process.env.REDIS_URL
  if (spawnSync('redis-server', ['--version']).status !== 0) return null
  const port = await freePort()
  const server = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1'], {
    stdio: 'ignore',
    cwd: stage.folder,
  })
  stage.later(async () => {
    if (server.exitCode !== null) return
    server.kill('SIGTERM')
    await once(server, 'exit')
  })
  const url = `redis://127.0.0.1:${port}`
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    if (await answers(url)) return url
    await sleep(50)
  }
  return null
}
