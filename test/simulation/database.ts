import pg from 'pg'
import { currentTask, type Scheduler, type Task } from './scheduler.js'

/** The database broke off the connection, as far as the client can tell. */
class BrokenConnection extends Error {
  readonly code = '57P01'
  constructor() {
    super('simulated: the connection was lost')
  }
}

/** The statement of a victim of a deadlock is ended by hand; see {@link Overseer.breakDeadlock}. */
const CANCELED = '57014'
const DEADLOCK = '40P01'

/** The dead get no answers. */
const NEVER = new Promise<never>(() => {})

const RESETS_TIME = /^(rollback|begin|commit)\b/i

interface SimClient extends pg.PoolClient {
  processID: number
}

/** What the connections of a process need of the world. */
interface Hooks {
  scheduler: Scheduler
  /** Milliseconds since the Unix epoch. */
  now(): number
  /** Resolves when these server processes are gone. */
  gone(backends: number[]): Promise<void>
}

/**
 * A real pool of real connections, each statement of which is a point where the scheduler may stop, break or crash the task.
 * The time of its sessions (`lockstep.now`) is the world's.
 */
export class SimPool extends pg.Pool {
  readonly #hooks: Hooks
  readonly #patched = new WeakSet<pg.PoolClient>()
  /** Who has which connection. */
  readonly #users = new Map<SimClient, Task | undefined>()
  readonly #open = new Set<SimClient>()

  constructor(url: string, name: string, hooks: Hooks) {
    super({
      connectionString: url,
      max: 40,
      idleTimeoutMillis: 0,
      application_name: name,
      // Which statement a deadlock ends is the scheduler's to say.
      options: '-c deadlock_timeout=1h -c synchronous_commit=off -c jit=off',
    })
    this.#hooks = hooks
    this.on('error', () => {})
  }

