import type { Core } from '../core.js'
import type { Tenant } from '../models/tenant.js'
import { listConnectedTenants } from '../repositories/tenants.js'

/** At each start the events of the time without us are read, of every tenant that has an account. */
export async function startFirstRuns(core: Core): Promise<void> {
  for (const tenant of await listConnectedTenants(core.db)) await startRunsOf(core, tenant, 'start')
}

/** Reads what was missed; before anything else is known, all of Stripe. */
export async function startRunsOf({ runs }: Core, tenant: Tenant, trigger: 'start' | 'api'): Promise<void> {
  const request = { tenantId: tenant.id, dryRun: false, trigger, requestedBy: null } as const
  await runs.start({ ...request, kind: 'catch_up' })
  if (tenant.sweptAt === null) await runs.start({ ...request, kind: 'sweep' })
}
