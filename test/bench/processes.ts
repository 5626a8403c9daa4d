import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
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
  /** Ends it in order. */
  stop(): Promise<void>
  /** Ends it at once: what it still has to do would take as long as a limit has it. */
  kill(): Promise<void>
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
  const end = async (signal: 'SIGTERM' | 'SIGKILL') => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill(signal)
    await once(child, 'exit')
  }
  return {
    pid,
    port,
    async residentBytes() {
      // Linux says it in pages; elsewhere ps does.
      const statm = await readFile(`/proc/${pid}/statm`, 'utf8').catch(() => null)
      if (statm !== null) return Number(statm.split(' ')[1]) * 4096
      return Number(execFileSync('ps', ['-o', 'rss=', '-p', String(pid)]).toString()) * 1024
    },
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
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

/** The simulator as a process of its own; its port is the subject's. */
export async function startSimulatorProcess(args: readonly string[], cwd: string): Promise<Subject> {
  if (!existsSync(CLI)) throw new Error('dist/ is missing: npm run build')
  const port = await freePort()
  const subject = await startProgram([CLI, 'simulator', '--port', String(port), ...args], {}, /127\.0\.0\.1/, cwd)
  return { ...subject, port }
}

/** A program beside this file, in TypeScript. */
export function startHelper(file: string, env: Record<string, string>, cwd: string): Promise<Subject> {
  return startProgram(['--import', import.meta.resolve('tsx'), pathOf(file)], env, /ready/, cwd)
}

/** A program of the peers, whose packages are installed when they are first needed, and anew when others are asked for. */
export function startPeer(file: string, env: Record<string, string>, cwd: string): Promise<Subject> {
  const installed = `${PEER_HOME}node_modules/.installed-from`
  const wanted = readFileSync(`${PEER}package-lock.json`, 'utf8')
  cpSync(PEER, PEER_HOME, { recursive: true })
  if (!existsSync(installed) || readFileSync(installed, 'utf8') !== wanted) {
    process.stderr.write('# installing the peers (once)\n')
    execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: PEER_HOME, stdio: 'ignore' })
    writeFileSync(installed, wanted)
  }
  return startProgram([`${PEER_HOME}${file}`], env, /ready/, cwd)
}
