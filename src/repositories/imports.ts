import type { FieldError } from '../lib/errors.js'
import { type Import, type ImportCounts, NOTHING_IMPORTED } from '../models/import.js'
import { CURSOR_TIME_FORMAT, type Page, type Position, pageOf } from './cursor.js'
import { LeaseLostError } from './errors.js'
import { Prisma } from './generated/client.js'
import type { PrismaDb } from './prisma.js'

/** The order of lists of imports, as their cursors name it. */
export const IMPORT_ORDER = '-createdAt'

/** How many refused lines of one import are kept; the others are only counted. */
export const KEPT_ERRORS = 100_000

/** The right to work on an import, until someone else is given a higher token. */
export interface ImportLease {
  importId: string
  token: number
}

/** A line that was refused. */
export interface RefusedLine {
  line: number
  errors: FieldError[]
}

type Row = Omit<Import, 'bytes' | 'counts'> & { bytes: bigint; counts: Partial<ImportCounts> }

const COLUMNS = Prisma.sql`
  id, tenant_id as "tenantId", source, format, on_match as "onMatch", dry_run as "dryRun", status, bytes, lines, digest, counts,
  error, requested_by as "requestedBy", request_id as "requestId", ip, created_at as "createdAt", started_at as "startedAt",
  finished_at as "finishedAt"`

function importOf({ bytes, counts, ...row }: Row): Import {
  return { ...row, bytes: Number(bytes), counts: { ...NOTHING_IMPORTED, ...counts } }
}

/** Adds an import that nothing was done of yet. */
export async function insertImport(
  tx: PrismaDb,
  row: Pick<
    Import,
    'id' | 'tenantId' | 'source' | 'format' | 'onMatch' | 'dryRun' | 'requestedBy' | 'requestId' | 'ip'
  >,
): Promise<void> {
  const status = row.source === 'api' ? 'uploading' : 'queued'
  await tx.import.create({ data: { ...row, status }, select: { id: true } })
}

/** Keeps a piece of the uploaded file. */
export async function insertChunk(
  tx: PrismaDb,
  importId: string,
  position: number,
  content: Uint8Array<ArrayBuffer>,
): Promise<void> {
  await tx.importChunk.create({ data: { importId, position, content }, select: { position: true } })
}

/** A piece of the uploaded file; null behind the last. */
export async function findChunk(prisma: PrismaDb, importId: string, position: number): Promise<Uint8Array | null> {
  const row = await prisma.importChunk.findUnique({ where: { importId_position: { importId, position } } })
  return row?.content ?? null
}

/** The whole file is there: a worker may take it up. */
export async function queueImport(tx: PrismaDb, tenantId: string, id: string, bytes: number): Promise<Import> {
  const rows = await tx.$queryRaw<Row[]>`
    update imports set status = 'queued', bytes = ${bytes}
    where tenant_id = ${tenantId}::uuid and id = ${id}::uuid and status = 'uploading' returning ${COLUMNS}`
  if (rows[0] === undefined) throw new LeaseLostError(`import ${id}`)
  return importOf(rows[0])
}

/** Removes an import whose file did not come through. */
export async function deleteUpload(prisma: PrismaDb, tenantId: string, id: string): Promise<void> {
  await prisma.import.deleteMany({ where: { tenantId, id, status: 'uploading' } })
}

/** The tenant's import, or null. */
export async function findImport(prisma: PrismaDb, tenantId: string, id: string): Promise<Import | null> {
  const rows = await prisma.$queryRaw<Row[]>`
    select ${COLUMNS} from imports where tenant_id = ${tenantId}::uuid and id = ${id}::uuid`
  return rows[0] === undefined ? null : importOf(rows[0])
}

/** A page of the tenant's imports, newest first; those whose file is still coming are not among them. */
export async function listImports(
  prisma: PrismaDb,
  tenantId: string,
  { limit, after }: { limit: number; after: Position | null },
): Promise<Page<Import>> {
  const beyond =
    after === null ? Prisma.empty : Prisma.sql`and (created_at, id) < (${after.value}::timestamptz, ${after.id}::uuid)`
  const rows = await prisma.$queryRaw<(Row & { cursorValue: string })[]>`
    select ${COLUMNS}, to_char(created_at at time zone 'UTC', ${CURSOR_TIME_FORMAT}) as "cursorValue"
    from imports where tenant_id = ${tenantId}::uuid and status <> 'uploading' ${beyond}
    order by created_at desc, id desc limit ${limit + 1}`
  const page = pageOf(rows, limit, IMPORT_ORDER, (row) => ({ value: row.cursorValue, id: row.id }))
  return { ...page, data: page.data.map(({ cursorValue: _value, ...row }) => importOf(row)) }
}

/** Up to `limit` lines of an import that were refused, in the order of the file, behind the line `after`. */
export async function listErrors(
  prisma: PrismaDb,
  importId: string,
  after: number,
  limit: number,
): Promise<RefusedLine[]> {
  return prisma.$queryRaw<RefusedLine[]>`
    select line, errors from import_errors where import_id = ${importId}::uuid and line > ${after} order by line limit ${limit}`
}

/** What the ids of the tenant's imported customers are made with. */
export async function findImportSalt(prisma: PrismaDb, tenantId: string): Promise<string> {
  const { importSalt } = await prisma.tenant.findUniqueOrThrow({
    where: { id: tenantId },
    select: { importSalt: true },
  })
  return importSalt
}

