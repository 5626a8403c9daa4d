/** What `bench:search` asks for. */

const WORDS = {
  common: ['john', 'maria', 'gmail', 'smith', 'jose', 'nunez', 'vip', 'gold', 'meyer', 'example'],
  rare: [
    'zlatan kowalskamann',
    'renee odegarddottir',
    'andre dvorakfield ito',
    'miguel haddadstad moreau',
    'kwame tanakaaki',
  ],
  middling: ['kowalskamann', 'dvorakfield', 'haddadstad', 'tanakaaki', 'obrien ski', 'rossiwell', 'zlatan'],
  slips: ['jhon smiht', 'zlaatn', 'kowalskamnan', 'odegardotir', 'muller fransoise'],
  short: ['jo', 'z', 'wei ki', 'an mu', 'x'],
  nobody: ['qqqxyz', 'wolfeschlegel', 'nobody@nowhere', 'zzyzx road'],
} as const

/** The kinds of query. `{…}` stands for one of the words of that kind, `{n}` for a number. */
export const QUERIES = [
  '',
  'sort=-updatedAt',
  'sort=name',
  'sort=-email',
  'state=any',
  'state=archived&sort=name',
  'syncStatus=in_sync',
  'syncStatus=failed',
  'syncStatus=failed&sort=name',
  'syncStatus=in_sync&sort=-updatedAt&type=anonymous',
  'type=anonymous&sort=email',
  'email={email}',
  'phone={phone}',
  'q={common}',
  'q={middling}',
  'q={rare}',
  'q={slips}',
  'q={short}',
  'q={nobody}',
  'q={email}',
  'q={phone end}',
  'q={common}&sort=relevance',
  'q={middling}&sort=relevance',
  'q={rare}&sort=relevance',
  'q={slips}&sort=relevance',
  'q={common}&sort=name',
  'q={common}&sort=-email',
  'q={common}&sort=-updatedAt',
  'q={middling}&sort=name',
  'q={middling}&sort=-updatedAt',
  'q={rare}&sort=email',
  'q={slips}&sort=name',
  'q={common}&syncStatus=failed',
  'q={middling}&syncStatus=in_sync&type=regular&updatedFrom=2025-01-01T00:00:00Z',
  'count=true',
  'count=estimate',
  'state=any&syncStatus=in_sync&count=true',
  'q={common}&count=true',
  'q={common}&count=estimate',
  'q={middling}&count=true',
  'q={slips}&count=true',
] as const

/** The kinds that have 10,000 pages of 20: their conditions and order, by which the row is found that ends the page before. */
export const DEEP = {
  '': ["l.state = 'active'", 'l.created_at desc'],
  'sort=createdAt': ["l.state = 'active'", 'l.created_at'],
  'sort=-updatedAt': ["l.state = 'active'", 'l.updated_at desc'],
  'sort=name': ["l.state = 'active'", 'l.name'],
  'sort=-email': ["l.state = 'active'", 'l.email desc'],
  'state=any': ['true', 'l.created_at desc'],
  'syncStatus=in_sync': ["l.state = 'active' and l.sync_status = 'in_sync'", 'l.created_at desc'],
  'type=regular&sort=name': ["l.state = 'active' and l.type = 'regular'", 'l.name'],
  'q=com': ["l.state = 'active' and s.text like '%com%'", 'l.created_at desc'],
  'q=com&sort=name': ["l.state = 'active' and s.text like '%com%'", 'l.name'],
  'q=com&sort=-updatedAt': ["l.state = 'active' and s.text like '%com%'", 'l.updated_at desc'],
} as const

/** The query of a kind that the n-th request asks; `someone` are people who are there. */
export function filledIn(query: string, n: number, someone: { email: string; phone: string }[]): string {
  return query.replace(/\{([\w ]+)\}/g, (_all, kind: string) => {
    const person = someone[n % someone.length]
    if (kind === 'email') return encodeURIComponent(person?.email ?? '')
    if (kind === 'phone') return encodeURIComponent(person?.phone ?? '')
    if (kind === 'phone end') return person?.phone.slice(-6) ?? ''
    const words: readonly string[] = WORDS[kind as keyof typeof WORDS]
    return encodeURIComponent(words[n % words.length] ?? '')
  })
}
