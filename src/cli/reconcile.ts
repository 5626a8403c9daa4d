import { SingleBar } from 'cli-progress'
import type { Logger } from 'pino'
import type { Config } from '../config.js'
import { type Core, openCore } from '../core.js'
import type { Lifecycle } from '../lib/lifecycle.js'
import type { Reconciliation } from '../models/reconciliation.js'
import { claimDirtyUsers } from '../repositories/dirty-users.js'
import { insertRun } from '../repositories/reconciliations.js'
import { describeCounts } from '../sync/runs.js'
import { actorFor } from './database.js'

/** How long a user that another process settles is waited for, after the last sign of progress, in milliseconds. */
const PATIENCE_MS = 30_000
/** Users settled at once. */
const AT_ONCE = 8
/** Of the users who have been dirty for longest, how many are looked through for one whom no worker's queue has. */
const LOOK_THROUGH = 10_000

/** `lockstep reconcile`: a run, then everything it found dirty, settled here and now. Answers the exit code. */
export async function runReconcile(
  context: { config: Config; log: Logger; lifecycle: Lifecycle },
  flags: { dryRun: boolean; catchUp: boolean; json: boolean; tenant?: string },
): Promise<number> {
  const stop = new AbortController()
  const onSignal = () => stop.abort(new Error('interrupted'))
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal)
  const core = await openCore({ ...context, webhookUrl: null, wake() {} })
  const { tenantId } = await actorFor(core.db, flags.tenant)
  const kind = flags.catchUp ? 'catch_up' : 'sweep'
  const { id } = await insertRun(core.db, {
    tenantId,
    kind,
    trigger: 'cli',
    dryRun: flags.dryRun,
    requestedBy: 'cli',
    by: { tenantId, actor: 'cli', requestId: null, ip: null },
  })
  const bar = await openBar(core, tenantId, flags)
  const run = await core.runs.execute(id, stop.signal, (now) => bar?.update(now.counts.checked))
  bar?.stop()
  if (run === null) {
    process.stderr.write(`The run ${id} was interrupted; a running Lockstep goes on with it.\n`)
    return 1
  }
  const left = flags.dryRun || run.status === 'failed' ? null : await settle(core, tenantId, stop.signal)
  report(run, left, flags.json)
  return run.status === 'succeeded' && (left?.failed ?? 0) === 0 && (left?.waiting ?? 0) === 0 ? 0 : 1
}

/** A bar over what is to be looked at: our links and users; nobody knows before how many Stripe has. */
async function openBar(
  core: Core,
  tenantId: string,
  flags: { catchUp: boolean; json: boolean },
): Promise<SingleBar | null> {
  if (flags.catchUp || flags.json) return null
  const [row] = await core.db.query<{ total: number }>(
    `select ((select count(*) from stripe_links where tenant_id = $1 and unlinked_at is null and deleted_at is null)
           + (select count(*) from users where tenant_id = $1))::int as total`,
    [tenantId],
  )
  const bar = new SingleBar({
    format: 'Comparing [{bar}] {percentage}% | {value}/{total} | {duration_formatted}',
    stream: process.stderr,
    noTTYOutput: false,
    clearOnComplete: false,
  })
  bar.start(row?.total ?? 0, 0)
  return bar
}

/** Settles what is dirty, together with any worker that runs, until nothing waits any more. */
async function settle(core: Core, tenantId: string, signal: AbortSignal): Promise<{ failed: number; waiting: number }> {
  let lastProgress = Date.now()
  let lastWaiting = Number.POSITIVE_INFINITY
  let failed = 0
  for (;;) {
    while ((await core.drain.drainBatch()) > 0) signal.throwIfAborted()
    const { userIds } = await claimDirtyUsers(core.db, {
      limit: AT_ONCE,
      mostQueued: LOOK_THROUGH,
      enqueuedMs: PATIENCE_MS,
    })
    const outcomes = await Promise.all(userIds.map((userId) => core.reconcile(userId)))
    failed += outcomes.filter(({ outcome }) => outcome === 'failed').length
    const [row] = await core.db.query<{ waiting: number }>(
      `select count(*)::int as waiting from sync_state where tenant_id = $1 and dirty and status <> 'failed'`,
      [tenantId],
    )
    const waiting = row?.waiting ?? 0
    if (waiting < lastWaiting) lastProgress = Date.now()
    lastWaiting = waiting
    if (waiting === 0 || signal.aborted || Date.now() - lastProgress > PATIENCE_MS) return { failed, waiting }
    if (userIds.length === 0) await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

function report(run: Reconciliation, left: { failed: number; waiting: number } | null, json: boolean): void {
  const { counts, status, dryRun, error } = run
  if (json) {
    process.stdout.write(`${JSON.stringify({ id: run.id, kind: run.kind, dryRun, status, counts, left, error })}\n`)
    return
  }
  const what = run.kind === 'sweep' ? 'users and Stripe customers' : 'events'
  const lines = [
    `${counts.checked} ${what} looked at with ${counts.stripeCalls} ${counts.stripeCalls === 1 ? 'call' : 'calls'} to Stripe.`,
  ]
  if (run.kind === 'catch_up') lines.push(`${counts.missed} had not come by the webhook.`)
  else lines.push(`${dryRun ? 'To do' : 'Found'}: ${describeCounts(counts)}.`)
  if (isDriftFree(run)) lines.push('No drift.')
  if (left !== null && left.failed > 0)
    lines.push(`${left.failed} users could not be settled: GET /customers?syncStatus=failed`)
  if (left !== null && left.waiting > 0) lines.push(`${left.waiting} users still wait.`)
  if (error !== null) lines.push(`The run FAILED (${error.code}): ${error.message}`)
  process.stdout.write(`${lines.join('\n')}\n`)
}

function isDriftFree({ kind, counts }: Reconciliation): boolean {
  const { created, linked, fixed, conflicting, duplicate, orphaned, failed } = counts
  return kind === 'sweep' && created + linked + fixed + conflicting + duplicate + orphaned + failed === 0
}
