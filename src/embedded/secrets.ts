import { randomBytes } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

async function readSecret(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** A random secret of `bytes` bytes, safe within URLs, headers and environment variables. */
export function randomSecret(bytes = 32): string {
  return randomBytes(bytes).toString('base64url')
}

/**
 * The secret called `name` of this data directory: read, or made once and kept in `<dataDir>/secrets/<name>` where only its
 * owner can read it. Processes that ask at the same time get the same one, and no reader sees half of it.
 *
 * @param make what makes it; default 32 random bytes, base64url.
 * @returns `created` says whether this very call made it.
 */
export async function loadOrCreateSecret(
  dataDir: string,
  name: string,
  make: () => string = randomSecret,
): Promise<{ value: string; created: boolean }> {
  const folder = join(dataDir, 'secrets')
  const path = join(folder, name)
  const found = await readSecret(path)
  if (found) return { value: found, created: false }

  await mkdir(folder, { recursive: true, mode: 0o700 })
  const value = make()
  const draft = `${path}.${process.pid}.${randomSecret(6)}`
  await writeFile(draft, `${value}\n`, { mode: 0o600, flag: 'wx' })
  try {
    // A hard link appears whole or, if another process was first, fails: unlike rename it never replaces.
    await link(draft, path)
    return { value, created: true }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    return { value: (await readSecret(path)) ?? value, created: false }
  } finally {
    await rm(draft, { force: true })
  }
}
