import { type Db, makeDb } from '../repositories/database.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import { isolateTenants, openIsolatedPool } from '../repositories/isolation.js'
import { openPrisma } from '../repositories/prisma.js'
import { listTenants } from '../repositories/tenants.js'
import type { Wiring } from './services.js'

/** Database connections that requests of the API share in one process. */
const REQUEST_CONNECTIONS = 10

/** Puts row-level security behind the API; where the database does not let it, the code keeps the tenants apart alone. */
export async function isolate({
  core: { db },
  config: { rowSecurity },
  log,
}: Pick<Wiring, 'core' | 'config' | 'log'>): Promise<boolean> {
  if (rowSecurity === 'off' || (rowSecurity === 'auto' && (await listTenants(db)).length < 2)) return false
  const isIsolated = await isolateTenants(db)
  if (!isIsolated)
    log.warn('tenants are kept apart by the code alone: row-level security could not be set up; see README.md')
  return isIsolated
}

/** What requests about one tenant's data work on: each sees the rows of its own tenant only, whatever the code asks. */
export function openRequestPool({ core, log, lifecycle }: Wiring): { db: Db; prisma: PrismaClient } {
  const pool = openIsolatedPool(core.databaseUrl, {
    max: REQUEST_CONNECTIONS,
    name: 'lockstep api',
    onError: (error) => log.warn({ err: error.message }, 'a database connection broke'),
  })
  lifecycle.onClose('request pool', () => pool.end())
  const prisma = openPrisma(pool)
  lifecycle.onClose('request prisma', () => prisma.$disconnect())
  return { db: makeDb(pool), prisma }
}
