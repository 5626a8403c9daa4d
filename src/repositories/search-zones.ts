import type { Db } from './database.js'
import type { PrismaDb } from './prisma.js'
import { drawBounds, hashPieces, ZoneBits, zoneOf, zoneSizeOf } from './zone-map.js'

/** The orders that have zones. */
export const ZONE_SORTS = ['name', 'email'] as const
export type ZoneSort = (typeof ZONE_SORTS)[number]

/** Hashes whose bits are in one row of `search_zones`, as a power of two. */
const CHUNK = { bits: 8, hashes: 256 } as const

/** Users that a search looks at one by one, since the map has not their changes yet; with more the map is of no use for the moment. */
const MOST_CHANGED = 1_000

/** Where in an order what is looked for may be. */
export interface SearchZones {
  /** Where each zone but the first begins, in order. */
  bounds: string[]
  /** Of each zone, whether a match may be in it. */
  isPossible: boolean[]
  /** Users who may match wherever they are. */
  changed: string[]
}

/** Which zones of an order can have text with all of these pieces; null where that is not known. */
export async function findZones(
  prisma: PrismaDb,
  tenantId: string,
  sort: ZoneSort,
  pieces: string[],
): Promise<SearchZones | null> {
  const hashes = new Set<number>()
  for (const piece of pieces) hashPieces(piece, (hash) => hashes.add(hash))
  if (hashes.size === 0) return null
  const [row] = await prisma.$queryRaw<{ bounds: string[]; zones: string; changed: string[] }[]>`
    select m.bounds, array(
        select c.user_id::text from search_zone_changes c where c.tenant_id = m.tenant_id limit ${MOST_CHANGED + 1}
      ) as changed, (
        select bit_and(substring(z.bits from (hash & ${CHUNK.hashes - 1}) * w.width + 1 for w.width))::text
        from unnest(${[...hashes]}::int[]) as hash
        join search_zones z on z.tenant_id = m.tenant_id and z.sort = m.sort and z.chunk = hash >> ${CHUNK.bits}
      ) as zones
    from search_zone_maps m, lateral (select (cardinality(m.bounds) + 8) / 8 * 8 as width) as w
    where m.tenant_id = ${tenantId}::uuid and m.sort = ${sort}`
  if (row === undefined || row.changed.length > MOST_CHANGED) return null
  const { bounds, zones, changed } = row
  return { bounds, changed, isPossible: Array.from({ length: bounds.length + 1 }, (_, zone) => zones[zone] === '1') }
}

/** What is worth a map, and how fine it is. Users. */
export interface ZoneSizes {
  /** A tenant with fewer has none: all matches of any search are found in no time. */
  least: number
  zone: number
}

const SIZES: ZoneSizes = { least: 50_000, zone: 4_000 }

/** Changes that are entered in one transaction, and users read at one time. */
const BATCH = 2_000

/** Any number that nothing else in this database locks; spells `ZONE`. */
const LOCK_KEY = 0x5a4f4e45

/** Keeps the zone maps of all tenants. */
export interface ZoneKeeper {
  /**
   * Enters what changed, and draws the maps that are missing or worn out: ten seconds or so per million users. Does nothing while another
   * process is at it. Answers how many users were entered, and how many maps drawn.
   *
   * @throws {DatabaseError}
   */
  keep(signal?: AbortSignal): Promise<{ entered: number; drawn: number }>
}

/**
 * A map is drawn from all users at one moment, together with the removal of the changes noted until then: who commits later has noted
 * the change, and it is still there. Only those who wrote by the triggers of the release before note nothing; none of them is under
 * way any more when every transaction has ended that was when the keeper first looked.
 */
export function makeZoneKeeper(db: Db, sizes: ZoneSizes = SIZES): ZoneKeeper {
  let firstLook: string | null = null

  async function isDrawingSafe(): Promise<boolean> {
    if (firstLook === null) {
      const [row] = await db.query<{ id: string }>('select pg_current_xact_id()::text as id')
      firstLook = row?.id ?? null
      return false
    }
    const [row] = await db.query<{ safe: boolean }>(
      'select pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8 as safe',
      [firstLook],
    )
    return row?.safe === true
  }

  return {
    async keep(signal) {
      const isSafe = await isDrawingSafe()
      let entered = 0
      let drawn = 0
      for (const tenantId of await tenantsWithChanges(db)) {
        if (signal?.aborted === true) break
        const isDue = await isMapDue(db, tenantId, sizes)
        if (isDue && isSafe) drawn += await drawMaps(db, tenantId, sizes)
        else entered += await enterChanges(db, tenantId, signal, isDue)
      }
      return { entered, drawn }
    },
  }
}

