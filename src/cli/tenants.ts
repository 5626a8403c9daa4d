import { Value } from 'typebox/value'
import { openVault } from '../core.js'
import { NewTenantSchema, type TenantView } from '../models/dtos/tenant.dto.js'
import { makeTenantService, type TenantService } from '../services/tenant.service.js'
import { makeTenantSettingsService, parseSettingsPatch } from '../services/tenant-settings.service.js'
import { FIRST_KEY } from '../services/tenants.js'
import { actorFor, type Context, openForCommand } from './database.js'

const PAGE = 100

/** `lockstep tenants create <slug>`: prints the admin key of the new tenant, and nothing else, to stdout. */
export async function runTenantsCreate(context: Context, slug: string, { name }: { name: string }): Promise<number> {
  const input = { slug, name }
  if (!Value.Check(NewTenantSchema, input)) {
    process.stderr.write('A slug has 2 to 63 lower-case letters, digits and hyphens; a name 1 to 200 characters.\n')
    return 1
  }
  const tenants = await openTenants(context)
  const by = { tenantId: '', actor: 'cli', requestId: null, ip: null }
  const { tenant, adminKey } = await tenants.create(by, input)
  process.stderr.write(`Made the tenant ${tenant.slug}, ${tenant.id}. Its admin key, shown this once:\n`)
  process.stdout.write(`${adminKey}\n`)
  const { data: some } = await tenants.list({ limit: 3 })
  if (some.length === 2) {
    process.stderr.write(
      'There is a second tenant now: restart the API, so that Postgres’ row-level security keeps them apart too.\n',
    )
  }
  return 0
}

/** `lockstep tenants list`: a line for each tenant, newest first. */
export async function runTenantsList(context: Context): Promise<number> {
  const tenants = await openTenants(context)
  let cursor: string | null = null
  do {
    const page: Awaited<ReturnType<TenantService['list']>> = await tenants.list({
      limit: PAGE,
      ...(cursor === null ? {} : { cursor }),
    })
    for (const tenant of page.data) process.stdout.write(`${lineOf(tenant)}\n`)
    cursor = page.nextCursor
  } while (cursor !== null)
  return 0
}

/** `lockstep settings get`: the settings as JSON. */
export async function runSettingsGet(context: Context, { tenant }: { tenant?: string }): Promise<number> {
  const { db, prisma } = await openForCommand(context)
  const { tenantId } = await actorFor(db, tenant)
  print(await makeTenantSettingsService({ prisma }).get(tenantId))
  return 0
}

/**
 * `lockstep settings set <name> <value>`: changes one setting and prints all. The value is JSON, or a word that needs no quotes;
 * `null` brings the default back.
 */
export async function runSettingsSet(
  context: Context,
  name: string,
  value: string,
  { tenant }: { tenant?: string },
): Promise<number> {
  const patch = parseSettingsPatch({ [name]: jsonOr(value) })
  const { db, prisma } = await openForCommand(context)
  print(await makeTenantSettingsService({ prisma }).patch(await actorFor(db, tenant), patch))
  return 0
}

async function openTenants(context: Context): Promise<TenantService> {
  const { prisma, keys } = await openForCommand(context)
  const { cipher } = await openVault(context.config)
  return makeTenantService({
    prisma,
    cipher,
    platformLivemode: context.config.stripe.livemode,
    makeFirstKey: (tx, by) => keys.createWithin(tx, by, FIRST_KEY),
  })
}

function lineOf({ id, slug, name, stripe }: TenantView): string {
  const { status, mode, account } = stripe
  return [id, slug.padEnd(12), status, mode, account ?? '-', name].join('  ')
}

function jsonOr(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
}
