/** The ceiling of the API rows: Fastify and pg that run the same statements, without auth, checks, audit rules or Prisma. */
import Fastify from 'fastify'
import pg from 'pg'
import { newId } from '../../src/lib/ids.js'

const { DATABASE_URL, PORT } = process.env
const pool = new pg.Pool({ connectionString: DATABASE_URL ?? '', max: 24 })
const { rows: tenants } = await pool.query<{ id: string }>("select id from tenants where slug = 'default'")
const tenantId = tenants[0]?.id

const READ = {
  name: 'read',
  text: `select u.id, u.tenant_id as "tenantId", u.type, u.state, u.email, u.phone, u.first_name as "firstName",
    u.last_name as "lastName", u.description, u.locale, u.address, u.shipping, u.metadata, u.billing,
    u.stripe_customer_id as "stripeCustomerId", u.revision, u.archived_at as "archivedAt", u.created_at as "createdAt",
    u.updated_at as "updatedAt", s.status as "syncStatus", s.dirty as "syncDirty", s.synced_at as "syncedAt"
  from users u left join sync_state s on s.user_id = u.id where u.tenant_id = $1 and u.id = $2`,
}

const app = Fastify()
app.get<{ Params: { id: string } }>('/customers/:id', async ({ params }) => {
  const { rows } = await pool.query({ ...READ, values: [tenantId, params.id] })
  return rows[0]
})
app.post<{ Body: Record<string, unknown> }>('/customers', async ({ body }, reply) => {
  const id = newId()
  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query({
      name: 'add',
      text: 'insert into users (id, tenant_id, email, first_name, last_name, metadata) values ($1, $2, $3, $4, $5, $6)',
      values: [id, tenantId, body.email, body.firstName, body.lastName, JSON.stringify(body.metadata ?? {})],
    })
    await client.query({
      name: 'audit',
      text: `insert into audit_log (tenant_id, actor, action, entity, entity_id, changes) values ($1, 'bench', 'customer.create', 'customer', $2, '{}')`,
      values: [tenantId, id],
    })
    const { rows } = await client.query({ ...READ, values: [tenantId, id] })
    await client.query('commit')
    return reply.code(201).send(rows[0])
  } finally {
    client.release()
  }
})
await app.listen({ port: Number(PORT), host: '127.0.0.1' })
process.stdout.write('ready\n')
