import { createHash, createHmac } from 'node:crypto'
import { ConflictError, type FieldError, ValidationError } from '../lib/errors.js'
import { normalisePhone } from '../lib/phones.js'
import type { ImportLine } from '../models/dtos/import.dto.js'
import { type Import, type ImportCounts, NOTHING_IMPORTED } from '../models/import.js'
import type { TenantSettings } from '../models/tenant.js'
import type { Actor } from '../repositories/audit-log.js'
import { contactNames, lockContacts } from '../repositories/contact-locks.js'
import {
  type CustomerValues,
  findByContacts,
  findCustomer,
  findTakenIds,
  insertCustomers,
  updateCustomer,
} from '../repositories/customers.js'
import { statementsOf } from '../repositories/database.js'
import { findSeen, insertSeen, type RefusedLine } from '../repositories/imports.js'
import type { PrismaDb } from '../repositories/prisma.js'
import type { Vault } from '../repositories/vault.js'
import { mustBeActive, onlyChanged } from './customer.service.js'
import { type AuditedUser, auditCustomer, auditCustomers } from './customer-audit.js'
import { checkCustomer, draftOf, mergePatch, profileOf } from './customer-rules.js'
import type { ReadLine } from './import-reader.js'

/** How often a change is worked out anew when the sync changed the row meanwhile. */
const WRITE_TRIES = 10

/** What the lines of an import are written with. */
export interface ImportTask extends Pick<Import, 'id' | 'onMatch' | 'dryRun'> {
  by: Actor
  settings: TenantSettings
  /** The tenant's; see `findImportSalt`. */
  salt: string
}

/** What the lines of a batch came to. */
export interface BatchResult {
  counts: ImportCounts
  refused: RefusedLine[]
}

/** A line that says something, and by what it is known. */
interface Entry {
  line: ReadLine
  patch: ImportPatch
  /** The id that the line gives, in lower case. */
  id: string | null
  /** The id that it gets where it gives none, or one that is taken: the same for the same line of the same file. */
  ownId: string
  email: string | null
  phone: string | null
  /** What no other line must share to be looked at together with this one. */
  keys: string[]
}

type ImportPatch = Omit<ImportLine, 'id' | 'state'>

/** Whom a line means: a customer that is there, one that the dry run would have made by now, or nobody yet. */
type Target =
  | { kind: 'there'; id: string; by: 'id' | 'email' | 'phone' }
  | { kind: 'seen'; by: 'id' | 'email' | 'phone' }
  | { kind: 'ambiguous'; ids: string[] }
  | { kind: 'new'; id: string }

/**
 * Writes the lines as if each had come by itself, one after the other, by the rules of POST and PATCH /customers. A line that is
 * refused changes nothing and does not stop the others.
 */
