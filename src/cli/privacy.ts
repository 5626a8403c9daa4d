import { createWriteStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Logger } from 'pino'
import type { Config } from '../config.js'
import { openDatabase, openVault } from '../core.js'
import { systemClock } from '../lib/clock.js'
import { NotFoundError } from '../lib/errors.js'
import type { Lifecycle } from '../lib/lifecycle.js'
import type { RetentionRun } from '../models/retention.js'
import { makeDb, openPool } from '../repositories/database.js'
import { openPrisma } from '../repositories/prisma.js'
import { findTenant } from '../repositories/tenants.js'
import { makeCustomerService } from '../services/customer.service.js'
import { makePersonalExportService } from '../services/personal-export.service.js'
import { makeRetentionService } from '../services/retention.service.js'
import { actorFor } from './database.js'

interface Context {
  config: Config
  log: Logger
  lifecycle: Lifecycle
}

/** `lockstep privacy export <id>`: the personal export, to stdout or into a file that only its owner can read. */
export async function runPrivacyExport(
  context: Context,
  id: string,
  flags: { out?: string; tenant?: string },
): Promise<number> {
  const { db, vault, prisma, tenant } = await open(context, flags.tenant)
  const exports = makePersonalExportService({ db, vault, prisma, clock: systemClock })
  try {
    const pieces = await exports.open({ tenantId: tenant.id, actor: 'cli', requestId: null, ip: null }, id)
    const target = flags.out === undefined ? process.stdout : createWriteStream(flags.out, { flags: 'wx', mode: 0o600 })
    await pipeline(Readable.from(pieces), target, { end: flags.out !== undefined }).catch(
      (error: NodeJS.ErrnoException) => {
        // Whoever reads has read enough, such as `head`.
        if (flags.out !== undefined || error.code !== 'EPIPE') throw error
      },
    )
    return 0
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error
    process.stderr.write(`${error.message}\n`)
    return 1
  }
}

/** `lockstep retention`: the retention policies of a tenant, now. Exit code 1 if any part failed. */
export async function runRetention(
  context: Context,
  flags: { dryRun: boolean; json: boolean; tenant?: string },
): Promise<number> {
  const stop = new AbortController()
  const onSignal = () => stop.abort(new Error('interrupted'))
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  const { db, vault, prisma, tenant } = await open(context, flags.tenant)
  const customers = makeCustomerService({
    prisma,
    db,
    vault,
    // Who is erased is dirty in Postgres, where the service finds it.
    sync: { wake() {}, async reattach() {} },
    settingsOf: async () => tenant.settings,
    clock: systemClock,
  })
  const retention = makeRetentionService({ db, customers, clock: systemClock, log: context.log, async enqueue() {} })
  const request = { tenantId: tenant.id, trigger: 'cli', dryRun: flags.dryRun, requestedBy: 'cli' } as const
  const { id } = await retention.start(request)
  const run = await retention.execute(id, stop.signal)
  if (run === null) {
    process.stderr.write(
      `The run ${id} is under way elsewhere, or was interrupted; a running Lockstep goes on with it.\n`,
    )
    return 1
  }
  process.stdout.write(flags.json ? `${JSON.stringify(run)}\n` : linesOf(run))
  return run.status === 'succeeded' && run.results.every(({ failed }) => failed === 0) ? 0 : 1
}

async function open({ lifecycle, ...context }: Context, tenantName: string | undefined) {
  const pool = openPool(await openDatabase({ lifecycle, ...context }), { max: 6 })
  lifecycle.onClose('database pool', () => pool.end())
  const prisma = openPrisma(pool)
  lifecycle.onClose('prisma', () => prisma.$disconnect())
  const db = makeDb(pool)
  const { tenantId } = await actorFor(db, tenantName)
  const tenant = await findTenant(db, tenantId)
  if (tenant === null) throw new NotFoundError('tenant', tenantId)
  return { db, vault: await openVault(context.config), prisma, tenant }
}

function linesOf({ dryRun, results, error }: RetentionRun): string {
  const lines = results.map(({ policy, days, found, removed, kept, failed, customerIds }) => {
    const what = dryRun ? `${found - kept} to remove` : `${removed} removed`
    const rest = [kept > 0 ? `${kept} stay for now` : '', failed > 0 ? `${failed} FAILED` : ''].filter(Boolean)
    const ids = dryRun ? customerIds.map((id) => `\n  ${id}`).join('') : ''
    return `${policy}, after ${days} days: ${[what, ...rest].join(', ')}.${ids}`
  })
  if (results.length === 0 && error === null) lines.push('There is no retention policy, so nothing is removed.')
  if (error !== null) lines.push(`The run FAILED (${error.code}): ${error.message}`)
  return `${lines.join('\n')}\n`
}