/** One probe of the key for each tenant, however many changes it has. */
async function tenantsWithChanges(db: Db): Promise<string[]> {
  const rows = await db.query<{ id: string }>(`
    select id from tenants t where exists (select from search_zone_changes c where c.tenant_id = t.id)`)
  return rows.map(({ id }) => id)
}

/** Whether the tenant is large and has no map, or as many changes were entered into it as there were users: half of it is of the past. */
async function isMapDue(db: Db, tenantId: string, { least }: ZoneSizes): Promise<boolean> {
  const [row] = await db.query<{ due: boolean }>(
    `select coalesce(
       (select bool_or(changes >= users) from search_zone_maps where tenant_id = $1),
       (select count(*) >= $2 from (select from user_list where tenant_id = $1 and state = 'active' limit $2) as first_ones)
     ) as due`,
    [tenantId, least],
  )
  return row?.due === true
}

/** Answers how many maps were drawn. */
async function drawMaps(db: Db, tenantId: string, sizes: ZoneSizes): Promise<number> {
  return db.transaction(async (tx) => {
    await tx.query('set transaction isolation level repeatable read')
    if (!(await isMine(tx))) return 0
    const [row] = await tx.query<{ users: number }>(
      "select count(*)::int as users from user_list where tenant_id = $1 and state = 'active'",
      [tenantId],
    )
    const users = row?.users ?? 0
    const maps = []
    for (const sort of ZONE_SORTS) maps.push(await drawMap(tx, tenantId, sort, zoneSizeOf(users, sizes.zone)))
    const all = { sql: 'select name, email, text from user_search where tenant_id = $1', params: [tenantId] }
    for await (const rows of readRows<SearchRow>(tx, all)) for (const map of maps) map.enter(rows)
    for (const { sort, bounds, bits } of maps) {
      await tx.query(
        `insert into search_zone_maps (tenant_id, sort, bounds, users) values ($1, $2, $3, $4)
         on conflict (tenant_id, sort) do update set
           bounds = excluded.bounds, users = excluded.users, changes = 0, drawn_at = lockstep_now()`,
        [tenantId, sort, bounds, users],
      )
      await saveBits(tx, tenantId, sort, bits, ALL_CHUNKS)
    }
    // Those that are seen here; what was noted meanwhile stays.
    await tx.query('delete from search_zone_changes where tenant_id = $1', [tenantId])
    return maps.length
  })
}

/** Enters what changed, where there is a map; with `isKept` what cannot be entered yet stays. Answers of how many users. */
async function enterChanges(
  db: Db,
  tenantId: string,
  signal: AbortSignal | undefined,
  isKept: boolean,
): Promise<number> {
  for (let entered = 0; ; ) {
    const count = await db.transaction(async (tx) => {
      if (!(await isMine(tx))) return 0
      const maps = await tx.query<{ sort: ZoneSort; bounds: string[] }>(
        'select sort, bounds from search_zone_maps where tenant_id = $1',
        [tenantId],
      )
      if (maps.length === 0 && isKept) return 0
      const changes = await tx.query<{ id: string; userId: string }>(
        `delete from search_zone_changes where tenant_id = $1 and id in (
           select id from search_zone_changes where tenant_id = $1 order by id limit $2
         ) returning id, user_id as "userId"`,
        [tenantId, BATCH],
      )
      if (maps.length === 0 || changes.length === 0) return changes.length
      // Read after the change was seen, so that it is in there.
      const rows = await tx.query<SearchRow>('select name, email, text from user_search where user_id = any($1)', [
        changes.map(({ userId }) => userId),
      ])
      for (const { sort, bounds } of maps) {
        const map = openMap(sort, bounds, await loadBits(tx, tenantId, sort, bounds.length + 1))
        await saveBits(tx, tenantId, sort, map.bits, map.enter(rows))
      }
      await tx.query('update search_zone_maps set changes = changes + $2 where tenant_id = $1', [
        tenantId,
        changes.length,
      ])
      return changes.length
    })
    entered += count
    if (count < BATCH || signal?.aborted === true) return entered
  }
}

