import type { Db } from './database.js'

const BATCH = 2_000

const FIRST_ID = '00000000-0000-0000-0000-000000000000'

const IS_USED = 'exists (select from user_search s where s.words && array[w.word])'

/** Those marked a day ago: goes what still nobody has, and the mark of the others. Who came meanwhile has entered the word anew. */
const SETTLE = `
  with due as (
    select w.id, ${IS_USED} as is_used from search_words w
    where w.unused_since < lockstep_now() - interval '1 day' limit $1
  ),
  kept as (update search_words set unused_since = null where id in (select id from due where is_used)),
  gone as (delete from search_words where id in (select id from due where not is_used) returning 1)
  select (select count(*)::int from due) as due, (select count(*)::int from gone) as gone`

/** Marks those that nobody has, of the next in the order of their ids. */
const MARK = `
  with next as (select id, word, unused_since from search_words where id > $1::uuid order by id limit $2),
  marked as (
    update search_words set unused_since = lockstep_now()
    where id in (select w.id from next w where w.unused_since is null and not ${IS_USED})
  )
  select id from next order by id`

/**
 * Removes from `search_words` the words that no user has any more: those found unused a day ago that still are. The day is for
 * transactions under way, whose users cannot be seen yet: they found the word there and so did not enter it. Nobody waits for it.
 * Answers how many went.
 */
export async function removeUnusedWords(db: Db): Promise<number> {
  let removed = 0
  for (;;) {
    const [row] = await db.query<{ due: number; gone: number }>(SETTLE, [BATCH])
    removed += row?.gone ?? 0
    if ((row?.due ?? 0) < BATCH) break
  }
  for (let after = FIRST_ID; ; ) {
    const ids = await db.query<{ id: string }>(MARK, [after, BATCH])
    after = ids.at(-1)?.id ?? after
    if (ids.length < BATCH) return removed
  }
}
