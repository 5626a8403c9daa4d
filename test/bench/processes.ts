import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../helpers/free-port.js'

const pathOf = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const CLI = pathOf('../../dist/cli.js')
const PEER = pathOf('peer/')
/** Where the peer is installed: among packages, so that no tool takes what it brings along for ours. */
const PEER_HOME = pathOf('../../node_modules/.cache/lockstep-bench-peer/')

/** A process under measurement. */
export interface Subject {
  pid: number
  port: number
  /** Memory that it holds at present, in bytes. */
  residentBytes(): Promise<number>
  stop(): Promise<void>
}

/** Starts a Node program that listens on `PORT` and is ready once its output says so. */
async function startProgram(
  args: readonly string[],
  env: Record<string, string>,
  ready: RegExp,
  cwd: string,
): Promise<Subject> {
  const port = await freePort()
  const child: ChildProcess = spawn(process.execPath, args, {
    env: { PATH: process.env.PATH, HOME: process.env.HOME, NODE_ENV: 'development', ...env, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd,
  })
  let said = ''
  await new Promise<void>((resolve, reject) => {
    const look = (chunk: Buffer) => {
      said = `${said}${chunk.toString()}`.slice(-20_000)
      if (ready.test(said)) resolve()
    }
    child.stdout?.on('data', look)
    child.stderr?.on('data', look)
    child.once('exit', (code) => reject(new Error(`${args.join(' ')} ended with ${code}:\n${said}`)))
  })
  const pid = child.pid ?? 0
  return {
    pid,
    port,
    async residentBytes() {
      // Linux says it in pages; elsewhere ps does.
      const statm = await readFile(`/proc/${pid}/statm`, 'utf8').catch(() => null)
      if (statm !== null) return Number(statm.split(' ')[1]) * 4096
      return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)]).toString()) * 1024
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGTERM')
      await once(child, 'exit')
    },
  }
}

/** The built service, or one of its commands. */
export function startLockstep(
  command: 'api' | 'worker' | 'start',
  env: Record<string, string>,
  cwd: string,
): Promise<Subject> {
  if (!existsSync(CLI)) throw new Error('dist/ is missing: npm run build')
  return startProgram([CLI, command], { LOG_LEVEL: 'warn', ...env }, /is running/, cwd)
}

/** The simulator as a process of its own. */
export async function startSimulator(args: readonly string[], cwd: string): Promise<Subject> {
  if (!existsSync(CLI)) throw new Error('dist/ is missing: npm run build')
  const port = await freePort()
  const subject = await startProgram([CLI, 'simulator', '--port', String(port), ...args], {}, /127\.0\.0\.1/, cwd)
  return { ...subject, port }
}

/** A program beside this file, in TypeScript. */
export function startHelper(file: string, env: Record<string, string>, cwd: string): Promise<Subject> {
  return startProgram(['--import', import.meta.resolve('tsx'), pathOf(file)], env, /ready/, cwd)
}

/** The peer, whose packages are installed when it is first needed. */
export function startPeer(file: string, env: Record<string, string>, cwd: string): Promise<Subject> {
  cpSync(PEER, PEER_HOME, { recursive: true })
  if (!existsSync(`${PEER_HOME}node_modules`)) {
    process.stderr.write('# installing the peer (once)\n')
    execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: PEER_HOME, stdio: 'ignore' })
  }
  return startProgram([`${PEER_HOME}${file}`], env, /ready/, cwd)
}
