import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'

/**
 * A process of its own that runs TypeScript from `src`. It stays out of the coverage: another compiler than that of the
 * tests compiles it, and coverage of one file by two source maps does not fit together.
 *
 * @param args what follows `node`: a file and its arguments, or `--eval` and a script
 */
export function spawnSource(
  args: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, ['--import', 'tsx', ...args], {
    env: { ...env, _TAPJS_PROCESSINFO_COV_EXCLUDE_: '/./' },
  })
}