async function isMine(tx: Db): Promise<boolean> {
  const [row] = await tx.query<{ mine: boolean }>('select pg_try_advisory_xact_lock($1) as mine', [LOCK_KEY])
  return row?.mine === true
}

/** What zones are made of. */
interface SearchRow {
  name: string
  email: string
  text: string
}

interface OpenMap {
  sort: ZoneSort
  bounds: string[]
  bits: ZoneBits
  /** Answers which rows of `search_zones` have news. */
  enter(rows: SearchRow[]): Set<number>
}

function openMap(sort: ZoneSort, bounds: string[], bits: ZoneBits): OpenMap {
  const bytes = bounds.map((bound) => Buffer.from(bound))
  return {
    sort,
    bounds,
    bits,
    enter(rows) {
      const chunks = new Set<number>()
      for (const row of rows) {
        const zone = zoneOf(bytes, row[sort])
        hashPieces(row.text, (hash) => {
          if (bits.add(hash, zone)) chunks.add(hash >> CHUNK.bits)
        })
      }
      return chunks
    },
  }
}

async function drawMap(tx: Db, tenantId: string, sort: ZoneSort, size: number): Promise<OpenMap> {
  const drawer = drawBounds(size)
  const inOrder = {
    sql: `select ${sort} as key from user_list where tenant_id = $1 and state = 'active' order by ${sort}`,
    params: [tenantId],
  }
  for await (const rows of readRows<{ key: string }>(tx, inOrder)) for (const { key } of rows) drawer.add(key)
  const bounds = drawer.bounds()
  return openMap(sort, bounds, new ZoneBits(bounds.length + 1))
}

/** The rows of a query, a batch at a time. */
async function* readRows<Row extends object>(
  tx: Db,
  { sql, params }: { sql: string; params: unknown[] },
): AsyncGenerator<Row[]> {
  await tx.query(`declare zone_rows no scroll cursor for ${sql}`, params)
  for (;;) {
    const rows = await tx.query<Row>(`fetch ${BATCH} from zone_rows`)
    yield rows
    if (rows.length < BATCH) break
  }
  await tx.query('close zone_rows')
}

const ALL_CHUNKS: ReadonlySet<number> = new Set(Array.from({ length: CHUNK.hashes }, (_, chunk) => chunk))

/** Rows of `search_zones` that are written by one statement. */
const SAVED_AT_ONCE = 32

async function saveBits(
  tx: Db,
  tenantId: string,
  sort: ZoneSort,
  bits: ZoneBits,
  chunks: ReadonlySet<number>,
): Promise<void> {
  const all = [...chunks]
  for (let from = 0; from < all.length; from += SAVED_AT_ONCE) {
    const some = all.slice(from, from + SAVED_AT_ONCE)
    await tx.query(
      `insert into search_zones (tenant_id, sort, chunk, bits)
       select $1, $2, chunk, bits::varbit from unnest($3::int[], $4::text[]) as t (chunk, bits)
       on conflict (tenant_id, sort, chunk) do update set bits = excluded.bits`,
      [tenantId, sort, some, some.map((chunk) => `x${bits.slice(chunk << CHUNK.bits, CHUNK.hashes).toString('hex')}`)],
    )
  }
}

async function loadBits(tx: Db, tenantId: string, sort: ZoneSort, zones: number): Promise<ZoneBits> {
  const bits = new ZoneBits(zones)
  // As it is sent by the server in binary: four bytes that tell the length, and the bits.
  const rows = await tx.query<{ chunk: number; bits: Buffer }>(
    'select chunk, substring(varbit_send(bits) from 5) as bits from search_zones where tenant_id = $1 and sort = $2',
    [tenantId, sort],
  )
  for (const row of rows) row.bits.copy(bits.slice(row.chunk << CHUNK.bits, CHUNK.hashes))
  return bits
}
