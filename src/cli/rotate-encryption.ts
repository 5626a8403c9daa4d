import { openVault } from '../core.js'
import { type Rotation, resealAll, sealingKeyIds } from '../repositories/sealed.js'
import { type Context, openForCommand } from './database.js'

/** `lockstep rotate-encryption`: seals anew what a retired key sealed. Exit code 1 when something could not be opened. */
export async function runRotateEncryption(context: Context, { dryRun }: { dryRun: boolean }): Promise<number> {
  const { cipher } = await openVault(context.config)
  const { db } = await openForCommand(context)
  const isTerminal = process.stderr.isTTY === true
  const rotation = await resealAll(db, cipher, {
    dryRun,
    onProgress(now) {
      if (isTerminal) process.stderr.write(`\r${progressOf(now, dryRun)}`)
    },
  })
  if (isTerminal && rotation.found > 0) process.stderr.write('\n')
  const lost = Object.values(rotation.unopened).reduce((sum, count) => sum + count, 0)
  const left = (await sealingKeyIds(db)).filter((id) => id !== cipher.keyId)
  const lines = [
    dryRun ? `${rotation.found - lost} to seal anew with the key ${cipher.keyId}.` : progressOf(rotation, dryRun),
  ]
  for (const [place, count] of Object.entries(rotation.unopened)) {
    lines.push(`${count} in ${place} could NOT be opened: none of the configured keys fits.`)
  }
  if (left.length === 0) {
    const retired = cipher.keyIds.slice(1)
    lines.push(
      retired.length === 0
        ? `All is sealed with the key ${cipher.keyId}.`
        : `All is sealed with the key ${cipher.keyId}: once every process runs with it as the first, ${retired.join(', ')} can be taken out of LOCKSTEP_ENCRYPTION_KEY.`,
    )
  } else {
    const them = (ids: string[]) => (ids.length === 1 ? 'it' : 'them')
    const held = left.filter((id) => cipher.keyIds.includes(id))
    const missing = left.filter((id) => !cipher.keyIds.includes(id))
    if (held.length > 0) lines.push(`Still in use: ${held.join(', ')}. Keep ${them(held)} in LOCKSTEP_ENCRYPTION_KEY.`)
    if (missing.length > 0) {
      lines.push(
        `In use, and not configured: ${missing.join(', ')}. Put ${them(missing)} back into LOCKSTEP_ENCRYPTION_KEY.`,
      )
    }
    if (!dryRun && lost === 0) {
      lines.push(
        'A process that was started with the old key first has used it meanwhile: restart it, and run this again.',
      )
    }
  }
  process.stdout.write(`${lines.join('\n')}\n`)
  return lost > 0 || (!dryRun && left.length > 0) ? 1 : 0
}

function progressOf({ found, resealed }: Rotation, dryRun: boolean): string {
  return dryRun ? `${found} found` : `${resealed} of ${found} sealed anew`
}