/** Takes an import up, from where it stands; null when someone has it, or it has ended. */
export async function claimImport(
  prisma: PrismaDb,
  tenantId: string,
  id: string,
  leaseMs: number,
): Promise<{ row: Import; lease: ImportLease } | null> {
  const rows = await prisma.$queryRaw<(Row & { leaseToken: number })[]>`
    update imports set status = 'running', started_at = coalesce(started_at, lockstep_now()),
      lease_token = lease_token + 1, lease_expires_at = lockstep_now() + ${leaseMs} * interval '1 millisecond'
    where tenant_id = ${tenantId}::uuid and id = ${id}::uuid and status in ('queued', 'running')
      and (lease_expires_at is null or lease_expires_at <= lockstep_now())
    returning ${COLUMNS}, lease_token as "leaseToken"`
  if (rows[0] === undefined) return null
  const { leaseToken, ...row } = rows[0]
  return { row: importOf(row), lease: { importId: id, token: leaseToken } }
}

/**
 * Notes how far the import is, and renews the lease. Call it in the transaction that wrote the lines.
 *
 * @throws {LeaseLostError}
 */
export async function saveProgress(
  tx: PrismaDb,
  lease: ImportLease,
  progress: Pick<Import, 'lines' | 'digest' | 'counts'>,
  leaseMs: number,
): Promise<void> {
  const { lines, digest, counts } = progress
  const saved = await tx.$executeRaw`
    update imports set lines = ${lines}, digest = ${digest}, counts = ${JSON.stringify(counts)}::jsonb,
      lease_expires_at = lockstep_now() + ${leaseMs} * interval '1 millisecond'
    where id = ${lease.importId}::uuid and lease_token = ${lease.token} and status = 'running'`
  if (saved !== 1) throw new LeaseLostError(`import ${lease.importId}`)
}

/**
 * Keeps the import this worker's until the transaction ends, so that no two write the same lines.
 *
 * @throws {LeaseLostError} when it is another worker's by now.
 */
export async function holdImport(tx: PrismaDb, lease: ImportLease): Promise<void> {
  const rows = await tx.$queryRaw<unknown[]>`
    select 1 from imports where id = ${lease.importId}::uuid and lease_token = ${lease.token} and status = 'running'
    for no key update`
  if (rows.length === 0) throw new LeaseLostError(`import ${lease.importId}`)
}

/** Keeps why lines were refused, of so many lines at the most. */
export async function insertErrors(
  tx: PrismaDb,
  importId: string,
  refused: readonly RefusedLine[],
  room: number,
): Promise<void> {
  if (refused.length === 0 || room <= 0) return
  await tx.$executeRaw`
    insert into import_errors (import_id, line, errors)
    select ${importId}::uuid, r.line, r.errors
    from jsonb_to_recordset(${JSON.stringify(refused.slice(0, room))}::jsonb) as r(line integer, errors jsonb)
    on conflict do nothing`
}

/** Gives the import back unfinished: it goes on from where it is. */
export async function releaseImport(prisma: PrismaDb, { importId, token }: ImportLease): Promise<void> {
  await prisma.$executeRaw`
    update imports set lease_expires_at = null
    where id = ${importId}::uuid and lease_token = ${token} and status = 'running'`
}

/** Ends the import, and removes the file and what else only its making needed. Throws LeaseLostError. */
export async function finishImport(
  tx: PrismaDb,
  { importId, token }: ImportLease,
  error: Import['error'],
): Promise<void> {
  const ended = await tx.$executeRaw`
    update imports set status = ${error === null ? 'succeeded' : 'failed'}, finished_at = lockstep_now(),
      error = ${error === null ? null : JSON.stringify(error)}::jsonb, lease_expires_at = null
    where id = ${importId}::uuid and lease_token = ${token} and status = 'running'`
  if (ended !== 1) throw new LeaseLostError(`import ${importId}`)
  await deleteWorkings(tx, importId)
}

/**
 * Ends an import that waits or is under way, and removes the file. Its worker finds out at its next batch: the one that it is at is
 * waited for, and counts. Null when it has ended already, or is still being uploaded.
 */
export async function cancelImport(tx: PrismaDb, tenantId: string, id: string): Promise<Import | null> {
  const rows = await tx.$queryRaw<Row[]>`
    update imports set status = 'cancelled', finished_at = lockstep_now(), lease_expires_at = null
    where tenant_id = ${tenantId}::uuid and id = ${id}::uuid and status in ('queued', 'running') returning ${COLUMNS}`
  if (rows[0] === undefined) return null
  await deleteWorkings(tx, id)
  return importOf(rows[0])
}

/** The file, and what else only its import needed. */
async function deleteWorkings(tx: PrismaDb, importId: string): Promise<void> {
  await tx.$executeRaw`delete from import_chunks where import_id = ${importId}::uuid`
  await tx.$executeRaw`delete from import_seen where import_id = ${importId}::uuid`
}

/** Of these hashes of contacts, those that the dry run came across before. */
export async function findSeen(tx: PrismaDb, importId: string, contacts: readonly string[]): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ contact: string }[]>`
    select contact from import_seen where import_id = ${importId}::uuid and contact = any(${[...contacts]}::text[])`
  return new Set(rows.map(({ contact }) => contact))
}

/** Notes what the dry run came across. */
export async function insertSeen(tx: PrismaDb, importId: string, contacts: readonly string[]): Promise<void> {
  await tx.$executeRaw`
    insert into import_seen (import_id, contact) select ${importId}::uuid, unnest(${[...contacts]}::text[])
    on conflict do nothing`
}
