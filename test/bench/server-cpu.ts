import { readdir, readFile } from 'node:fs/promises'
import { Redis } from 'ioredis'
import type pg from 'pg'

/** A tick of `/proc/<pid>/stat`, in milliseconds: 100 a second on every Linux that Node runs on. */
const TICK_MS = 10

/** How much CPU time Postgres and its backends have used, in milliseconds; null where that cannot be seen: not Linux, or not here. */
export async function postgresCpuMs(pool: pg.Pool): Promise<number | null> {
  const { rows } = await pool.query<{ file: string }>("select pg_read_file('postmaster.pid') as file")
  const pid = Number(rows[0]?.file.split('\n')[0])
  const processes = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name))
  const all = (await Promise.all(processes.map(readStat))).filter((stat) => stat !== null)
  const postmaster = all.find((stat) => stat.pid === pid)
  if (postmaster === undefined) return null
  const children = all.filter((stat) => stat.parent === pid)
  return children.reduce((sum, stat) => sum + stat.own, postmaster.own + postmaster.ended) * TICK_MS
}

/** How much CPU time a Redis has used, in milliseconds. */
export async function redisCpuMs(url: string): Promise<number> {
  const redis = new Redis(url)
  try {
    const info = await redis.info('cpu')
    const seconds = ['used_cpu_sys', 'used_cpu_user'].map((name) =>
      Number(new RegExp(`^${name}:(.+)$`, 'm').exec(info)?.[1]),
    )
    return seconds.reduce((sum, value) => sum + value, 0) * 1000
  } finally {
    redis.disconnect()
  }
}

/** Ticks of a process, and of its children that have ended: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
async function readStat(pid: string): Promise<{ pid: number; parent: number; own: number; ended: number } | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null)
  if (text === null) return null
  // The name, in brackets, may hold anything.
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number)
  const [parent = 0, user = 0, system = 0, endedUser = 0, endedSystem = 0] = [1, 11, 12, 13, 14].map((n) => fields[n])
  return { pid: Number(pid), parent, own: user + system, ended: endedUser + endedSystem }
}
