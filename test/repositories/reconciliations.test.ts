import t from 'tap'
import { NO_COUNTS } from '../../src/models/reconciliation.js'
import {
  claimRun,
  findAbandonedRuns,
  findRun,
  finishRun,
  insertRun,
  releaseRun,
  renewRun,
  saveRunProgress,
} from '../../src/repositories/reconciliations.js'
import { openTables } from './helpers.js'

const MINUTE = 60_000

t.test('a run is of one worker at a time, and a worker that was taken for dead writes nothing more', async (t) => {
  const { db, pool, tenantId } = await openTables(t)
  const run = await insertRun(db, { tenantId, kind: 'sweep', trigger: 'api', dryRun: false, requestedBy: null })
  const first = await claimRun(db, run.id, MINUTE)
  if (first === null) throw new Error('nobody has the run')
  t.equal(await claimRun(db, run.id, MINUTE), null, 'another worker waits')
  await saveRunProgress(db, first.lease, { phase: 'stripe', cursor: 'cus_1' }, { ...NO_COUNTS, checked: 100 }, MINUTE)
  t.strictSame(await findAbandonedRuns(db), [])

  await pool.query("update reconciliations set lease_expires_at = now() - interval '1 second'")
  t.strictSame(await findAbandonedRuns(db), [run.id])
  const second = await claimRun(db, run.id, MINUTE)
  t.match(second, { run: { progress: { cursor: 'cus_1' }, counts: { checked: 100 } } }, 'it goes on from the last page')
  if (second === null) throw new Error('the run was not given on')

  const late = [
    () => saveRunProgress(db, first.lease, { phase: 'stripe', cursor: 'cus_0' }, NO_COUNTS, MINUTE),
    () => renewRun(db, first.lease, MINUTE),
    () => releaseRun(db, first.lease),
    () => finishRun(db, first.lease, NO_COUNTS, { code: 'late', message: 'late' }),
  ]
  for (const write of late) await t.rejects(write(), { code: 'lease_lost' })
  t.match(await findRun(db, tenantId, run.id), { status: 'running', progress: { cursor: 'cus_1' }, error: null })

  await finishRun(db, second.lease, NO_COUNTS, null)
  t.match(await findRun(db, tenantId, run.id), { status: 'succeeded', progress: { phase: 'done' } })
  await t.rejects(renewRun(db, second.lease, MINUTE), { code: 'lease_lost' }, 'what has ended stays ended')
})
