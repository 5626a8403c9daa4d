import { type Static, type TSchema, Type } from 'typebox'

/** What the table says about a variable, beside its type and default: `expected` and `remedy` complete error messages. */
export interface Notes {
  description: string
  /** What is so while it is absent, where that is no plain default. */
  fallback?: string
  /** Ends the sentence "PORT must be …". */
  expected: string
  /** What to do about a wrong or missing one. */
  remedy: string
  /** Its value never appears in a message. */
  secret?: boolean
  /** Whether production refuses to start without it. */
  required?: boolean
  default?: string | number
}

/** A row: JSON Schema with our notes. */
export type VariableSchema = TSchema & Notes & { type: string; pattern?: string }

const text = (notes: Notes, pattern?: string) =>
  Type.Optional(Type.String({ ...notes, ...(pattern ? { pattern } : {}) }))
const whole = (minimum: number, maximum: number, notes: Omit<Notes, 'expected'>) =>
  Type.Optional(Type.Integer({ minimum, maximum, expected: `a whole number from ${minimum} to ${maximum}`, ...notes }))

/**
 * Every environment variable that Lockstep reads. The README's table and `.env.example` are made from this. `LOCKSTEP_*` names
 * that are not here stop the start, since they are misspelt.
 */
export const Environment = Type.Object({
  PORT: whole(0, 65535, { description: 'Port of the API; 0 picks a free one.', default: 3000, remedy: 'Set a port.' }),
  HOST: text({
    description: 'Address that the API listens on; `0.0.0.0` for all.',
    default: '127.0.0.1',
    expected: 'an address',
    remedy: 'Set an IP address or a host name of this machine.',
  }),
  LOG_LEVEL: text(
    {
      description:
        'Least severe log line that is written: `trace`, `debug`, `info`, `warn`, `error`, `fatal` or `silent`.',
      default: 'info',
      expected: 'trace, debug, info, warn, error, fatal or silent',
      remedy: 'Set one of these.',
    },
    '^(trace|debug|info|warn|error|fatal|silent)$',
  ),
  NODE_ENV: text({
    description: 'With `production` nothing is embedded: a missing variable is an error.',
    fallback: 'development',
    expected: 'a word',
    remedy: 'Set `production` or leave it out.',
  }),
  DATABASE_URL: text(
    {
      description: 'The Postgres that holds the users and their sync state.',
      fallback: 'embedded Postgres',
      expected: 'a connection string like postgresql://user:password@host:5432/database',
      remedy: 'Set the connection string of your Postgres.',
      secret: true,
      required: true,
    },
    '^postgres(ql)?://[^\\s]+$',
  ),
  DATABASE_REPLICA_URL: text(
    {
      description:
        'A streaming replica of that Postgres, from which lists, searches and exports are read. One server, not a balancer before several.',
      fallback: 'they are read from `DATABASE_URL`',
      expected: 'a connection string like postgresql://user:password@host:5432/database',
      remedy:
        'Set the connection string of the replica, for the same database and with the same user, or leave it out.',
      secret: true,
    },
    '^postgres(ql)?://[^\\s]+$',
  ),
  LOCKSTEP_REPLICA_LAG: whole(1, 3_600, {
    description: 'Seconds that the replica may be behind; while it is further, lists are read from `DATABASE_URL`.',
    default: 5,
    remedy: 'Set how old a list may be.',
  }),
  REDIS_URL: text(
    {
      description: 'Redis for the queue, the limits of requests and the pace of calls to Stripe.',
      fallback: 'all of it on Postgres',
      expected: 'a URL like redis://host:6379 or rediss://user:password@host:6380/0',
      remedy: 'Correct it, or leave it out to keep the queue on Postgres.',
      secret: true,
    },
    '^rediss?://[^\\s]+$',
  ),
  STRIPE_SECRET_KEY: text(
    {
      description: 'Key of the Stripe account: `sk_…`, or `rk_…` that may write customers and read events.',
      fallback: 'embedded Stripe simulator',
      expected: 'a secret or restricted key, sk_test_…, sk_live_…, rk_test_… or rk_live_…',
      remedy: 'Copy it from https://dashboard.stripe.com/apikeys.',
      secret: true,
      required: true,
    },
    '^(sk|rk)_(test|live)_\\w+$',
  ),
  STRIPE_WEBHOOK_SECRET: text(
    {
      description: 'Signing secret of the webhook endpoint, `whsec_…`; several with commas while one replaces another.',
      fallback: "the simulator's, generated",
      expected: 'one or more signing secrets, whsec_…, with commas between',
      remedy:
        'Copy it from the endpoint at https://dashboard.stripe.com/webhooks, or from what `stripe listen` prints.',
      secret: true,
      required: true,
    },
    '^\\s*whsec_[^\\s,]+(\\s*,\\s*whsec_[^\\s,]+)*\\s*,?\\s*$',
  ),
  STRIPE_API_BASE: text(
    {
      description: 'Another host that speaks Stripe, such as a simulator elsewhere.',
      fallback: '`https://api.stripe.com`, or the simulator',
      expected: 'an origin like http://127.0.0.1:12111, without a path',
      remedy: 'Correct it, or leave it out.',
    },
    '^https?://[^\\s/?#@]+/?$',
  ),
  LOCKSTEP_STRIPE_RATE: whole(1, 10_000, {
    description: 'Calls per second to one Stripe account, by all processes together.',
    fallback: '80 with a live key or a simulator, 20 with a test key',
    remedy: "Stay below your account's limit: 100 in live mode and 25 in test mode, unless Stripe raised it.",
  }),
  LOCKSTEP_STRIPE_OPERATION_RATE: whole(1, 10_000, {
    description: 'The same for one operation, such as listing customers.',
    fallback: '25; with a simulator `LOCKSTEP_STRIPE_RATE`',
    remedy: 'Set 25, which is what Stripe allows, unless it raised that for your account.',
  }),
  LOCKSTEP_SIMULATOR_PORT: whole(0, 65535, {
    description: 'Port of the embedded Stripe simulator; 0 picks a free one.',
    default: 12111,
    remedy: 'Set a port.',
  }),
  LOCKSTEP_DATA_DIR: text({
    description: 'Where what is embedded keeps its files.',
    default: '.lockstep',
    expected: 'a path',
    remedy: 'Set a folder that can be written.',
  }),
  LOCKSTEP_ADMIN_KEY: text(
    {
      description: 'An API key with every right, for the default tenant.',
      fallback: 'generated once, printed once',
      expected: '32 to 512 characters without spaces',
      remedy: 'Make one by `openssl rand -hex 32`, or leave it out to have one generated.',
      secret: true,
    },
    '^[^\\s]{32,512}$',
  ),
  LOCKSTEP_ENCRYPTION_KEY: text(
    {
      description:
        'Encrypts secrets and records of people in the database: 32 bytes as base64 or hex. Keep it; what it encrypted is lost ' +
        'with it. To replace it put the new one first and the old one after a comma, and run `npx lockstep rotate-encryption`.',
      fallback: 'generated into the data directory',
      expected: '32 bytes as base64 or hex, or several of them with commas between',
      remedy: 'Make one by `openssl rand -base64 32` and keep it with your secrets.',
      secret: true,
      required: true,
    },
    '^\\s*([0-9a-fA-F]{64}|[A-Za-z0-9+/_-]{43}=?)(\\s*,\\s*([0-9a-fA-F]{64}|[A-Za-z0-9+/_-]{43}=?))*\\s*$',
  ),
  LOCKSTEP_CONCURRENCY: whole(1, 1_000, {
    description: 'Users that one process reconciles at once.',
    default: 32,
    remedy: 'Set how many at once, or leave it out.',
  }),
  LOCKSTEP_WEBHOOK_TOLERANCE: whole(1, 86_400, {
    description: 'Age in seconds at which a signed webhook delivery is refused as a replay.',
    default: 300,
    remedy: 'Set seconds, or leave it out.',
  }),
  LOCKSTEP_API_RATE: whole(1, 10_000_000, {
    description: 'Requests that one API key may send in a minute; more are answered 429.',
    default: 6_000,
    remedy: 'Set requests a minute, or leave it out.',
  }),
  LOCKSTEP_API_CONCURRENCY: whole(1, 100_000, {
    description: 'Requests of the API that one process has under way at a time; more are answered 503.',
    default: 200,
    remedy: 'Set how many at a time, or leave it out.',
  }),
  LOCKSTEP_TRUST_PROXY: text(
    {
      description: 'Addresses or networks of the proxies in front, with commas: their `X-Forwarded-For` is believed.',
      fallback: 'none: the address that connects is the client',
      expected: 'IP addresses or networks like 10.0.0.0/8, with commas between',
      remedy: 'Set the addresses of your proxies, or leave it out.',
    },
    '^[0-9a-fA-F.:/, ]+$',
  ),
  LOCKSTEP_ROW_SECURITY: text(
    {
      description:
        "Whether requests read and write under Postgres' row-level security (`on`, `off` or `auto`): a second wall between tenants, where the " +
        'database lets it be set up, at about half of the throughput of plain reads. `auto`: from the first start on that finds more than one tenant.',
      default: 'auto',
      expected: 'on, off or auto',
      remedy: 'Set one of these, or leave it out.',
    },
    '^(on|off|auto)$',
  ),
  LOCKSTEP_JWT_ISSUER: text(
    {
      description: 'Takes JWTs of this issuer (`iss`) beside API keys.',
      fallback: 'API keys only',
      expected: 'a URL like https://login.example.com/, as the tokens have it',
      remedy: 'Copy it from a token, or leave it out.',
    },
    '^https?://[^\\s]+$',
  ),
  LOCKSTEP_JWT_AUDIENCE: text({
    description: 'The audience (`aud`) that its tokens must name.',
    fallback: '`lockstep`',
    expected: 'a word',
    remedy: 'Set what your issuer calls this service.',
  }),
  LOCKSTEP_JWT_JWKS_URL: text(
    {
      description: 'Where its public keys are.',
      fallback: '`.well-known/jwks.json` of the issuer',
      expected: 'a URL',
      remedy: 'Copy `jwks_uri` from the issuer’s metadata, or leave it out.',
    },
    '^https?://[^\\s]+$',
  ),
  LOCKSTEP_BODY_LIMIT: whole(1_024, 104_857_600, {
    description: 'Largest request body, in bytes.',
    default: 1_048_576,
    remedy: 'Set bytes, or leave it out.',
  }),
  LOCKSTEP_IMPORT_LIMIT: whole(1_024, 10_737_418_240, {
    description: 'Largest file that may be sent to `POST /customers/import`, in bytes.',
    default: 268_435_456,
    remedy: 'Set bytes, or leave it out.',
  }),
})

/** The variables that are set, each as its type. */
export type Values = Static<typeof Environment>
export type Variable = keyof Values

/** The table as rows. */
export const variables = Object.entries(Environment.properties) as unknown as [Variable, VariableSchema][]

/** The variables as documentation shows them, in order. */
export function describeVariables(): { name: string; description: string; fallback: string }[] {
  return variables.map(([name, notes]) => ({
    name,
    description: notes.description,
    fallback: notes.fallback ?? `\`${notes.default}\``,
  }))
}
