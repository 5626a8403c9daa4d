import type { Logger } from 'pino'
import type { Config } from '../config.js'
import { openDatabase } from '../core.js'
import type { Lifecycle } from '../lib/lifecycle.js'
import { type ChainHead, chainEntries, findChainEnds, GENESIS } from '../repositories/audit-chain.js'
import { trimAudit } from '../repositories/audit-trim.js'
import { type Db, makeDb, openPool } from '../repositories/database.js'
import { findTenantId, listTenants } from '../repositories/tenants.js'
import { verifyAudit } from '../services/audit-verification.js'

interface Context {
  config: Config
  log: Logger
  lifecycle: Lifecycle
}

/** Entries that one transaction removes: it holds them, and their chain, for a moment only. */
const TRIM_BATCH = 1_000

/** `lockstep audit head`: a line for each tenant, `<slug> <seq>:<hash>`, or with a tenant only `<seq>:<hash>`. */
export async function runAuditHead(context: Context, flags: { tenant?: string }): Promise<number> {
  const db = await openDb(context)
  // What was just written belongs under the head as well.
  while ((await chainEntries(db)).more);
  const tenants = await tenantsOf(db, flags.tenant)
  for (const { id, slug } of tenants) {
    const { head } = (await findChainEnds(db, id)) ?? { head: GENESIS }
    process.stdout.write(`${flags.tenant === undefined ? `${slug} ` : ''}${headText(head)}\n`)
  }
  return tenants.length > 0 ? 0 : unknownTenant(flags.tenant)
}

/** `lockstep audit verify`: holds the log of one tenant, or of all, against its chain. Exit code 1 when an entry is not what it was. */
export async function runAuditVerify(
  context: Context,
  flags: { tenant?: string; fromHead?: ChainHead },
): Promise<number> {
  const db = await openDb(context)
  const tenants = await tenantsOf(db, flags.tenant)
  if (tenants.length === 0) return unknownTenant(flags.tenant)
  if (flags.fromHead !== undefined && tenants.length > 1) {
    process.stderr.write('A head is of one tenant: name it by --tenant.\n')
    return 1
  }
  let code = 0
  for (const { id, slug } of tenants) {
    const { verified, unchained, checkpoint, trim, head, breach } = await verifyAudit(db, id, flags.fromHead ?? null)
    const begin =
      trim === null
        ? ''
        : ` from entry ${checkpoint.seq + 1} on, earlier ones were removed by ${trim.actor} at ${trim.at.toISOString()};`
    const older = flags.fromHead !== undefined && flags.fromHead.seq < checkpoint.seq
    process.stdout.write(
      `${slug}:${begin} ${verified} entries are what they were, ${unchained} not yet chained; head ${headText(head)}\n`,
    )
    if (older) process.stdout.write(`${slug}: the head you kept is from before that, and tells nothing any more\n`)
    if (breach === null) continue
    process.stdout.write(`${slug}: BROKEN at entry ${breach.seq} (${breach.kind}). ${breach.message}\n`)
    code = 1
  }
  return code
}

/** `lockstep audit trim`: removes entries from before a time; what is left stays verifiable, and the log says that it was done. */
export async function runAuditTrim(context: Context, flags: { tenant?: string; before: Date }): Promise<number> {
  const db = await openDb(context)
  const tenants = await tenantsOf(db, flags.tenant)
  if (tenants.length === 0) return unknownTenant(flags.tenant)
  for (const { id, slug } of tenants) {
    const removed = await trimAll(db, id, flags.before)
    process.stdout.write(`${slug}: ${removed} entries removed\n`)
  }
  return 0
}

async function trimAll(db: Db, tenantId: string, before: Date): Promise<number> {
  for (let total = 0; ; ) {
    const removed = await trimAudit(db, tenantId, before, 'cli', TRIM_BATCH)
    total += removed
    if (removed < TRIM_BATCH) return total
  }
}

function headText({ seq, hash }: ChainHead): string {
  return `${seq}:${hash.toString('hex')}`
}

async function tenantsOf(db: Db, name: string | undefined): Promise<{ id: string; slug: string }[]> {
  const tenants = await listTenants(db)
  if (name === undefined) return tenants
  const id = await findTenantId(db, name)
  return tenants.filter((tenant) => tenant.id === id)
}

function unknownTenant(name: string | undefined): number {
  process.stderr.write(`There is no tenant '${name ?? ''}': give its id or slug.\n`)
  return 1
}

async function openDb(context: Context): Promise<Db> {
  const pool = openPool(await openDatabase(context), { max: 2 })
  context.lifecycle.onClose('database pool', () => pool.end())
  return makeDb(pool)
}
