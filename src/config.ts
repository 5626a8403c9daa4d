import { resolve } from 'node:path'
import type { TSchema } from 'typebox'
import { Value } from 'typebox/value'
import { Environment, type Notes, type Values, type Variable, type VariableSchema, variables } from './environment.js'
import { LockstepError } from './lib/errors.js'

/** The whole configuration, checked and frozen. `null` is what was left to Lockstep to provide. */
export interface Config {
  readonly production: boolean
  readonly host: string
  readonly port: number
  readonly logLevel: string
  readonly databaseUrl: string | null
  /** Where lists are read from while it is not further behind; null: nowhere else. */
  readonly replica: { readonly url: string; readonly mostLagMs: number } | null
  readonly redisUrl: string | null
  readonly queue: 'redis' | 'postgres'
  /** Absolute. */
  readonly dataDir: string
  readonly simulatorPort: number
  readonly embedded: { readonly postgres: boolean; readonly simulator: boolean }
  readonly stripe: {
    readonly secretKey: string | null
    /** Empty if the simulator's is to be generated. */
    readonly webhookSecrets: readonly string[]
    /** An origin without a trailing slash; `null` for api.stripe.com, or the simulator. */
    readonly apiBase: string | null
    readonly livemode: boolean
    /** Calls per second to one account, by the mode of its key, and of one operation. */
    readonly rates: { readonly live: number; readonly test: number; readonly operation: number }
  }
  readonly adminKey: string | null
  readonly encryptionKey: string | null
  readonly concurrency: number
  /** Seconds. */
  readonly webhookTolerance: number
  /** Bytes. */
  readonly bodyLimit: number
  /** Of a file of customers, in bytes. */
  readonly importLimit: number
  /** Requests that one API key may send in a minute. */
  readonly apiRate: number
  /** Requests that one process works on at a time. */
  readonly apiConcurrency: number
  /** Whether requests work under row-level security; `auto`: when there is more than one tenant at the start. */
  readonly rowSecurity: 'on' | 'off' | 'auto'
  /** Addresses of proxies, with commas between. */
  readonly trustProxy: string | null
  /** Whose JWTs are taken; null: nobody's. */
  readonly jwt: { readonly issuer: string; readonly audience: string; readonly jwksUrl: string } | null
}

/** One mistake in the configuration. */
export interface ConfigProblem {
  name: string
  message: string
}

/** The environment cannot be used. Names every variable that is wrong or missing, and what to do; shows no secret. */
export class ConfigError extends LockstepError {
  readonly problems: readonly ConfigProblem[]

  constructor(problems: readonly ConfigProblem[]) {
    const lines = problems.map(({ name, message }) => `  ${name}: ${message}`)
    super(
      `The configuration has ${problems.length === 1 ? 'a mistake' : `${problems.length} mistakes`}:\n${lines.join('\n')}`,
      {
        code: 'config_invalid',
      },
    )
    this.problems = problems
  }
}

function describeMistake(name: Variable, notes: Notes, value: string): string {
  if (name === 'STRIPE_SECRET_KEY' && value.startsWith('pk_')) {
    return 'is a publishable key (pk_…), which cannot read customers. Use the secret key beside it, sk_….'
  }
  return `${notes.secret ? 'it' : JSON.stringify(value)} must be ${notes.expected}. ${notes.remedy}`
}

/** Rules between variables. */
function findContradictions(env: Values, production: boolean): ConfigProblem[] {
  const problems: ConfigProblem[] = []
  for (const name of ['LOCKSTEP_JWT_AUDIENCE', 'LOCKSTEP_JWT_JWKS_URL'] as const) {
    if (env[name] === undefined || env.LOCKSTEP_JWT_ISSUER !== undefined) continue
    problems.push({ name, message: 'is set without LOCKSTEP_JWT_ISSUER. Set that too, or leave this out.' })
  }
  if (env.DATABASE_REPLICA_URL !== undefined && env.DATABASE_URL === undefined) {
    problems.push({
      name: 'DATABASE_REPLICA_URL',
      message: 'is set without DATABASE_URL, whose replica it is to be. Set that too, or leave this out.',
    })
  }
  if (env.LOCKSTEP_REPLICA_LAG !== undefined && env.DATABASE_REPLICA_URL === undefined) {
    problems.push({
      name: 'LOCKSTEP_REPLICA_LAG',
      message: 'is set without DATABASE_REPLICA_URL. Set that too, or leave this out.',
    })
  }
  if (production) {
    for (const [name, notes] of variables) {
      if (notes.required && env[name] === undefined) {
        problems.push({ name, message: `is missing; nothing is embedded with NODE_ENV=production. ${notes.remedy}` })
      }
    }
    return problems
  }
  if (env.STRIPE_SECRET_KEY !== undefined && env.STRIPE_WEBHOOK_SECRET === undefined) {
    const { remedy } = Environment.properties.STRIPE_WEBHOOK_SECRET as unknown as Notes
    problems.push({
      name: 'STRIPE_WEBHOOK_SECRET',
      message: `is missing, but STRIPE_SECRET_KEY is set: what that account's webhook sends could not be checked. ${remedy}`,
    })
  }
  if (env.STRIPE_API_BASE !== undefined && env.STRIPE_SECRET_KEY === undefined) {
    problems.push({
      name: 'STRIPE_SECRET_KEY',
      message:
        'is missing, but STRIPE_API_BASE is set. Set the key that this host takes (a simulator takes any sk_test_…), ' +
        'or leave STRIPE_API_BASE out to use the embedded simulator.',
    })
  }
  return problems
}

function isLoopback(origin: string): boolean {
  return /^https?:\/\/(localhost|127\.|\[::1\])/.test(origin)
}

