import t from 'tap'
import { newId } from '../../src/lib/ids.js'
import { isProblem, openApi } from '../helpers/api.js'

t.test('conflicts', async (t) => {
  const api = await openApi(t)
  const users = [newId(), newId()]
  await api.pool.query(
    `insert into sync_conflicts (tenant_id, user_id, field, reason, policy, base, local, remote, status, winner, detected_at)
     select $1, case when n % 2 = 0 then $2::uuid else $3::uuid end, 'metadata.k' || n, 'both_changed', 'latest', '"a"', '"b"', 'null',
       case when n <= 3 then 'open' else 'resolved' end, case when n > 3 then 'stripe' end,
       timestamptz '2026-01-01Z' + n / 2 * interval '1 microsecond'
     from generate_series(1, 7) n`,
    [api.tenantId, ...users],
  )
  const seen: string[] = []
  let cursor = ''
  do {
    const { body } = await api.call('GET', `/conflicts?limit=3${cursor}`)
    seen.push(...body.data.map(({ field }: { field: string }) => field))
    cursor = body.nextCursor === null ? '' : `&cursor=${body.nextCursor}`
  } while (cursor !== '')
  t.equal(new Set(seen).size, 7)
  t.equal(seen.at(-1), 'metadata.k1')
  t.equal((await api.call('GET', `/conflicts?userId=${users[0]}`)).body.data.length, 3)
  const { data } = (await api.call('GET', '/conflicts?status=open')).body
  t.equal(data.length, 3)
  t.match(data[0], { base: 'a', local: 'b', remote: null, winner: null, policy: 'latest' })

  const resolved = await api.call('POST', `/conflicts/${data[0].id}/resolve`, { body: { winner: 'local' } })
  t.match(resolved, { status: 200, body: { winner: 'local', status: 'resolved', resolvedBy: /^key:/ } })
  isProblem(t, await api.call('POST', `/conflicts/${newId()}/resolve`, { body: { winner: 'local' } }), 404, 'not_found')
})
