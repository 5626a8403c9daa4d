/**
 * Does the simulation see? `npm run simulate:mutants` breaks a copy of the service in each known way and lets the simulation
 * loose on it: each break must be found within 1,000 seeds. Prints a table; exit code 1 if one got away.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { startTestPostgres } from '../helpers/postgres-server.js'
import type { Violation } from './invariants.js'
import { MUTATIONS, type Mutation } from './mutations.js'

const { seeds, only } = new Command('simulate:mutants')
  .option('--seeds <n>', 'how many worlds each mutant is given', Number, 1_000)
  .option('--only <text>', 'only mutants whose name holds this text', '')
  .parse()
  .opts<{ seeds: number; only: string }>()

const root = fileURLToPath(new URL('../../', import.meta.url))
const say = (line: string) => process.stdout.write(`${line}\n`)

/** What the simulation reports. */
interface Report {
  done: number
  seconds: number
  failures: { seed: number; violations: Violation[] }[]
}

/** A copy of the project with one thing broken. */
function brokenCopy(mutation: Mutation): string {
  const folder = mkdtempSync(join(tmpdir(), 'lockstep-mutant-'))
  for (const part of ['src', 'prisma', 'test/helpers', 'test/simulation', 'package.json', 'tsconfig.json']) {
    cpSync(join(root, part), join(folder, part), { recursive: true })
  }
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  for (const { file, find, replace } of mutation.edits) {
    const path = join(folder, file)
    const parts = readFileSync(path, 'utf8').split(find)
    if (parts.length !== 2) throw new Error(`'${mutation.name}': ${file} holds ${parts.length - 1} times: ${find}`)
    writeFileSync(path, parts.join(replace))
  }
  return folder
}

async function simulate(folder: string, databaseUrl: string): Promise<Report> {
  const report = join(folder, 'report.json')
  const args = [
    '--import',
    'tsx',
    'test/simulation/main.ts',
    '--seeds',
    String(seeds),
    '--report',
    report,
    '--no-explain',
  ]
  const child = spawn(process.execPath, args, { cwd: folder, env: { ...process.env, TEST_DATABASE_URL: databaseUrl } })
  const output = Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = (await once(child, 'exit')) as [number | null]
  try {
    return JSON.parse(readFileSync(report, 'utf8')) as Report
  } catch {
    throw new Error(`the simulation ended with ${code}: ${(await output).join('')}`)
  }
}

const server = await startTestPostgres()
const survivors: string[] = []
try {
  say(`${'broken so that …'.padEnd(72)} found after   breaks`)
  for (const mutation of MUTATIONS.filter(({ name }) => name.includes(only))) {
    const folder = brokenCopy(mutation)
    try {
      const { done, failures } = await simulate(folder, server.url)
      const rules = [...new Set(failures.flatMap(({ violations }) => violations.map(({ rule }) => rule)))].sort()
      // A run that broke down by itself proves nothing.
      const broken = failures.find(({ violations }) => violations.some(({ rule }) => rule === 'harness'))
      if (broken !== undefined) say(`seed ${broken.seed}: ${broken.violations[0]?.what}`)
      if (failures.length === 0 || broken !== undefined) survivors.push(mutation.name)
      const found = failures.length === 0 ? 'NOT FOUND' : `${done} seeds`
      say(`${mutation.name.padEnd(72)} ${found.padEnd(13)} ${rules.map((rule) => `(${rule})`).join(' ')}`)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }
} finally {
  await server.close()
}
if (survivors.length > 0) {
  say(`\n${survivors.length} got away: ${survivors.join('; ')}`)
  process.exitCode = 1
}