function ratesOf(env: Values): Config['stripe']['rates'] {
  const { STRIPE_SECRET_KEY: key, STRIPE_API_BASE: base, LOCKSTEP_STRIPE_RATE: rate } = env
  const isSimulator = key === undefined || (base !== undefined && isLoopback(base))
  const live = rate ?? 80
  return Object.freeze({
    live,
    test: rate ?? (isSimulator ? 80 : 20),
    operation: env.LOCKSTEP_STRIPE_OPERATION_RATE ?? (isSimulator ? live : 25),
  })
}

function jwtOf(env: Values): Config['jwt'] {
  const issuer = env.LOCKSTEP_JWT_ISSUER
  if (issuer === undefined) return null
  return Object.freeze({
    issuer,
    audience: env.LOCKSTEP_JWT_AUDIENCE ?? 'lockstep',
    jwksUrl: env.LOCKSTEP_JWT_JWKS_URL ?? `${issuer.replace(/\/$/, '')}/.well-known/jwks.json`,
  })
}

function assemble(env: Values, production: boolean): Config {
  const key = env.STRIPE_SECRET_KEY ?? null
  const secrets = (env.STRIPE_WEBHOOK_SECRET ?? '').split(',').map((secret) => secret.trim())
  const { properties } = Environment
  const or = <T>(value: T | undefined, schema: TSchema): T => value ?? (schema as unknown as { default: T }).default
  return Object.freeze({
    production,
    host: or(env.HOST, properties.HOST),
    port: or(env.PORT, properties.PORT),
    logLevel: or(env.LOG_LEVEL, properties.LOG_LEVEL),
    databaseUrl: env.DATABASE_URL ?? null,
    replica:
      env.DATABASE_REPLICA_URL === undefined
        ? null
        : Object.freeze({
            url: env.DATABASE_REPLICA_URL,
            mostLagMs: or(env.LOCKSTEP_REPLICA_LAG, properties.LOCKSTEP_REPLICA_LAG) * 1_000,
          }),
    redisUrl: env.REDIS_URL ?? null,
    queue: env.REDIS_URL === undefined ? 'postgres' : 'redis',
    dataDir: resolve(or(env.LOCKSTEP_DATA_DIR, properties.LOCKSTEP_DATA_DIR)),
    simulatorPort: or(env.LOCKSTEP_SIMULATOR_PORT, properties.LOCKSTEP_SIMULATOR_PORT),
    embedded: Object.freeze({ postgres: env.DATABASE_URL === undefined, simulator: key === null }),
    stripe: Object.freeze({
      secretKey: key,
      webhookSecrets: Object.freeze(secrets.filter((secret) => secret !== '')),
      apiBase: env.STRIPE_API_BASE?.replace(/\/$/, '') ?? null,
      livemode: key?.includes('_live_') ?? false,
      rates: ratesOf(env),
    }),
    adminKey: env.LOCKSTEP_ADMIN_KEY ?? null,
    encryptionKey: env.LOCKSTEP_ENCRYPTION_KEY ?? null,
    concurrency: or(env.LOCKSTEP_CONCURRENCY, properties.LOCKSTEP_CONCURRENCY),
    webhookTolerance: or(env.LOCKSTEP_WEBHOOK_TOLERANCE, properties.LOCKSTEP_WEBHOOK_TOLERANCE),
    bodyLimit: or(env.LOCKSTEP_BODY_LIMIT, properties.LOCKSTEP_BODY_LIMIT),
    importLimit: or(env.LOCKSTEP_IMPORT_LIMIT, properties.LOCKSTEP_IMPORT_LIMIT),
    apiRate: or(env.LOCKSTEP_API_RATE, properties.LOCKSTEP_API_RATE),
    apiConcurrency: or(env.LOCKSTEP_API_CONCURRENCY, properties.LOCKSTEP_API_CONCURRENCY),
    rowSecurity: or(env.LOCKSTEP_ROW_SECURITY, properties.LOCKSTEP_ROW_SECURITY) as Config['rowSecurity'],
    trustProxy: env.LOCKSTEP_TRUST_PROXY?.replaceAll(' ', '') ?? null,
    jwt: jwtOf(env),
  })
}

/** Whether it also parses: the patterns cannot tell a port out of range. */
function isUrlIfPatternSays(notes: VariableSchema, value: unknown): boolean {
  return !notes.pattern?.includes('://') || URL.canParse(String(value))
}

/**
 * Reads and checks the environment as a whole. An empty variable counts as absent, as in Docker's `--env NAME=`.
 *
 * @throws {ConfigError} with all mistakes at once.
 */
export function loadConfig(env: Record<string, string | undefined>): Config {
  const production = env.NODE_ENV === 'production'
  const problems: ConfigProblem[] = []
  const values: Record<string, string | number> = {}

  for (const [name, notes] of variables) {
    const given = env[name]?.trim()
    if (given === undefined || given === '') continue
    const value = notes.type === 'integer' && /^\d+$/.test(given) ? Number(given) : given
    values[name] = value
    if (Value.Check(notes, value) && isUrlIfPatternSays(notes, value)) continue
    problems.push({ name, message: describeMistake(name, notes, given) })
  }
  const known = new Set<string>(variables.map(([name]) => name))
  for (const name of Object.keys(env).filter((name) => name.startsWith('LOCKSTEP_') && !known.has(name))) {
    const names = [...known].filter((other) => other.startsWith('LOCKSTEP_')).join(', ')
    problems.push({ name, message: `is no setting of Lockstep. Correct the name or remove it; there are ${names}.` })
  }
  problems.push(...findContradictions(values as Values, production))
  if (problems.length > 0) throw new ConfigError(problems)
  return assemble(values as Values, production)
}

/** The configuration of this process. Nothing else reads `process.env`. */
export function readConfig(): Config {
  return loadConfig(process.env)
}