export async function applyLines(
  tx: PrismaDb,
  vault: Vault,
  task: ImportTask,
  lines: readonly ReadLine[],
): Promise<BatchResult> {
  const { by, settings } = task
  const notes = { from: 'import', importId: task.id }
  const result: BatchResult = { counts: { ...NOTHING_IMPORTED }, refused: [] }
  const refuse = (line: ReadLine, errors: FieldError[]) => {
    result.counts.failed += 1
    result.refused.push({ line: line.line, errors })
  }

  let entries: Entry[] = []
  for (const line of lines) {
    if (line.input === null) refuse(line, line.errors)
    else if (line.input.state !== undefined && line.input.state !== 'active') result.counts.skipped += 1
    else entries.push(entryOf(line, line.input, task))
  }
  await lockContacts(
    statementsOf(tx),
    by.tenantId,
    entries.flatMap(({ keys }) => keys),
  )
  while (entries.length > 0) {
    const together = entries.slice(0, independentOf(entries))
    const targets = await findTargets(tx, task, together)
    const count = distinctTargets(targets)
    await applyTogether(together.slice(0, count), targets)
    entries = entries.slice(count)
  }
  return result

  /** Lines of which no two have to do with each other. */
  async function applyTogether(some: readonly Entry[], targets: readonly Target[]): Promise<void> {
    const created: { id: string; values: CustomerValues }[] = []
    const known: string[] = []
    for (const [index, entry] of some.entries()) {
      const target = targets[index]
      if (target === undefined) continue
      try {
        const outcome = await applyOne(entry, target, created)
        result.counts[outcome] += 1
        if (outcome !== 'skipped') known.push(...entry.keys)
      } catch (error) {
        if (error instanceof ValidationError) refuse(entry.line, error.errors)
        else if (error instanceof ConflictError) {
          refuse(entry.line, [{ path: 'line', code: error.code, message: error.message }])
        } else throw error
      }
    }
    if (task.dryRun) {
      await insertSeen(tx, task.id, known.map(hashed(task.id)))
      return
    }
    await insertCustomers(tx, by.tenantId, created)
    const entries = created.map(({ id, values }) => ({ before: null, after: newUser(id, values) }))
    await auditCustomers(statementsOf(tx), vault, by, 'customer.create', entries, notes)
  }

  async function applyOne(
    { patch }: Entry,
    target: Target,
    created: { id: string; values: CustomerValues }[],
  ): Promise<Exclude<keyof ImportCounts, 'failed'>> {
    if (target.kind === 'ambiguous') {
      const message = `e-mail and phone fit several customers: ${target.ids.join(', ')}; name the one that is meant by id`
      throw new ValidationError([{ path: 'line', code: 'ambiguous_match', message }])
    }
    if (target.kind === 'new' || (target.kind === 'seen' && task.onMatch === 'update')) {
      const values = checkCustomer(draftOf(mergePatch({}, patch)), null, settings)
      if (target.kind === 'seen') return 'updated'
      created.push({ id: target.id, values })
      return 'created'
    }
    if (task.onMatch === 'skip') return 'skipped'
    if (task.onMatch === 'fail') {
      const whose = target.kind === 'there' ? `that of the customer ${target.id}` : 'that of an earlier line'
      throw new ValidationError([{ path: target.by, code: 'customer_exists', message: `is ${whose}` }])
    }
    return target.kind === 'there' ? update(target.id, patch) : 'updated'
  }

  async function update(id: string, patch: ImportPatch): Promise<'updated' | 'unchanged'> {
    for (let attempt = 1; attempt <= WRITE_TRIES; attempt += 1) {
      const row = await findCustomer(tx, by.tenantId, id)
      if (row === null) break
      mustBeActive(row.user)
      const values = checkCustomer(draftOf(mergePatch(profileOf(row.user), patch)), row.user, settings)
      const changes = onlyChanged(row.user, values)
      if (Object.keys(changes).length === 0) return 'unchanged'
      if (task.dryRun) return 'updated'
      const updated = await updateCustomer(tx, by.tenantId, id, row.user.revision, changes)
      if (updated === null) continue
      await auditCustomer(statementsOf(tx), vault, by, 'customer.update', row.user, updated.user, notes)
      return 'updated'
    }
    throw new ConflictError('The customer is being changed too fast; import the line again.', 'write_contention')
  }
}

/** A customer as the database has it once it is made. */
function newUser(id: string, values: CustomerValues): AuditedUser & { id: string; revision: number } {
  return { ...values, id, state: 'active', billing: null, revision: 1 }
}

function entryOf(line: ReadLine, input: ImportLine, { settings, salt }: ImportTask): Entry {
  const { id: given, state: _state, ...patch } = input
  const id = given?.toLowerCase() ?? null
  const email = patch.email?.trim() || null
  const phoneText = patch.phone?.trim() || null
  const phone = phoneText === null ? null : (normalisePhone(phoneText, settings.defaultRegion) ?? phoneText)
  const ownId = derivedId(salt, id ?? line.digest)
  const keys = [...(id === null ? [] : [`id/${id}`]), ...contactNames({ email, phone })]
  return { line, patch, id, ownId, email, phone, keys: keys.length === 0 ? [`id/${ownId}`] : keys }
}

