import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import { startLockstep } from './processes.js'
import { alternate, type Row } from './rows.js'
import type { Stage } from './stage.js'

/** From `npm start` on an empty folder, and on one that has data, until it says that it runs; everything embedded. */
export async function coldStartRow(stage: Stage, options: { runs: number }): Promise<Row> {
  const used = await mkdtemp(join(stage.folder, 'again-'))
  const start = async (folder: string) => {
    const started = performance.now()
    const lockstep = await startLockstep('start', { LOCKSTEP_SIMULATOR_PORT: '0' }, folder)
    const seconds = (performance.now() - started) / 1000
    const megabytes = (await lockstep.residentBytes()) / 1_048_576
    await lockstep.stop()
    return { seconds, megabytes }
  }
  const results = await alternate(options.runs, {
    'first start': async () => start(await mkdtemp(join(stage.folder, 'first-'))),
    'later start': () => start(used),
  })
  return {
    name: 'cold start',
    unit: 'seconds until it runs, resident megabytes then',
    results,
    goals: Object.entries(results).map(([what, figures]) => ({
      what: `${what}, seconds`,
      value: figures.seconds?.median ?? Number.NaN,
      atMost: 5,
    })),
  }
}
