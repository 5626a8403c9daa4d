import { readFileSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { LockstepError } from '../lib/errors.js'

/** How long one process may hold a lock while others wait for it, in milliseconds. */
const LOCK_PATIENCE = 60_000

/** Whether a process with this id exists, whoever owns it. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/**
 * The id of a process with what tells it from a later process of the same id: ids start again after a reboot, and a
 * container's main process has the same one each time. Where there is no /proc it is the bare id.
 */
function identityOf(pid: number): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The 22nd field, starttime; counted from the last parenthesis, since the name before it may hold spaces.
    const started = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
    return `${pid} ${boot} ${started}`
  } catch {
    return String(pid)
  }
}

function isSameProcess(identity: string): boolean {
  const pid = Number.parseInt(identity, 10)
  return pid > 0 && isAlive(pid) && identityOf(pid) === identity.trim()
}

/** Runs `task` while no other live process runs one under the same lock file. A dead holder's lock is taken over. */
export async function withFileLock<T>(path: string, task: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + LOCK_PATIENCE
  for (;;) {
    try {
      const file = await open(path, 'wx', 0o600)
      await file.writeFile(identityOf(process.pid))
      await file.close()
      break
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const holder = await readFile(path, 'utf8').catch(() => '')
      // An empty file is a lock being written, unless it stays so.
      const isStale = holder === '' ? Date.now() > deadline - LOCK_PATIENCE + 2_000 : !isSameProcess(holder)
      if (isStale) await rm(path, { force: true })
      else if (Date.now() > deadline) {
        throw new LockstepError(
          `Process ${Number.parseInt(holder, 10)} has held ${path} for a minute. Wait for it or end it, then start again.`,
          { code: 'embedded_postgres_locked', retryable: true },
        )
      } else await sleep(25)
    }
  }
  try {
    return await task()
  } finally {
    await rm(path, { force: true })
  }
}

/**
 * Enters this process in a folder that lists the users of something shared.
 *
 * @param entry tells several uses by one process apart.
 * @returns `leave` takes the entry back and says whether no live process is left; entries of the dead do not count.
 */
export async function joinUsers(folder: string, entry: string): Promise<{ leave(): Promise<{ last: boolean }> }> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const path = join(folder, `${process.pid}.${entry}`)
  await writeFile(path, identityOf(process.pid), { mode: 0o600 })
  return {
    leave: async () => {
      await rm(path, { force: true })
      const names = await readdir(folder).catch(() => [])
      let last = true
      for (const name of names) {
        const other = join(folder, name)
        const identity = await readFile(other, 'utf8').catch(() => '')
        if (isSameProcess(identity)) last = false
        else await rm(other, { force: true })
      }
      return { last }
    },
  }
}
