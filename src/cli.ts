#!/usr/bin/env node
import { existsSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import closeWithGrace from 'close-with-grace'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { Logger } from 'pino'
import type { Roles } from './app.js'
import type { runAuditVerify } from './cli/audit.js'
import type { ExportFlags } from './cli/export.js'
import type { ImportFlags } from './cli/import.js'
import type { runKeysCreate } from './cli/keys.js'
import type { SimulatorFlags } from './cli/simulator.js'
import type { Config } from './config.js'
import { LockstepError } from './lib/errors.js'
import { type Lifecycle, makeLifecycle } from './lib/lifecycle.js'
import { VERSION } from './lib/version.js'
import { FILE_FORMATS, ON_MATCH } from './models/import.js'
import { isPermission, PERMISSIONS, type Permission, ROLES } from './models/roles.js'

/** How long a process that was told to stop may take before it is ended by force, in milliseconds. */
const CLOSE_PATIENCE_MS = 15_000

/** What a command runs with. */
interface Context {
  config: Config
  log: Logger
  lifecycle: Lifecycle
}

function integer(minimum: number): (value: string) => number {
  return (value) => {
    const number = Number(value)
    if (!Number.isInteger(number) || number < minimum)
      throw new InvalidArgumentError(`Not a whole number from ${minimum} on.`)
    return number
  }
}

function permission(value: string, earlier: Permission[] = []): Permission[] {
  if (!isPermission(value)) throw new InvalidArgumentError(`It must be one of ${PERMISSIONS.join(', ')}.`)
  return [...earlier, value]
}

function futureTime(value: string): Date {
  const time = new Date(value)
  if (!(time.getTime() > Date.now()))
    throw new InvalidArgumentError('It must be a time to come, such as 2027-01-31T00:00:00Z.')
  return time
}

/** A head as `lockstep audit head` prints it: `<seq>:<hash in hex>`. */
function head(value: string): { seq: number; hash: Buffer } {
  const [, seq = '', hash = ''] = /^(\d{1,15}):([0-9a-f]{64})$/i.exec(value.trim()) ?? []
  if (seq === '') throw new InvalidArgumentError('It must be what `lockstep audit head` printed: <seq>:<hash>.')
  return { seq: Number(seq), hash: Buffer.from(hash, 'hex') }
}

function pastTime(value: string): Date {
  const time = new Date(value)
  if (!(time.getTime() <= Date.now()))
    throw new InvalidArgumentError('It must be a time that has passed, such as 2025-01-31T00:00:00Z.')
  return time
}

/**
 * Reads the configuration and runs `work`; whatever was opened is closed again, also when it throws.
 *
 * @param isQuiet a command for people, who want its result: what is merely informative is not logged
 */
async function withContext(work: (context: Context) => Promise<number>, isQuiet = false): Promise<void> {
  if (existsSync('.env')) process.loadEnvFile('.env')
  const [{ readConfig }, { makeLogger }] = await Promise.all([import('./config.js'), import('./lib/log.js')])
  const config = readConfig()
  const log = makeLogger(isQuiet && config.logLevel === 'info' ? 'warn' : config.logLevel)
  const lifecycle = makeLifecycle((name, error) => log.error({ err: error }, `could not close ${name}`))
  try {
    process.exitCode = await work({ config, log, lifecycle })
  } finally {
    const failures = await lifecycle.close()
    if (failures.length > 0) process.exitCode = 1
  }
}

/**
 * Keeps a worker small, of which there may be many. V8 is to collect garbage when the heap has grown by a fifth, not when it is several
 * times what lives in it: a sweep makes much garbage. And the young generation is not to grow while modules are loaded, which
 * would leave it 30 MB that an idle worker has no use for; a sweep may, as it would else collect all the time.
 *
 * @returns to be called when all is loaded
 */
function keepHeapSmall(): () => void {
  setFlagsFromString('--heap-growing-percent=20')
  setFlagsFromString('--semi-space-growth-factor=1')
  return () => setFlagsFromString('--semi-space-growth-factor=2')
}

/** Runs the service until a signal; the first closes it in order, a second ends it at once. */
async function serve(roles: Roles, onStarted: () => void = () => {}): Promise<void> {
  await withContext(async ({ config, log, lifecycle }) => {
    const stopped = new Promise<void>((resolve, reject) => {
      closeWithGrace({ delay: CLOSE_PATIENCE_MS, logger: false, skip: ['beforeExit'] }, async ({ signal, err }) => {
        if (err === undefined) {
          log.info({ signal }, 'stopping')
          resolve()
        } else {
          log.fatal({ err }, 'unexpected error; stopping')
          reject(err)
        }
        await lifecycle.close()
      })
    })
    const { startApp } = await import('./app.js')
    const app = await startApp({ config, log, lifecycle, roles })
    const { banner } = await import('./cli/banner.js')
    onStarted()
    process.stdout.write(banner(app, config))
    await stopped
    return 0
  })
}

const program = new Command('lockstep')
  .description('Keeps the users table of an application and its Stripe customers in step, both ways.')
  .version(VERSION)
  .showHelpAfterError()
  .addHelpText(
    'after',
    '\nSettings are environment variables; README.md lists them. A file `.env` in this folder is read.',
  )

program
  .command('start')
  .description('run the API and a worker, with all that is not configured embedded: Postgres, queue, Stripe simulator')
  .action(() => serve({ api: true, worker: true }))
program
  .command('api')
  .description('run the API without a worker')
  .action(() => serve({ api: true, worker: false }))
program
  .command('worker')
  .description('run a worker without the API')
  .action(() => serve({ api: false, worker: true }, keepHeapSmall()))

program
  .command('migrate')
  .description('bring the database to the schema of this release')
  .action(() =>
    withContext(async (context) => {
      await (await import('./core.js')).openDatabase(context)
      process.stdout.write('The database is up to date.\n')
      return 0
    }, true),
  )

program
  .command('database-url')
  .description('print the connection string of the database, for psql and the like; it holds the password')
  .action(() =>
    withContext(async ({ config }) => {
      const attach = async () => (await import('./embedded/postgres.js')).attachEmbeddedPostgres(config.dataDir)
      const url = config.databaseUrl ?? (await attach())
      process.stdout.write(url === null ? '' : `${url}\n`)
      if (url === null) process.stderr.write('The embedded Postgres does not run; it does while `npm start` does.\n')
      return url === null ? 1 : 0
    }, true),
  )

program
  .command('reconcile')
  .description('compare every user and every Stripe customer, and bring those that differ into step')
  .option('--dry-run', 'only count what differs; change nothing', false)
  .option('--catch-up', 'only read the events that the webhook missed, instead of everything', false)
  .option('--json', 'print the result as JSON', false)
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .addHelpText('after', '\nExits with 0 when all of it got through, else with 1.')
  .action((flags: { dryRun: boolean; catchUp: boolean; json: boolean; tenant?: string }) =>
    withContext(async (context) => (await import('./cli/reconcile.js')).runReconcile(context, flags), true),
  )

program
  .command('import [file]')
  .description('import customers from a file, `-` for stdin, straight into the database')
  .option('--tenant <tenant>', 'whose customers they are: id or slug', 'default')
  .addOption(new Option('--format <format>', 'how the file is written; its name tells').choices(FILE_FORMATS))
  .addOption(
    new Option('--on-match <what>', 'what becomes of a line whose customer is there').choices(ON_MATCH).default('skip'),
  )
  .option('--dry-run', 'only say what would happen; change nothing', false)
  .option('--errors <report.ndjson>', 'write there why lines were refused')
  .addOption(
    new Option(
      '--resume <id>',
      'go on with an import that was interrupted, with the same file, and as it was begun: the other options of then hold',
    ).conflicts(['dryRun', 'onMatch']),
  )
  .option('--cancel <id>', 'end an import, wherever it is at work; no file goes with it')
  .option('--json', 'print the result as JSON', false)
  .addHelpText('after', '\nExits with 0 when every line got through, else with 1.')
  .action((file: string | undefined, { cancel, ...flags }: ImportFlags & { cancel?: string }, command: Command) => {
    if (cancel !== undefined)
      return withContext(
        async (context) => (await import('./cli/import.js')).runImportCancel(context, cancel, flags),
        true,
      )
    if (file === undefined) return command.error("error: missing required argument 'file'")
    return withContext(async (context) => (await import('./cli/import.js')).runImport(context, file, flags), true)
  })
program
  .command('export')
  .description('write customers to a file or stdout, in the form that `import` reads')
  .option('--tenant <tenant>', 'whose customers: id or slug', 'default')
  .addOption(new Option('--format <format>', 'csv, or what the name of --out tells').choices(FILE_FORMATS))
  .option('--out <file>', 'where to; stdout without it')
  .addOption(
    new Option('--state <state>', 'only these; active ones without it').choices([
      'active',
      'archived',
      'erased',
      'any',
    ]),
  )
  .action((flags: ExportFlags) =>
    withContext(async (context) => (await import('./cli/export.js')).runExport(context, flags), true),
  )

program
  .command('retention')
  .description('remove what the retention policies of a tenant say, now; it is done daily anyway')
  .option('--dry-run', 'only say what would be removed', false)
  .option('--json', 'print the result as JSON', false)
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .addHelpText('after', '\nExits with 0 when all of it got through, else with 1.')
  .action((flags: { dryRun: boolean; json: boolean; tenant?: string }) =>
    withContext(async (context) => (await import('./cli/privacy.js')).runRetention(context, flags), true),
  )

const privacy = program.command('privacy').description('what is held about people')
privacy
  .command('export <id>')
  .description('all that is held about a customer, as one JSON file')
  .option('--out <file>', 'write it there, where no file may be yet, instead of printing it')
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .action((id: string, flags: { out?: string; tenant?: string }) =>
    withContext(async (context) => (await import('./cli/privacy.js')).runPrivacyExport(context, id, flags), true),
  )

program
  .command('simulator')
  .description('run a stateful Stripe for development and tests')
  .option('--port <port>', 'where to listen; 0 takes a free port', integer(0), 12111)
  .option('--host <host>', 'which address to listen on', '127.0.0.1')
  .option('--customers <n>', 'start with this many customers', integer(0), 0)
  .option('--created-span <seconds>', 'spread their creation over this many seconds before now', integer(1))
  .option('--latency <ms>', 'answer each call after this long', integer(0), 0)
  .option('--rate-limit <per second>', 'answer 429 beyond this many calls a second', integer(1))
  .option('--webhook-url <url>', 'deliver signed events there')
  .option('--webhook-secret <secret>', 'sign them with this; several, separated by commas, sign together')
  .option('--data-dir <folder>', 'keep the state there; without it, it ends with the process')
  .action(async (flags: SimulatorFlags) => {
    const { runSimulator } = await import('./cli/simulator.js')
    await runSimulator(flags, (close) => {
      closeWithGrace({ delay: CLOSE_PATIENCE_MS, logger: false, skip: ['beforeExit'] }, close)
    })
  })

const keys = program.command('keys').description('manage API keys')
keys
  .command('create')
  .description('make an API key and print it, once')
  .requiredOption('--name <name>', 'what it is for')
  .addOption(new Option('--role <role>', 'what it may do').choices(ROLES).default('viewer'))
  .option('--scope <permission...>', 'of the role only these permissions', permission)
  .option('--expires <time>', 'when it ends by itself, ISO 8601', futureTime)
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .action((flags: Parameters<typeof runKeysCreate>[1]) =>
    withContext(async (context) => (await import('./cli/keys.js')).runKeysCreate(context, flags), true),
  )
keys
  .command('list')
  .description('show the keys of a tenant, newest first: id, prefix, state, role, last use, name')
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .action((flags: { tenant?: string }) =>
    withContext(async (context) => (await import('./cli/keys.js')).runKeysList(context, flags), true),
  )
keys
  .command('revoke <id>')
  .description('end a key; it works for a second more at most')
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .action((id: string, flags: { tenant?: string }) =>
    withContext(async (context) => (await import('./cli/keys.js')).runKeysRevoke(context, id, flags), true),
  )

const tenants = program.command('tenants').description('manage the tenants of this installation')
tenants
  .command('create <slug>')
  .description('make a tenant and print its admin key, once')
  .requiredOption('--name <name>', 'what people call it')
  .action((slug: string, flags: { name: string }) =>
    withContext(async (context) => (await import('./cli/tenants.js')).runTenantsCreate(context, slug, flags), true),
  )
tenants
  .command('list')
  .description('show the tenants, newest first: id, slug, how it stands with Stripe, mode, account, name')
  .action(() => withContext(async (context) => (await import('./cli/tenants.js')).runTenantsList(context), true))

const settings = program.command('settings').description('what a tenant decided about its sync')
settings
  .command('get')
  .description('print the settings as JSON')
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .action((flags: { tenant?: string }) =>
    withContext(async (context) => (await import('./cli/tenants.js')).runSettingsGet(context, flags), true),
  )
settings
  .command('set <name> <value>')
  .description('change one; the value is JSON or a plain word, null brings the default back')
  .option('--tenant <slug>', 'of this tenant, instead of the default one')
  .action((name: string, value: string, flags: { tenant?: string }) =>
    withContext(
      async (context) => (await import('./cli/tenants.js')).runSettingsSet(context, name, value, flags),
      true,
    ),
  )

program
  .command('rotate-encryption')
  .description('seal with the first of LOCKSTEP_ENCRYPTION_KEY what the others sealed; the service may run meanwhile')
  .option('--dry-run', 'only count what is to be sealed anew', false)
  .addHelpText('after', '\nExits with 0 when all of it is sealed with the first key, else with 1. Safe to repeat.')
  .action((flags: { dryRun: boolean }) =>
    withContext(
      async (context) => (await import('./cli/rotate-encryption.js')).runRotateEncryption(context, flags),
      true,
    ),
  )

const audit = program.command('audit').description('prove that the audit log is what it was')
audit
  .command('head')
  .description('print the end of the chain, <seq>:<hash>, to be kept elsewhere: it reveals a log that was rewritten')
  .option('--tenant <id or slug>', 'of this tenant only')
  .action((flags: { tenant?: string }) =>
    withContext(async (context) => (await import('./cli/audit.js')).runAuditHead(context, flags), true),
  )
audit
  .command('verify')
  .description('go through the log and name the first entry that was changed, removed, inserted or moved')
  .option('--tenant <id or slug>', 'of this tenant only')
  .option('--from-head <seq:hash>', 'also hold it against this head, which was kept elsewhere', head)
  .addHelpText('after', '\nExits with 0 when every entry is what it was, else with 1.')
  .action((flags: Parameters<typeof runAuditVerify>[1]) =>
    withContext(async (context) => (await import('./cli/audit.js')).runAuditVerify(context, flags), true),
  )
audit
  .command('trim')
  .description('remove entries from before a time; the rest stays verifiable, and the log says so')
  .requiredOption('--before <time>', 'ISO 8601', pastTime)
  .option('--tenant <id or slug>', 'of this tenant only')
  .action((flags: { tenant?: string; before: Date }) =>
    withContext(async (context) => (await import('./cli/audit.js')).runAuditTrim(context, flags), true),
  )

try {
  await program.parseAsync()
} catch (error) {
  const isOurs = error instanceof LockstepError
  process.stderr.write(`lockstep: ${isOurs ? error.message : error instanceof Error ? error.stack : String(error)}\n`)
  process.exitCode = 1
}