  /** Which server process works for which task. */
  *busy(): Iterable<[backend: number, task: Task]> {
    for (const [client, task] of this.#users) if (task !== undefined) yield [client.processID, task]
  }

  /** All of its server processes. */
  backends(): number[] {
    return [...this.#open].map((client) => client.processID)
  }

  /** Breaks every connection, as the death of the process does. */
  destroy(): void {
    for (const client of this.#open) streamOf(client).destroy()
  }

  override connect(): Promise<pg.PoolClient>
  override connect(callback: (...args: Parameters<Parameters<pg.Pool['connect']>[0]>) => void): void
  override connect(callback?: Parameters<pg.Pool['connect']>[0]): Promise<pg.PoolClient> | undefined {
    if (callback !== undefined) throw new Error('the pool of the simulation is used with promises')
    if (currentTask()?.owner.isDead === true) return NEVER
    return super.connect().then((given) => {
      const client = given as SimClient
      this.#patch(client)
      this.#users.set(client, currentTask())
      const release = client.release.bind(client)
      client.release = (error?: Error | boolean) => {
        this.#users.delete(client)
        release(error)
      }
      return client
    })
  }

  // pg's own goes by callbacks.
  override query = (async (...args: [unknown, unknown[]?]) => {
    const client = await this.connect()
    try {
      const result = await (client.query as (...a: unknown[]) => Promise<unknown>)(...args)
      client.release()
      return result
    } catch (error) {
      client.release(error instanceof BrokenConnection ? error : undefined)
      throw error
    }
  }) as pg.Pool['query']

  async #break(client: SimClient): Promise<void> {
    streamOf(client).destroy()
    this.#open.delete(client)
    await this.#hooks.gone([client.processID])
  }

  #patch(client: SimClient): void {
    if (this.#patched.has(client)) return
    this.#patched.add(client)
    this.#open.add(client)
    client.on('error', () => {})
    client.on('end', () => this.#open.delete(client))
    const send = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>
    let time: number | null = null
    const query = async (...args: unknown[]) => {
      const text = textOf(args[0])
      const verdict = await this.#hooks.scheduler.point('database', text)
      if (verdict === 'fail') {
        await this.#break(client)
        throw new BrokenConnection()
      }
      const now = this.#hooks.now()
      if (RESETS_TIME.test(text)) time = null
      else if (time !== now) {
        await send('select set_config($1, $2, false)', ['lockstep.now', new Date(now).toISOString()])
        time = now
      }
      const result = await send(...args)
        .catch((error: { code?: unknown }) => {
          if (error.code === CANCELED) error.code = DEADLOCK
          throw error
        })
        .finally(() => (currentTask()?.owner.isDead === true ? NEVER : undefined))
      if (verdict === 'fail-late') {
        await this.#break(client)
        throw new BrokenConnection()
      }
      return result
    }
    client.query = query as pg.PoolClient['query']
  }
}

function streamOf(client: pg.PoolClient): { destroy(): void } {
  return (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream
}

function textOf(query: unknown): string {
  const text = typeof query === 'string' ? query : ((query as { text?: unknown } | null)?.text ?? '')
  return String(text)
}

/** The world's own connections: they prepare, look and count, and are never stopped. */
export class Overseer {
  readonly #pool: pg.Pool

  private constructor(pool: pg.Pool) {
    this.#pool = pool
  }

  static async connect(url: string): Promise<Overseer> {
    const pool = new pg.Pool({
      connectionString: url,
      max: 4,
      application_name: 'overseer',
      options: '-c synchronous_commit=off',
    })
    pool.on('error', () => {})
    const overseer = new Overseer(pool)
    await overseer.#prepare()
    return overseer
  }

  async query<Row extends object>(sql: string, params: unknown[] = []): Promise<Row[]> {
    return (await this.#pool.query<Row & pg.QueryResultRow>(sql, params)).rows
  }

  close(): Promise<void> {
    return this.#pool.end()
  }

  /** What makes a copy of the database fit for a simulation: ids in order instead of at random, and a history of the rows. */
  async #prepare(): Promise<void> {
    await this.#pool.query(`
      create sequence if not exists simulation_id;
      create sequence if not exists simulation_seq;
      create or replace function lockstep_uuidv7() returns uuid language sql volatile as $$
        select ('00000000-0000-7000-8000-' || lpad(to_hex(nextval('simulation_id')), 12, '0'))::uuid
      $$;
      create table if not exists simulation_history (
        seq bigint primary key default nextval('simulation_seq'), who text, old jsonb, new jsonb
      );
      create or replace function simulation_record() returns trigger language plpgsql as $$
      begin
        insert into simulation_history (who, old, new) values (
          current_setting('application_name'),
          case when tg_op <> 'INSERT' then to_jsonb(old) end,
          case when tg_op <> 'DELETE' then to_jsonb(new) end
        );
        return null;
      end $$;
      create or replace trigger simulation_history after insert or update or delete on users
        for each row execute function simulation_record();
      create table if not exists simulation_bases (
        seq bigint primary key default nextval('simulation_seq'), user_id uuid, base jsonb
      );
      create or replace function simulation_record_base() returns trigger language plpgsql as $$
      begin
        insert into simulation_bases (user_id, base) values (new.user_id, new.base);
        return null;
      end $$;
      create or replace trigger simulation_bases after insert or update of base on sync_state
        for each row execute function simulation_record_base();
      -- A vacuum at a time of its own choosing changes the order of rows, and an analyze the plans.
      do $$ declare name text; begin
        for name in select quote_ident(tablename) from pg_tables where schemaname = 'public' loop
          execute format('alter table %s set (autovacuum_enabled = false)', name);
        end loop;
      end $$;
      create table if not exists simulation_tenant as select * from tenants where slug = 'default';
    `)
  }

  /** An empty database, as after the first start. Physically so too: even the order of rows is that of a first run. */
  async clean(): Promise<void> {
    const tables = await this.query<{ name: string }>(
      `select quote_ident(tablename) as name from pg_tables
       where schemaname = 'public' and tablename <> '_prisma_migrations' and tablename <> 'simulation_tenant'`,
    )
    await this.#pool.query(`
      select set_config('lockstep.audit_retention', 'on', true);
      truncate ${tables.map(({ name }) => name).join(', ')};
      insert into tenants overriding user value select * from simulation_tenant;
      select setval('simulation_id', 1, false), setval('simulation_seq', 1, false);
    `)
  }

  /** The place of this moment in the order of all edits. */
  async nextSeq(): Promise<number> {
    const [row] = await this.query<{ seq: string }>(`select nextval('simulation_seq')::text as seq`)
    return Number(row?.seq)
  }

  /** For each of these server processes that waits for a lock: the processes that it waits for. */
  async lockWaits(backends: number[]): Promise<Map<number, number[]>> {
    if (backends.length === 0) return new Map()
    const rows = await this.query<{ pid: number; blockers: number[] }>(
      `select pid, blockers from (select pid, pg_blocking_pids(pid) as blockers from unnest($1::integer[]) as pid) as waits
       where cardinality(blockers) > 0`,
      [backends],
    )
    return new Map(rows.map((row) => [row.pid, row.blockers]))
  }

  /** Ends the statement of a process, whose client takes that for a deadlock. */
  async breakDeadlock(backend: number): Promise<void> {
    await this.query('select pg_cancel_backend($1)', [backend])
  }

  /** Resolves when these server processes are gone, and with them their transactions and locks. */
  async gone(backends: number[]): Promise<void> {
    for (const backend of backends) signal(backend, 'SIGCONT')
    await this.query('select pg_terminate_backend(pid) from pg_stat_activity where pid = any($1)', [backends])
    for (;;) {
      const rows = await this.query('select from pg_stat_activity where pid = any($1)', [backends])
      if (rows.length === 0) return
    }
  }
}

/**
 * Stops a server process or lets it go on. It may be stopped only while it waits for a lock, when it holds nothing that the
 * server itself needs. A server on another machine goes its own way: then a seed is not always the same run.
 */
export function signal(backend: number, what: 'SIGSTOP' | 'SIGCONT'): void {
  if (what === 'SIGSTOP') stopped.add(backend)
  else if (!stopped.delete(backend)) return
  try {
    process.kill(backend, what)
  } catch {
    stopped.delete(backend)
  }
}

/** No server could shut down with them. */
const stopped = new Set<number>()
process.on('exit', () => {
  for (const backend of stopped) signal(backend, 'SIGCONT')
})