/**
 * An id (UUIDv8, RFC 9562) that the same line gets each time, so that an import that is run again finds whom it made. Not a
 * UUIDv7, whose random part could not be had twice.
 */
function derivedId(salt: string, name: string): string {
  const hex = createHmac('sha256', salt).update(name).digest('hex')
  const variant = ((Number.parseInt(hex[16] ?? '0', 16) & 3) | 8).toString(16)
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    `8${hex.slice(13, 16)}`,
    `${variant}${hex.slice(17, 20)}`,
    hex.slice(20, 32),
  ].join('-')
}

/** How many entries from the first on share nothing with each other. */
function independentOf(entries: readonly Entry[]): number {
  const touched = new Set<string>()
  for (const [index, { keys }] of entries.entries()) {
    if (keys.some((key) => touched.has(key))) return index
    for (const key of keys) touched.add(key)
  }
  return entries.length
}

/** How many targets from the first on are different customers: a change of one may change whom a later line means. */
function distinctTargets(targets: readonly Target[]): number {
  const met = new Set<string>()
  for (const [index, target] of targets.entries()) {
    if (target.kind !== 'there') continue
    if (met.has(target.id)) return index
    met.add(target.id)
  }
  return targets.length
}

async function findTargets(tx: PrismaDb, task: ImportTask, entries: readonly Entry[]): Promise<Target[]> {
  const { tenantId } = task.by
  const byContact = entries.filter(({ id }) => id === null)
  const taken = await findTakenIds(
    tx,
    tenantId,
    entries.flatMap(({ id, ownId }) => (id === null ? [ownId] : [id, ownId])),
  )
  const found = await findByContacts(
    tx,
    tenantId,
    byContact.flatMap(({ email }) => email ?? []),
    byContact.flatMap(({ phone }) => phone ?? []),
  )
  const hash = hashed(task.id)
  const seen = task.dryRun
    ? await findSeen(
        tx,
        task.id,
        entries.flatMap(({ keys }) => keys.map(hash)),
      )
    : new Set<string>()
  const isTaken = new Map(taken.map(({ id, isOwn }) => [id, isOwn]))
  const holders = new Map<string, string[]>()
  for (const { contact, id } of found) holders.set(contact, [...(holders.get(contact) ?? []), id])
  const holdersOf = (contact: string | null) => (contact === null ? [] : (holders.get(contact) ?? []))

  return entries.map(({ id, ownId, email, phone }): Target => {
    if (id !== null) {
      if (isTaken.get(id) === true) return { kind: 'there', id, by: 'id' }
      if (isTaken.get(ownId) === true) return { kind: 'there', id: ownId, by: 'id' }
      if (seen.has(hash(`id/${id}`))) return { kind: 'seen', by: 'id' }
      return { kind: 'new', id: isTaken.has(id) ? ownId : id }
    }
    const byEmail = holdersOf(email)
    const ids = [...new Set([...byEmail, ...holdersOf(phone)])]
    const [one, ...others] = ids
    if (others.length > 0) return { kind: 'ambiguous', ids }
    if (one !== undefined) return { kind: 'there', id: one, by: byEmail.length > 0 ? 'email' : 'phone' }
    if (isTaken.get(ownId) === true) return { kind: 'there', id: ownId, by: 'id' }
    if (email !== null && seen.has(hash(`email/${email.toLowerCase()}`))) return { kind: 'seen', by: 'email' }
    if (phone !== null && seen.has(hash(`phone/${phone}`))) return { kind: 'seen', by: 'phone' }
    return { kind: 'new', id: ownId }
  })
}

/** What a dry run comes across is kept without saying whom it was. */
function hashed(importId: string): (key: string) => string {
  return (key) => createHash('sha256').update(`${importId}/${key}`).digest('base64url')
}
