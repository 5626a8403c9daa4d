import t from 'tap'
import { makeDb } from '../../src/repositories/database.js'
import { removeUnusedWords } from '../../src/repositories/search-words.js'
import { openApi } from '../helpers/api.js'

t.test('the words of those who are gone go too, a day later', async (t) => {
  const api = await openApi(t)
  const { pool } = api
  const db = makeDb(pool)
  const find = async (q: string) =>
    (await api.call('GET', `/customers?q=${q}`)).body.data
      .map(({ firstName }: { firstName: string }) => firstName)
      .join()
  const words = async () => (await pool.query('select count(*)::int as count from search_words')).rows[0].count
  const age = () => pool.query("update search_words set unused_since = unused_since - interval '25 hours'")

  await pool.query("insert into users (first_name) values ('Zlatan'), ('Zlatan'), ('Kwame'), ('Ingrid')")
  t.equal(await words(), 3, 'each once')
  await pool.query("delete from users where first_name <> 'Ingrid'")
  t.equal(await removeUnusedWords(db), 0)
  t.equal(await words(), 3, 'nobody has them, but somebody may be about to')

  await pool.query("insert into users (first_name) values ('Kwame')")
  t.equal(await words(), 4, 'whoever comes meanwhile does not count on what may go')
  t.equal(await find('kwaem'), 'Kwame')
  await age()
  t.equal(await removeUnusedWords(db), 1)
  t.equal(await words(), 3)
  t.equal(await find('kwaem'), 'Kwame')
  t.equal(await find('ingird'), 'Ingrid')
  t.equal(await find('zltaan'), '')
  await pool.query("insert into users (first_name) values ('Zlatan')")
  t.equal(await find('zltaan'), 'Zlatan')

  await pool.query('delete from users')
  await removeUnusedWords(db)
  await age()
  t.equal(await removeUnusedWords(db), 4)
  t.equal(await words(), 0)
})
